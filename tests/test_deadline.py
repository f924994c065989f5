"""--minutes: what does not fit is given up early and reported, keeps what it has, and is never passed off as whole."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import MadeOnce
from microbudget.errors import BadData, OutOfTime
from microbudget.judge.budget import Budget
from microbudget.kinds.transcription.search_space import SearchSpace
from microbudget.methods import Context
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.search.result import Shrunk
from microbudget.search.shrink import run_recipe, shrink
from microbudget.task import DataOptions
from microbudget.training.deadline import FIRST_LOOK, Clock
from microbudget.units import Drop
from quick import QUICK
from toy_seq2seq import write_recordings, write_whisper

pytestmark = pytest.mark.usefixtures("without_plots")

EXPORT = "export(format='ct2')"
TAUGHT = f"distill(decoder_layers=1, epochs=30, patience=30, batch_size=8, max_wer=1000000000.0) > {EXPORT}"


class Hands:
    """A clock that is put forward: `time.monotonic` and what was added to it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead_s, real = 0.0, time.monotonic
        patch.setattr(time, "monotonic", lambda: real() + self.ahead_s)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


def steps_until_given_up(
    hands: Hands, minutes: float, steps_s: Sequence[float], waited: int | None = 0
) -> tuple[int, str]:
    """How many steps of a loop are done before it is given up, and what is said; all of them and "" where it fits.

    waited: nanoseconds that the loop waits for a processor in each step.
    """
    total = itertools.count(step=waited) if waited is not None else None
    clock = Clock(time.monotonic() + 60 * minutes, "walking", lambda: None if total is None else next(total))
    for done, step_s in enumerate(steps_s, start=1):
        hands.ahead_s += step_s
        try:
            clock.tick(len(steps_s) - done)
        except OutOfTime as error:
            return done, str(error)
    return len(steps_s), ""


def test_what_cannot_fit_ends_after_a_few_steps(hands: Hands) -> None:
    done, message = steps_until_given_up(hands, 10, [10] * 100)
    assert done == FIRST_LOOK
    assert re.match(r"walking would take 15.* min more, and 9.* min are left; .* more --minutes", message), message


def test_what_fits_is_left_alone(hands: Hands) -> None:
    assert steps_until_given_up(hands, 10, [10] * 50) == (50, "")
    assert steps_until_given_up(hands, 10, [1200]) == (1, ""), "it is done"
    clock = Clock(None, "walking")
    hands.ahead_s += 1e9
    clock.tick(1_000_000)


def test_nothing_goes_on_after_the_deadline(hands: Hands) -> None:
    done, message = steps_until_given_up(hands, 1, [25] * 4)
    assert done == 3
    assert "the time is up in the middle of walking" in message


def test_a_loop_that_gets_slower_is_given_up_later(hands: Hands) -> None:
    done, message = steps_until_given_up(hands, 1, [0.1] * 6 + [2.0] * 94)
    assert done == 2 * FIRST_LOOK
    assert "would take" in message


MINUTE_NS = 60 * 10**9  # more than any of these loops takes between two looks


@given(
    st.floats(0.1, 0.6), st.floats(0, 1), st.floats(0.01, 0.12), st.floats(1, 12), st.sampled_from([None, MINUTE_NS])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_burst_of_other_work_ends_nothing(
    hands: Hands, needs: float, begins: float, lasts: float, slower: float, waited: int | None
) -> None:
    """A loop of 200 steps that needs a part of its time, beside other work for a part of it that makes it slower."""
    step_s, now, steps = 600 * needs / 200, 0.0, []
    for _ in range(200):
        busy = begins * 600 <= now < (begins + lasts) * 600
        steps.append(step_s * (slower if busy else 1))
        now += steps[-1]
    assert steps_until_given_up(hands, 10, steps, waited) == (200, "")


@given(st.floats(1.2, 15), st.integers(100, 1000), st.sampled_from([0, None, MINUTE_NS]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_loop_that_is_too_slow_all_the_time_costs_a_quarter_of_it_at_most(
    hands: Hands, needs: float, count: int, waited: int | None
) -> None:
    step_s = 600 * needs / count
    done, message = steps_until_given_up(hands, 10, [step_s] * count, waited)
    assert done * step_s <= max(0.25 * 600 + step_s, FIRST_LOOK * step_s)
    assert "would take" in message
    if waited == 0:
        assert done * step_s <= max(0.12 * 600, FIRST_LOOK * step_s), "nothing disturbs it: it is known sooner"


def test_a_hopeless_loop_ends_at_once_also_on_a_busy_machine(hands: Hands) -> None:
    assert steps_until_given_up(hands, 10, [1] * 100_000, MINUTE_NS)[0] == FIRST_LOOK


@pytest.mark.parametrize("waited", [0, None, MINUTE_NS])
def test_one_slow_step_is_no_reason(hands: Hands, waited: int | None) -> None:
    for slow in range(1, 40):
        steps = [1.0] * slow + [100.0] + [1.0] * (400 - slow)
        assert steps_until_given_up(hands, 10, steps, waited) == (401, "")


def test_steps_that_validate_count_in_the_estimate(hands: Hands) -> None:
    """Every fifth step takes ten times as long: a step takes 2.8 s, of which the median step knows 1."""
    done, message = steps_until_given_up(hands, 10, [1, 1, 1, 1, 10] * 60)
    assert done <= 60, message
    assert steps_until_given_up(hands, 10, [1, 1, 1, 1, 10] * 40) == (200, "")


@pytest.fixture(scope="session")
def folder(made_once: MadeOnce) -> Path:
    for name in ("torch", "transformers", "ctranslate2", "soundfile", "jiwer"):
        pytest.importorskip(name)
    shape = {"max_target_positions": 16, "max_source_positions": 150, "encoder_layers": 1, "decoder_layers": 2}
    return made_once("deadline-toy", lambda folder: write_whisper(folder, **shape))


@pytest.fixture(scope="session")
def recordings(made_once: MadeOnce) -> Path:
    return made_once("deadline-recordings", lambda folder: write_recordings(folder, 24))


def test_a_training_that_does_not_fit_is_a_row_and_goes_on_with_more_minutes(
    folder: Path, recordings: Path, tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microbudget.kinds.transcription import objective

    loss, calls = objective.loss, [0]

    def slow(*arguments: Any) -> Any:
        calls[0] += 1
        hands.ahead_s += 60
        return loss(*arguments)

    monkeypatch.setattr(objective, "loss", slow)
    monkeypatch.setattr(SearchSpace, "recipes", lambda *_: [Recipe.parse(TAUGHT), Recipe.parse(EXPORT)])
    out = tmp_path / "run"

    def command(minutes: float) -> tuple[Shrunk, str]:
        said = io.StringIO()
        limit = Budget(max_drop=Drop(0.9), minutes=minutes)
        return shrink(
            folder, recordings, limit, out=out, threads=1, progress=Progress(said, verbose=True), durations=QUICK
        ), said.getvalue()

    first, _ = command(minutes=30)
    late, other = first.candidates
    assert "distill would take" in (late.failure or "")
    assert "more --minutes" in (late.failure or "")
    assert late.measurement is None
    assert other.measurement is not None, "the run goes on"
    assert first.best is not None
    assert first.best.fingerprint == other.fingerprint
    assert (out / "cache").is_dir(), "what was computed stays"
    assert not [path for path in (out / "models").iterdir() if (path / "model.safetensors").is_file()], "no student"
    spent, hands.ahead_s = calls[0], 0.0

    second, printed = command(minutes=600)
    assert f"goes on at step {FIRST_LOOK} of" in printed
    taught = next(row for row in second.candidates if "distill" in row.recipe)
    assert taught.measurement is not None
    assert second.best is not None
    assert second.best.fingerprint == taught.fingerprint, "and is the smallest"
    assert "distill" in (out / "report.html").read_text(encoding="utf-8")
    assert spent < 10
    assert not (out / "cache").exists(), "nothing is late any more"


def test_a_slow_recipe_does_not_keep_a_distillation_from_its_chance(
    folder: Path, recordings: Path, tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 minutes one took 20. A distillation is stopped by its own clock, so it may begin; an export is not."""
    from microbudget.methods.export import Export

    apply, minutes = Export.apply, iter((20, 0))

    def slow(*arguments: Any) -> Any:
        hands.ahead_s += 60 * next(minutes)
        return apply(*arguments)

    monkeypatch.setattr(Export, "apply", slow)
    texts = (EXPORT, f"distill(decoder_layers=1, epochs=0) > {EXPORT}", f"window(seconds=2) > {EXPORT}")
    monkeypatch.setattr(SearchSpace, "recipes", lambda *_: [Recipe.parse(text) for text in texts])
    limit = Budget(max_drop=Drop(0.9), minutes=30)
    result = shrink(folder, recordings, limit, out=tmp_path / "run", threads=1, durations=QUICK)
    first, distilled = result.candidates
    assert first.measurement is not None
    assert distilled.measurement is not None, "of ten minutes left it needs few"
    assert "distill" in distilled.recipe


def test_the_teacher_keeps_what_it_has_transcribed(
    folder: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microbudget.kinds.transcription import pseudo_labels as teacher
    from microbudget.kinds.transcription.data import TranscriptionTask
    from microbudget.runtimes.loading import load

    monkeypatch.setattr(teacher, "BATCH", 2)
    task = TranscriptionTask.open(recordings, DataOptions(cache=tmp_path / "index"))
    examples, whisper = task.examples("train")[:8], load(folder)
    with pytest.raises(OutOfTime, match="in the middle of the teacher's transcription"):
        teacher.pseudo_labels(whisper, examples, Context(task, tmp_path, deadline=time.monotonic()))
    assert teacher.pseudo_labels(whisper, examples, Context(task, tmp_path)).passes == 6


def test_a_recipe_of_our_own_that_does_not_suit_the_data_is_a_row(
    folder: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random teacher's words are none to learn from. Who asked for that recipe gets the error; `shrink` goes on."""
    texts = (f"distill(decoder_layers=1) > {EXPORT}", EXPORT)
    monkeypatch.setattr(SearchSpace, "recipes", lambda *_: [Recipe.parse(text) for text in texts])
    result = shrink(folder, recordings, Budget(max_drop=Drop(0.9)), out=tmp_path / "run", threads=1, durations=QUICK)
    assert "there is nothing to learn from" in (result.candidates[0].failure or "")
    assert result.best is not None
    assert result.best.fingerprint == result.candidates[1].fingerprint
    with pytest.raises(BadData, match="there is nothing to learn from"):
        run_recipe(folder, result.candidates[0].recipe, recordings, out=tmp_path / "one", threads=1, durations=QUICK)
