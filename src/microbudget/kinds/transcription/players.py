"""Players: recordings with their transcript and what each model writes, the worst regressions first."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import MicrobudgetError
from ...report import phrases
from ...report.outcome import Outcome, Role
from ...report.rows import name
from ...runs.candidates import Candidate
from ...task import Example

if TYPE_CHECKING:
    from ...audio.sound import Samples
    from .data import TranscriptionTask

WORSE, BETTER, SAME = 10, 4, 2  # recordings of each kind
MOST_AUDIO_BYTES = 3_000_000  # of all recordings in the page
LONGEST_S = 30.0  # of a recording that is played: its beginning, where it is longer

Texts = NDArray[np.str_]
Kind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True)
class Words:
    """Some words of a transcript: correct, substituted, deleted or inserted."""

    kind: Kind
    text: str
    reference: str = ""


@dataclass(frozen=True)
class Hypothesis:
    """One model's transcript: its row in the table, its words against the reference text, how many are wrong."""

    row: str
    role: Role
    words: tuple[Words, ...]
    errors: int
    hallucinated: bool
    size: str
    latency: str


@dataclass(frozen=True)
class Player:
    """One recording. `audio` is a data URI, None where there is no room or no file for it."""

    name: str
    seconds: float
    audio: str | None
    transcript: str
    words: int
    hypotheses: tuple[Hypothesis, ...]
    change: int  # word errors of what ships less those of the reference
    longest: float = LONGEST_S  # seconds that are embedded at most


@dataclass(frozen=True)
class Group:
    """Recordings with more, fewer or as many errors as the reference has; `count` of them there are."""

    name: Literal["worse", "better", "same"]
    count: int
    players: tuple[Player, ...]


@dataclass(frozen=True)
class Players:
    """The recordings of the report. `missing` is the reason why there are none."""

    missing: str
    normalizer: str = ""
    examples: int = 0  # of the validation split, which they are from
    groups: tuple[Group, ...] = ()


def players(outcome: Outcome, task: TranscriptionTask) -> Players:
    """The recordings worth listening to. None of the test split: a model changed after those has no test left."""
    known = Players("", task.normalizer, len(task.examples("validation")))
    if outcome.smaller is None:
        return replace(known, missing="no other model than the reference ships")
    return _filled(known, outcome, task)


def _filled(known: Players, outcome: Outcome, task: TranscriptionTask) -> Players:
    assert outcome.smaller is not None
    examples = task.examples("validation")
    texts_of = dict(_texts(outcome, len(examples)))
    places = {row.fingerprint: place for place, row in enumerate(outcome.rows)}
    ours, theirs = (
        texts_of.get(places[outcome.smaller.fingerprint]),
        texts_of.get(places[outcome.reference.fingerprint]),
    )
    if ours is None or theirs is None:
        return replace(known, missing="the run does not hold both models' transcripts of the validation recordings")
    wrong = [[one.word_errors for one in task.errors(texts, examples)] for texts in (theirs, ours)]
    change = np.array(wrong[1]) - np.array(wrong[0])
    room = _Room()
    groups = []
    for name_, chosen, most in _groups(change, np.array(wrong[1])):
        shown = tuple(
            _player(task, examples[row], row, outcome, texts_of, int(change[row]), room) for row in chosen[:most]
        )
        groups.append(Group(name_, len(chosen), tuple(shown)))
    return replace(known, groups=tuple(groups))


def _groups(
    change: NDArray[np.int64], wrong: NDArray[np.int64]
) -> Iterator[tuple[Literal["worse", "better", "same"], list[int], int]]:
    """Rows by their change, the largest first; where nothing changed, those with the most errors first."""
    order = np.lexsort((-wrong, -change))
    yield "worse", [int(row) for row in order if change[row] > 0], WORSE
    yield "better", [int(row) for row in order[::-1] if change[row] < 0], BETTER
    yield "same", [int(row) for row in order if change[row] == 0], SAME


def _texts(outcome: Outcome, examples: int) -> Iterator[tuple[int, Texts]]:
    """The transcripts of every row that the run kept for exactly these examples, by its place in the table."""
    for place, row in enumerate(outcome.rows):
        stored = outcome.logits(row, "validation")
        if stored is not None and stored.dtype.kind == "U" and stored.shape == (examples,):
            yield place, np.asarray(stored, np.str_)


def _player(
    task: TranscriptionTask,
    example: Example,
    row: int,
    outcome: Outcome,
    texts_of: dict[int, Texts],
    change: int,
    room: _Room,
) -> Player:
    transcript = task.normalize(task.text(example) or "")
    hypotheses = tuple(
        _hypothesis(outcome, place, transcript, task.normalize(str(texts[row]))) for place, texts in texts_of.items()
    )
    return Player(
        name=example.name,
        seconds=task.seconds(example),
        audio=room.audio(task, example),
        transcript=transcript,
        words=len(transcript.split()),
        hypotheses=hypotheses,
        change=change,
    )


def _hypothesis(outcome: Outcome, place: int, transcript: str, text: str) -> Hypothesis:
    from .transcripts import count

    candidate, errors = outcome.rows[place], count(transcript, text)
    return Hypothesis(
        row=name(place),
        role=outcome.role(candidate),
        words=marked(transcript, text),
        errors=errors.word_errors,
        hallucinated=errors.hallucinated,
        size=_cost(candidate, phrases.size),
        latency=_cost(candidate, phrases.latency),
    )


def _cost(candidate: Candidate, show: Any) -> str:
    return "" if candidate.measurement is None else str(show(candidate.measurement))


def marked(transcript: str, text: str) -> tuple[Words, ...]:
    """A model's text with its differences from the transcript."""
    from .transcripts import align

    return tuple(
        Words(step.kind, " ".join(step.written), "" if step.kind == "equal" else " ".join(step.said))
        for step in align(transcript, text)
    )


class _Room:
    """Encodes recordings until the page has as many bytes of them as it may."""

    def __init__(self) -> None:
        self._left = MOST_AUDIO_BYTES

    def audio(self, task: TranscriptionTask, example: Example) -> str | None:
        """A recording, or its beginning, as a data URI; None where it cannot be read or would not fit."""
        from ...audio.sound import RATE_HZ

        try:
            kind, data = encoded(task.waveform(example, LONGEST_S), RATE_HZ)
        except (MicrobudgetError, OSError):
            return None
        if len(data) > self._left:
            return None
        self._left -= len(data)
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def encoded(samples: Samples, rate_hz: int) -> tuple[str, bytes]:
    """A waveform in a format that browsers play and that is small, with its media type: MP3, else FLAC."""
    from ...audio.sound import library

    soundfile = library()
    choices: Sequence[tuple[str, str, str]] = (
        ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
        ("FLAC", "PCM_16", "audio/flac"),
    )
    form, subtype, kind = choices[0 if "MP3" in soundfile.available_formats() else 1]
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1, 1), rate_hz, format=form, subtype=subtype)
    return kind, stream.getvalue()
