"""Examples: how many of them stand for what in a run, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report.part import words_of
from ..runs.candidates import FEW, Candidate, by_divergence
from ..task import SPLITS, Task, Use


def counts(task: Task, use: Use, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What the recipes learn from the data, how many examples each split has, and what chose the best: JSON-ready."""
    sizes: dict[str, int] = {split: len(task.examples(split)) for split in (*SPLITS, "unlabelled")}
    return {"use": use, **sizes, "chosen_by": "divergence" if by_divergence(candidates) else "quality"}


def about_splits(task: Task, use: Use) -> str:
    """The numbers behind every verdict."""
    train, validation, test = (len(task.examples(split)) for split in SPLITS)
    parts = [f"{validation:,} to choose by, {test:,} to test"]
    if use != "nothing":
        parts.insert(0, f"{train:,} to {'train' if use == 'training' else 'calibrate'}")
        unlabelled = len(task.examples("unlabelled"))
        parts += [f"{unlabelled:,} without a label"] if unlabelled else []
    notes = ["no recipe learns from the data"] if use == "nothing" else []
    if validation < FEW:
        notes.append("models of equal size are told apart by divergence from the reference, since these are few")
    return f"{words_of(task.kind, getattr(task, 'metric', '')).examples:<9} {'; '.join([', '.join(parts), *notes])}"
