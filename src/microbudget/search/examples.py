"""Examples: how many of them stand for what in a run, in words."""

from __future__ import annotations

from typing import Any

from ..report.part import words_of
from ..task import SPLITS, Task, Use


def counts(task: Task, use: Use) -> dict[str, Any]:
    """What the recipes learn from the data, and how many examples each split has: JSON-ready."""
    sizes: dict[str, int] = {split: len(task.examples(split)) for split in (*SPLITS, "unlabelled")}
    return {"use": use, **sizes}


def about_splits(task: Task, use: Use) -> str:
    """The numbers behind every verdict."""
    train, validation, test = (len(task.examples(split)) for split in SPLITS)
    parts = [f"{validation:,} to choose by, {test:,} to test"]
    if use != "nothing":
        parts.insert(0, f"{train:,} to {'train' if use == 'training' else 'calibrate'}")
        unlabelled = len(task.examples("unlabelled"))
        parts += [f"{unlabelled:,} without a label"] if unlabelled else []
    notes = ["no recipe learns from the data"] if use == "nothing" else []
    return f"{words_of(task.kind, getattr(task, 'metric', '')).examples:<9} {'; '.join([', '.join(parts), *notes])}"
