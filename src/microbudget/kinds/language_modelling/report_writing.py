"""Writing: the answers of all levels of a language model to the same prompts, with the words that differ marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from ...report import phrases
from ...report.outcome import Outcome
from ...report.rows import label
from ...runs.candidates import Candidate

_PARTS = re.compile(r"\s+|\S+")


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer whose words are the reference's, or are not."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Reply:
    """One model's answer to one prompt."""

    name: str
    kind: str  # "reference", "best" or "other"
    about: str  # size and divergence
    pieces: tuple[Piece, ...] = ()
    same: str = ""  # the share of words that are the reference's
    failure: str = ""


@dataclass(frozen=True)
class Exchange:
    """A prompt with the answers, the reference's first, then the largest file's."""

    prompt: str
    chat: bool
    replies: tuple[Reply, ...]


def exchanges(outcome: Outcome) -> tuple[Exchange, ...]:
    """All prompts that the reference answered."""
    known = outcome.run.written(outcome.reference.fingerprint)
    if known is None:
        return ()
    told = [(row, _answers(outcome, row, known["prompts"])) for row in _by_size(outcome)]
    return tuple(
        Exchange(prompt["text"], prompt["chat"], tuple(_replies(outcome, told, place)))
        for place, prompt in enumerate(known["prompts"])
    )


def _by_size(outcome: Outcome) -> list[Candidate]:
    others = [row for row in outcome.candidates if row.measurement is not None]
    others.sort(key=lambda row: -row.measurement.size_bytes if row.measurement else 0)
    return [outcome.reference, *others]


def _answers(outcome: Outcome, row: Candidate, prompts: Any) -> list[dict[str, Any]] | None:
    """A model's answers to exactly these prompts."""
    found = outcome.run.written(row.fingerprint)
    answers: list[dict[str, Any]] | None = None if found is None else found["answers"]
    return answers if found is not None and found["prompts"] == prompts else None


def _replies(
    outcome: Outcome, told: Sequence[tuple[Candidate, list[dict[str, Any]] | None]], place: int
) -> list[Reply]:
    reference = next(answers[place]["text"] for _, answers in told if answers is not None)
    return [_reply(outcome, row, answers[place], reference) for row, answers in told if answers is not None]


def _reply(outcome: Outcome, row: Candidate, answer: dict[str, Any], reference: str) -> Reply:
    best = outcome.best is not None and row.fingerprint == outcome.best.fingerprint
    first = row.fingerprint == outcome.reference.fingerprint
    pieces, same = compare(reference, answer["text"])
    return Reply(
        name=label(row) or ("reference" if first else row.recipe),
        kind="reference" if first else "best" if best else "other",
        about=_about(row),
        pieces=(Piece(answer["text"], differs=False),) if first else pieces,
        same="" if first or answer["failure"] else phrases.share(same),
        failure=answer["failure"] or "",
    )


def _about(row: Candidate) -> str:
    if row.measurement is None:
        return ""
    kl = row.measurement.extra.get("kl")
    return phrases.size(row.measurement) + (f", KL {kl:.2g}" if kl is not None else "")


def compare(reference: str, text: str) -> tuple[tuple[Piece, ...], float]:
    """The text in pieces, words of the longest common parts apart from the others; and the share of common words."""
    parts = _PARTS.findall(text)
    words = [place for place, part in enumerate(parts) if not part.isspace()]
    matcher = SequenceMatcher(None, reference.split(), [parts[place] for place in words], autojunk=False)
    common = {words[block.b + step] for block in matcher.get_matching_blocks() for step in range(block.size)}
    pieces: list[Piece] = []
    for place, part in enumerate(parts):
        differs = not part.isspace() and place not in common
        if part.isspace():  # between two words that differ the mark goes on
            differs = 0 < place < len(parts) - 1 and place - 1 not in common and place + 1 not in common
        if pieces and pieces[-1].differs == differs:
            pieces[-1] = Piece(pieces[-1].text + part, differs)
        else:
            pieces.append(Piece(part, differs))
    return tuple(pieces), len(common) / max(1, len(words))
