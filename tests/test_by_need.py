"""Evaluation by need: the order of reading, when a candidate is read no further, and how the time is divided."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.judge.budget import Budget, Measurement
from microbudget.judge.verdict import Verdict
from microbudget.machine.interrupts import deferred_interrupts, ignored_interrupts
from microbudget.model import Model, Record
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.runs.candidates import Candidate
from microbudget.runs.reading_order import reading_order
from microbudget.search import schedule as schedules
from microbudget.search.forecast import Forecast
from microbudget.search.options import Durations
from microbudget.search.reading import Reader
from microbudget.search.schedule import FINAL_SHARE, WRITING_S, Schedule
from microbudget.search.space import Pace, SearchSpace
from microbudget.task import Example, Scores
from microbudget.units import Drop


def some_examples(labels: list[int | None]) -> list[Example]:
    return [Example(f"{place:08x}", label, f"{place}.png") for place, label in enumerate(labels)]


@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=80), st.integers(0, 5), st.randoms())
def test_every_beginning_of_the_order_is_a_sample_of_the_whole(labels, seed, shuffled) -> None:
    examples = some_examples(labels)
    order = reading_order(examples, seed)
    assert sorted(order, key=lambda each: each.key) == examples
    mixed = list(examples)
    shuffled.shuffle(mixed)
    assert reading_order(mixed, seed) == order, "the order in the folder has no say"
    sizes, total = Counter(labels), len(labels)
    for length in range(total + 1):
        seen = Counter(each.label for each in order[:length])
        for label, size in sizes.items():
            assert abs(seen[label] - length * size / total) <= 1 + len(sizes) * size / total


def test_the_seed_decides_the_order() -> None:
    examples = some_examples([None] * 40)
    assert reading_order(examples, 0) != reading_order(examples, 1)


class Known:
    """Answers that are there already: scores, of which it counts how many were asked for."""

    def __init__(self, loss: np.ndarray) -> None:
        self.scores = {"reference": np.full(len(loss), 8.0), "candidate": 8.0 + loss}
        self.asked = 0

    def examples(self, _split: str) -> list[Example]:
        return some_examples([None] * len(self.scores["reference"]))

    def read(self, _model: SimpleNamespace, _split: str) -> int:
        return 0

    def of(self, model: SimpleNamespace, _split: str, count: int, _worker: object = None) -> np.ndarray:
        self.asked = max(self.asked, count)
        return self.scores[model.fingerprint][:count]


LIMIT = Drop(0.02, relative=True)


def reader(known: Known, limit: Drop | None = LIMIT, goal: str = "size", metric: str = "bits per byte") -> Reader:
    def score(bits: np.ndarray, examples: list[Example]) -> Scores:
        return Scores(metric, bits, np.full(len(examples), 4.0), higher_is_better=False)

    judging = SimpleNamespace(look_every=4, task=SimpleNamespace(score=score, labels=()))
    budget = Budget(max_drop=limit, goal=goal)  # type: ignore[arg-type]
    return Reader(known, judging, SimpleNamespace(fingerprint="reference"), budget, 0)  # type: ignore[arg-type]


CANDIDATE = SimpleNamespace(fingerprint="candidate")
NOISE = np.random.default_rng(3).normal(0, 0.01, 600)


@pytest.mark.parametrize(("loss", "decision", "most"), [(3.0, "exceeds", 12), (0.0, "within", 40)])
def test_a_level_far_from_the_limit_costs_a_few_passages(loss: float, decision: str, most: int) -> None:
    known = Known(loss + NOISE)
    verdict = reader(known).decide(CANDIDATE)
    assert verdict.decision == decision
    assert verdict.examples == known.asked <= most
    assert f"{verdict.examples} of 600 examples were enough" in verdict.reason


def test_a_level_at_the_limit_is_read_to_the_end_and_not_decided() -> None:
    known = Known(0.16 + NOISE - NOISE.mean())
    verdict = reader(known).decide(CANDIDATE)
    assert (verdict.decision, verdict.examples) == ("not shown", 600)


def test_for_quality_what_is_within_is_read_to_the_end() -> None:
    known = Known(NOISE)
    assert reader(known, goal="quality").decide(CANDIDATE).examples == 600
    assert reader(Known(3.0 + NOISE), goal="quality").decide(CANDIDATE).examples < 20


def test_without_a_limit_everything_is_read_unless_the_time_is_up() -> None:
    known = Known(NOISE)
    assert reader(known, limit=None).decide(CANDIDATE).examples == 600
    assert reader(Known(NOISE), limit=None).decide(CANDIDATE, until=0.0).examples == 4


def test_the_share_of_the_time_ends_the_reading_after_the_first_block() -> None:
    known = Known(0.16 + NOISE)
    verdict = reader(known).decide(CANDIDATE, until=0.0)
    assert (verdict.decision, known.asked) == ("not shown", 4)


@given(st.integers(1, 599), st.booleans())
def test_quality_is_on_the_examples_that_the_reference_has_read(count: int, relative: bool) -> None:
    """With the same paired difference everywhere the estimate is exact, whichever examples were read."""
    bits = 8 + np.random.default_rng(0).normal(0, 1, 600)
    known = Known(np.zeros(600))
    known.scores = {"reference": bits, "candidate": bits * 1.1 if relative else bits + 0.4}
    judge = reader(known, metric="bits per byte" if relative else "wer")
    known.read = lambda model, _split: count if model is CANDIDATE else 600  # type: ignore[method-assign]
    own = known.scores["candidate"][:count].mean() / 4
    found = judge.on_common_examples(CANDIDATE, Row(own, own, own))  # type: ignore[arg-type]
    assert found.quality == pytest.approx(known.scores["candidate"].mean() / 4)


@dataclass(frozen=True)
class Row:
    """The fields of a Measurement that are quality."""

    quality: float
    quality_low: float
    quality_high: float


def test_the_minutes_cover_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(schedules, "time", clock)
    now, plan = 100.0, Schedule(minutes=10, started=100.0)
    assert plan.deadline == 700
    assert plan.search_end == 550, "until it is known what the test takes"
    plan.keep_for_test(examples=50, example_s=1.0)
    assert plan.search_end == 700 - 50 - WRITING_S
    plan.keep_for_test(examples=5000, example_s=1.0)
    assert plan.final_s == FINAL_SHARE * 600
    assert plan.reading_end(3) == 100 + 450 / 3
    assert plan.reading_end(2, first=True) == 100 + 150, "something to deliver within a quarter of the time"
    now = 600.0
    assert plan.test_count(5000, 1.0) == int(FINAL_SHARE * 600 - WRITING_S)
    assert plan.test_count(20, 1.0) == 20
    now = 5000.0
    assert plan.reading_end(2) == 5000
    assert plan.test_count(5000, 1000.0) == 1, "what ships is tested, however little"


def test_without_minutes_there_is_no_end() -> None:
    plan = Schedule(None)
    plan.keep_for_test(1000, 1.0)
    assert plan.deadline is None
    assert math.isinf(plan.reading_end(3, first=True))
    assert plan.test_count(1000, 1e6) == 1000


def test_a_forecast_is_corrected_by_what_recipes_took() -> None:
    recipes = [Recipe.read(text) for text in ("quantize()", "prune()", "export() > quantize()")]
    space = SearchSpace.__new__(SearchSpace)
    pace = Pace(example_s=0.5, open_s=1.0, parameters=0, block=4)
    forecast = Forecast.of(recipes, space, pace, Durations(pair_s=6, float_s=0), test_s=7.0)
    each = 5.0 + 1 + 6 + 2  # opened once: without float_s there is no other model
    assert forecast.left_s == pytest.approx(3 * each + 5 + 7)
    assert "3 recipes to try: a first result in about 14.0 s" in str(forecast)
    forecast.note(recipes[0], 2 * each)
    assert forecast.left_s == pytest.approx(2 * (2 * each + 5) + 7)
    forecast.note(recipes[1], None)
    assert forecast.left_s == pytest.approx(2 * (each + 5) + 7), "what was known already is no measure"
    forecast.add([recipes[0]])
    assert forecast.left_s == pytest.approx(2 * (2 * each + 5) + 7), "what is tried as well"


def test_a_model_of_another_format_opens_as_its_own_runtime_does() -> None:
    """torch needs ten seconds to start, ONNX Runtime one; a quantized model is timed with its float model."""
    space = SearchSpace(Model(Path("folder"), "hf", Record()), None)  # type: ignore[arg-type]
    pace = Pace(example_s=0.0, open_s=10.0, parameters=0, starts_s={"onnx": 1.0})
    recipes = [Recipe.read(text) for text in ("export()", "export() > quantize()", "finetune()")]
    forecast = Forecast.of(recipes, space, pace, Durations(pair_s=6, float_s=2), test_s=0.0)
    assert list(forecast.expected.values()) == [5 + 6 + 1, 10 + 6 + 2 + 2 * 1, 5 + 6 + 10]
    taught = replace(pace, built=recipes[2].steps)
    longer = Recipe.read("finetune() > export()")
    assert Forecast.of([longer], space, taught, Durations(pair_s=6), test_s=0.0).left_s == 5 + 6 + 1, "it is taught"


class Stream(StringIO):
    """A log that says when somebody wrote to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_a_log_is_never_silent_for_long() -> None:
    stream = Stream()
    progress = Progress(stream, silence_s=0.01)
    progress.doing("walking")
    with progress.alive(lambda: 90.0):
        assert stream.written.wait(20)
    assert "walking, " in stream.getvalue()
    assert "1.50 min left of all" in stream.getvalue()
    assert not Stream().written.is_set()


def test_a_quiet_one_says_nothing() -> None:
    stream = Stream()
    with Progress(stream, quiet=True, silence_s=0.001).alive(lambda: None):
        assert not stream.written.wait(0.05)


def test_ctrl_c_waits_for_what_must_be_whole() -> None:
    done = []

    def deliver() -> None:
        with deferred_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        deliver()
    assert done
    with ignored_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("to the end")
    assert len(done) == 2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_levels_below_the_best_so_far_come_first(tmp_path) -> None:
    from microbudget.kinds.language_modelling.search_space import SearchSpace as Levels
    from microbudget.runtimes.loading import load
    from toy_pair import write_pair

    space = Levels(load(write_pair(tmp_path / "pair").hf), SimpleNamespace())  # type: ignore[arg-type]
    recipes = [Recipe.read(f"export(format='gguf') > quantize(type='{kind}')") for kind in ("Q8_0", "Q2_K", "Q4_0")]
    order = space.promising_first(recipes, best_bytes=1)
    assert order == recipes, "none can be smaller: the order stays"
    sizes = [space.size_bytes(recipe) for recipe in recipes]
    assert sizes[1] == min(sizes)
    assert sizes[0] == max(sizes)
    order = space.promising_first(recipes, best_bytes=sizes[0])
    assert order[-1] == recipes[0]
    assert set(order) == set(recipes)


def test_a_chain_is_bisected() -> None:
    from microbudget.kinds.language_modelling.search_space import middle_first

    assert middle_first("abcdefg") == list("dbfaceg")  # type: ignore[arg-type, comparison-overlap]
    assert middle_first(()) == []


def test_levels_that_the_others_settle_are_not_built(tmp_path) -> None:
    """Larger than one that holds, much smaller than one that is beyond the limit; only where the goal is the size."""

    from microbudget.kinds.language_modelling.search_space import SearchSpace as Levels
    from microbudget.runtimes.loading import load
    from toy_language_models import train_byte_level, write_network

    train_byte_level(tmp_path)
    write_network(tmp_path, "llama", hidden_size=256, intermediate_size=512)
    space = Levels(load(tmp_path), SimpleNamespace())  # type: ignore[arg-type]
    space.budget = Budget(max_drop=Drop(0.01, relative=True))
    recipes = {
        kind: Recipe.read(f"export(format='gguf') > quantize(type='{kind}')")
        for kind in ("Q8_0", "Q5_0", "Q4_0", "Q3_K_S", "IQ1_S")
    }

    def row(kind: str, decision: str, change: float) -> Candidate:
        size = space.size_bytes(recipes[kind])
        measured = Measurement("m", "gguf", "", "text-generation", 9, "bits per byte", 2.0, 1.9, 2.1, size)
        verdict = Verdict(decision, "1%", change, change, change, 9, None, "")
        return Candidate(str(recipes[kind]), kind, kind, measured, verdict)

    found = [row("Q5_0", "within", -0.001), row("Q4_0", "exceeds", -0.03)]
    reasons = {kind: space.settled(recipe, found) for kind, recipe in recipes.items()}
    assert reasons["Q8_0"] == "not built: it is larger than Q5_0, which holds the limits"
    assert reasons["IQ1_S"] == "not built: it is much smaller than Q4_0, whose loss is beyond the limit"
    assert reasons["Q5_0"] == reasons["Q4_0"] == ""
    undecided = [row("Q5_0", "not shown", -0.001), row("Q4_0", "not shown", -0.03)]
    assert not any(space.settled(recipe, undecided) for recipe in recipes.values())
    space.budget = Budget(goal="latency", max_drop=Drop(0.01, relative=True))
    assert not any(space.settled(recipe, found) for recipe in recipes.values())
