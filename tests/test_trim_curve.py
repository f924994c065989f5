"""trim(keep='auto'): the curve of size against error, measured by suppressing tokens, and what is chosen by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microbudget.errors import BadData, InvalidOption
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.network import open_speech
from microbudget.kinds.transcription.suppression import Suppression
from microbudget.methods import Context
from microbudget.methods.trim import Trim
from microbudget.methods.trim.curve import Level, Loss, shares, smallest
from microbudget.model import Model
from microbudget.recipes.build import build_step
from microbudget.runtimes.loading import load
from microbudget.task import SPLITS, DataOptions
from toy_seq2seq import write_recordings, write_whisper


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Whisper with a window of 3 s. Do not write into it."""
    return load(write_whisper(tmp_path_factory.mktemp("whisper") / "toy", max_source_positions=150))


@pytest.fixture(scope="session")
def context(whisper: Model, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Recordings whose transcripts are what the model writes: it makes no error with all its tokens."""
    folder = tmp_path_factory.mktemp("speech")
    task = TranscriptionTask.open(write_recordings(folder / "data", 8), DataOptions(cache=folder / "cache"))
    session = open_speech(whisper, threads=1)
    examples = [example for split in SPLITS for example in task.examples(split)]
    task._texts = {example.name: session.text(task.waveform(example)) for example in examples}
    session.close()
    return Context(task, folder / "cache", threads=1)


def level(tokens: int) -> Level:
    return Level(set(), np.arange(tokens))


def test_the_last_level_before_the_first_that_costs_too_much() -> None:
    """A smaller one that seems to cost less again is luck, and is not even measured."""
    losses = {90: 0.001, 80: 0.004, 70: 0.02, 60: 0.0}
    chosen, curve = smallest(map(level, losses), lambda ids: Loss(losses[len(ids)], 0), 0.005)
    assert chosen.tokens == 80
    assert [(point.tokens, point.added) for point in curve] == [(90, 0.001), (80, 0.004), (70, 0.02)]


def test_a_runaway_ends_the_curve() -> None:
    chosen, _ = smallest(map(level, (90, 80)), lambda ids: Loss(0.0, int(len(ids) == 80)), 0.005)
    assert chosen.tokens == 90


def test_nothing_is_trimmed_that_costs_more_than_the_limit() -> None:
    with pytest.raises(BadData, match=r"90 tokens lose 3.0 points of the error rate .* max_loss is 0.5 points"):
        smallest([level(90)], lambda _: Loss(0.03, 0), 0.005)


def test_shares_fall_to_a_twentieth() -> None:
    assert shares()[0] == pytest.approx(0.95)
    assert shares()[-1] == pytest.approx(0.05)


def test_suppressing_tokens_costs_what_the_trimmed_model_loses(
    whisper: Model, context: Context, tmp_path: Path
) -> None:
    """The same texts, to the letter, as of the model that is built of these tokens."""
    losses = Suppression(whisper, context)
    rows = losses._rows
    assert losses(np.arange(rows)) == Loss(0.0, 0)
    trimmed = build_step(whisper, Trim(coverage=0.0, keep=40), context, tmp_path)
    kept = _old_ids(whisper, trimmed)
    losses(kept)
    texts = [one.text for one in losses._recordings]
    losses.close()
    session = open_speech(trimmed, threads=1)
    task: Any = context.task
    examples = [*task.examples("validation"), *task.examples("train")]
    assert texts == [session.text(task.waveform(example)) for example in examples]


def test_a_token_that_is_written_no_more_costs_its_words(whisper: Model, context: Context) -> None:
    losses = Suppression(whisper, context)
    written = {token for one in losses._recordings for token in one.tokens if token < losses._prompt.start - 1}
    found = losses(np.array(sorted(set(range(losses._rows)) - written)))
    assert found.added > 0
    assert not written & {token for one in losses._recordings for token in one.tokens}
    losses.close()


def _old_ids(before: Model, after: Model) -> np.ndarray:
    """The ids of the tokens that stayed, in the model before."""
    from microbudget.runtimes.speech.whisper import Vocabulary

    old = {name: at for at, name in Vocabulary(before.path).named.items()}
    return np.array(sorted(old[name] for name in Vocabulary(after.path).named.values()))


def test_the_curve_is_in_the_record(whisper: Model, context: Context, tmp_path: Path) -> None:
    """With a limit that nothing breaks the fewest merges stay, and what the texts need comes on top."""
    small = build_step(whisper, Trim(keep="auto", max_loss=1.0), context, tmp_path)
    report = small.record.history["trim"]
    measured = report["measured"]
    tokens = [point["tokens"] for point in measured["curve"]]
    assert tokens == sorted(tokens, reverse=True)
    assert measured["max_loss"] == 1.0
    assert measured["recordings"] > 0
    assert measured["words"] >= measured["recordings"]
    assert report["tokens_before"] > report["tokens_after"] >= min(tokens)


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    from test_trim import Texts
    from toy_language_models import train_byte_level, write_network

    folder = tmp_path / "lm"
    folder.mkdir()
    train_byte_level(folder)
    write_network(folder, "llama-tied")
    with pytest.raises(InvalidOption, match="is for speech models"):
        Trim(keep="auto").apply(load(folder), Context(Texts(["a text"]), tmp_path), tmp_path / "out")  # type: ignore[arg-type]
