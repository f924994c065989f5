"""What a teacher is worth: the same student with and without it, at several fractions of the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...training.objective import Trained

FRACTIONS = (1.0, 0.3, 0.1)  # of the labels


def worth(train: Callable[[float, bool, str], Trained]) -> list[dict[str, Any]]:
    """A row for each fraction: quality with and without the teacher on validation, which has also chosen the epoch.

    train: a new student's training with this fraction of the labels, with the teacher or without, under a name.
    """
    rows = []
    for fraction in FRACTIONS:
        row: dict[str, Any] = {"labels_share": fraction}
        for name, taught in (("with_teacher", True), ("without_teacher", False)):
            row[f"quality_{name}"] = kept_quality(train(fraction, taught, f"{name}_{fraction:g}"))
        rows.append({**row, "gain_by_teacher": row["quality_with_teacher"] - row["quality_without_teacher"]})
    return rows


def kept_quality(trained: Trained) -> float:
    """The task's metric on validation, of the epoch that was kept."""
    scores = trained.epochs[trained.kept - 1] if trained.kept else trained.before or {}
    return next(float(value) for name, value in scores.items() if name != "epoch" and not name.endswith("loss"))
