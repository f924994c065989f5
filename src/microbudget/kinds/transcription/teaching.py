"""Teach a Whisper from a dictation: what is trained, on which recordings, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...audio.log_mel import LogMel
from ...errors import BadData
from ...model import Model
from ...progress import Progress
from ...task import Example
from ...training.train import Settings, Trained, train
from .lesson import Weights, lesson
from .teacher import Dictation, dictate
from .transcripts import count

FROZEN = ("embed_tokens", "embed_positions", "proj_out")  # few recordings would bend what they do not contain


@dataclass(frozen=True)
class Material:
    """The recordings that are learnt from, and those that were left out with the reason."""

    dictation: Dictation
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """For a record's history."""
        heard = {"teacher_passes": self.dictation.passes, "recordings": len(self.dictation.written)}
        return {**heard, "train": len(self.train), "validation": len(self.validation), "left_out": self.left_out}


def material(
    teacher: Model,
    task: Any,
    cache: Path,
    *,
    max_wer: float,
    longest_s: float,
    threads: int,
    deadline: float | None = None,
    progress: Progress,
) -> Material:
    """What the teacher writes for the train, unlabelled and validation recordings, the good ones of it.

    Left out: what is longer than `longest_s`, where the teacher wrote nothing, and, where somebody has transcribed it,
    what differs from that by a word error rate above `max_wer`. Raises BadData when nothing is left, OutOfTime.
    """
    splits = [
        [*task.examples("train"), *task.examples("unlabelled")],
        [*task.examples("validation")],
    ]
    short = [[example for example in split if task.seconds(example) <= longest_s] for split in splits]
    left_out = {"longer than the window": sum(map(len, splits)) - sum(map(len, short))}
    heard = [*short[0], *short[1]]
    found = dictate(teacher, task, heard, cache, threads=threads, deadline=deadline, progress=progress)
    kept: list[tuple[Example, ...]] = []
    for split in short:
        reasons = {example.key: _reason(example, found, task, max_wer) for example in split}
        kept.append(tuple(example for example in split if reasons[example.key] is None))
        for reason in filter(None, reasons.values()):
            left_out[reason] = left_out.get(reason, 0) + 1
    if not kept[0]:
        raise BadData(
            f"there is nothing to learn from: of {sum(map(len, splits))} recordings were left out"
            f" {', '.join(f'{number} ({reason})' for reason, number in left_out.items() if number)}. Is the teacher"
            f" made for this audio? Raise max_wer above {max_wer} if its words are good enough"
        )
    return Material(found, kept[0], kept[1], {reason: number for reason, number in left_out.items() if number})


def _reason(example: Example, dictation: Dictation, task: Any, max_wer: float) -> str | None:
    """Why a recording is not learnt from, or None."""
    written, said = dictation.text(example), task.text(example)
    if not written.strip():
        return "the teacher wrote nothing"
    if said is None or not said.strip():
        return None
    errors = count(task.normalize(said), task.normalize(written))
    return "the teacher differs from the transcript" if errors.word_errors > max_wer * max(errors.words, 1) else None


def teach(
    network: Any,
    chosen: Material,
    task: Any,
    settings: Settings,
    *,
    front: LogMel | None = None,
    seed: int,
    threads: int,
    checkpoint: Path | None,
    deadline: float | None = None,
    what: str,
    progress: Progress,
) -> Trained:
    """Train the network in place. front: that of the student where its encoder is trained; else it reads the teacher's.

    Embeddings stay as they are; of a student that reads the teacher's states the encoder does, too.
    """
    for name, parameter in network.named_parameters():
        frozen = any(part in name for part in FROZEN) or (front is None and ".encoder." in name)
        parameter.requires_grad_(not frozen)
    dictation = chosen.dictation if front is None else replace(chosen.dictation, front=front)
    learnt = lesson(dictation, task, chosen.train, chosen.validation, Weights(), hears=front is not None)
    trained = train(
        network,
        learnt,
        settings,
        seed=seed,
        threads=threads,
        checkpoint=checkpoint,
        deadline=deadline,
        what=what,
        progress=progress,
    )
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return trained


def keys(examples: Sequence[Example]) -> set[str]:
    """For `Record.seen`."""
    return {example.key for example in examples}
