"""Confusion: which classes the shipped model confuses, as a heat map for few classes and in words for many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..judge.budget import Measurement

MOST_CLASSES = 24  # that fit into a table on a page
MOST_PAIRS = 8


@dataclass(frozen=True)
class Cell:
    """Examples of one class that were predicted as another; `share` is of the row, `right` on the diagonal."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Pair:
    """A confusion in numbers: `count` of the `total` examples of `truth` were predicted as `predicted`."""

    truth: str
    predicted: str
    count: int
    total: int


@dataclass(frozen=True)
class Confusion:
    """The matrix (true class, predicted class). `cells` is empty when there are too many classes to draw."""

    labels: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    pairs: tuple[Pair, ...]
    wrong: int
    examples: int
    more_pairs: int


def confusion(measurement: Measurement) -> Confusion | None:
    """From the counts that the judge keeps with the quality; None where the task has no classes."""
    counts = np.array(measurement.extra.get("confusion", []), np.int64)
    labels = tuple(str(label) for label in measurement.extra.get("labels", ()))
    if counts.ndim != 2 or counts.shape != (len(labels), len(labels)) or not counts.any():
        return None
    pairs = _pairs(counts, labels)
    return Confusion(
        labels=labels,
        cells=_cells(counts) if len(labels) <= MOST_CLASSES else (),
        pairs=pairs[:MOST_PAIRS],
        wrong=int(counts.sum() - np.trace(counts)),
        examples=int(counts.sum()),
        more_pairs=max(0, len(pairs) - MOST_PAIRS),
    )


def _cells(counts: NDArray[np.int64]) -> tuple[tuple[Cell, ...], ...]:
    totals = np.maximum(counts.sum(axis=1), 1)
    return tuple(
        tuple(Cell(int(count), float(count / total), row == column) for column, count in enumerate(counts[row]))
        for row, total in enumerate(totals)
    )


def _pairs(counts: NDArray[np.int64], labels: tuple[str, ...]) -> tuple[Pair, ...]:
    """All confusions, the most frequent first; of equals the one with the larger share of its class."""
    totals = counts.sum(axis=1)
    wrong = [(row, column) for row, column in np.argwhere(counts > 0) if row != column]
    wrong.sort(key=lambda at: (-counts[at], -counts[at] / totals[at[0]]))
    return tuple(Pair(labels[a], labels[b], int(counts[a, b]), int(totals[a])) for a, b in wrong)
