"""The curve of size against error: how many of the first merges must stay, as measured before anything is built.

The merges of a byte-pair tokenizer are in the order of their frequency, so the last ones cost the fewest words. But a
decoder was never taught to write a word in smaller pieces than its tokenizer cuts, and only the curve says where that
begins to cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData

STEPS = 20  # of the curve: each leaves out another twentieth of the merges


@dataclass(frozen=True)
class Level:
    """A vocabulary: the tokens of the first merges, and the ids of all that stays."""

    first: set[str]
    ids: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.ids)


@dataclass(frozen=True)
class Loss:
    """What a vocabulary costs: the error rate that is added, and the answers that became runaways."""

    added: float
    runaways: int


@dataclass(frozen=True)
class Point:
    """One vocabulary of the curve."""

    tokens: int
    added: float
    runaways: int


def shares() -> list[float]:
    """The fractions of the merges to try, descending."""
    return [1 - step / STEPS for step in range(1, STEPS)]


def smallest(
    levels: Iterable[Level], loss: Callable[[NDArray[np.int64]], Loss], max_loss: float
) -> tuple[Level, list[Point]]:
    """The last level before the first that costs more than `max_loss`, and the curve as far as that.

    levels: from the largest vocabulary to the smallest. To look among smaller ones for one that costs less would be to
    take the luckiest of noisy estimates. Raises BadData where already the largest costs too much.
    """
    chosen: Level | None = None
    curve: list[Point] = []
    for level in levels:
        found = loss(level.ids)
        curve.append(Point(level.tokens, found.added, found.runaways))
        if found.added > max_loss or found.runaways:
            break
        chosen = level
    if chosen is None:
        first = curve[0]
        raise BadData(
            f"trim: {first.tokens:,} tokens lose {first.added * 100:.1f} points of the error rate"
            f" ({first.runaways} answers repeat themselves), and max_loss is {max_loss * 100:g} points: keep all tokens"
        )
    return chosen, curve


def as_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [asdict(point) for point in curve]
