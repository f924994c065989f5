"""Replies: the answers of all levels of a language model to the same prompts, with the words that differ marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...report import phrases
from ...report.outcome import Outcome, Role
from ...report.words import Piece, compare
from ...runs.candidates import Candidate
from .levels import by_size, level_name


@dataclass(frozen=True)
class Reply:
    """One model's answer to one prompt."""

    name: str
    role: Role
    reference: bool
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
    rows = [(row, _answers(outcome, row, known["prompts"])) for row in (outcome.reference, *by_size(outcome))]
    answered = [(row, answers) for row, answers in rows if answers is not None]
    return tuple(
        Exchange(prompt["text"], prompt["chat"], tuple(_replies(outcome, answered, place)))
        for place, prompt in enumerate(known["prompts"])
    )


def _answers(outcome: Outcome, row: Candidate, prompts: Any) -> list[dict[str, Any]] | None:
    """A model's answers to exactly these prompts."""
    found = outcome.run.written(row.fingerprint)
    answers: list[dict[str, Any]] | None = None if found is None else found["answers"]
    return answers if found is not None and found["prompts"] == prompts else None


def _replies(outcome: Outcome, answered: Sequence[tuple[Candidate, list[dict[str, Any]]]], place: int) -> list[Reply]:
    reference = answered[0][1][place]["text"]
    return [_reply(outcome, row, answers[place], reference) for row, answers in answered]


def _reply(outcome: Outcome, row: Candidate, answer: dict[str, Any], reference: str) -> Reply:
    first = outcome.is_reference(row)
    pieces, same = compare(reference, answer["text"])
    return Reply(
        name=level_name(row) or ("reference" if first else row.recipe),
        role=outcome.role(row),
        reference=first,
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
