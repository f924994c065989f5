"""Allocation: how many channels each layer loses, so that a target is met at the least predicted loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption
from .sensitivity import Curve, Family

Widths = NDArray[np.float64]  # (sites,), in the families' order
Cost = Callable[[Widths], float]


def step_of(width: int, uniform: bool) -> int:
    """The step in which channels are removed: what is left is a multiple that suits the kernels, if possible.

    ONNX Runtime's convolutions work on blocks of 8 or 16 channels; K-quants of GGUF files on rows of 256.
    """
    if uniform and width >= 512:
        return 256
    return 8 if width >= 24 else 4 if width >= 12 else 2 if width >= 8 else 1


def widths(families: Sequence[Family], counts: Sequence[int]) -> Widths:
    """Channels that stay at each site."""
    return np.array(
        [family.width - count for family, count in zip(families, counts, strict=True) for _ in family.sites], float
    )


def allocate(families: Sequence[Family], losses: Sequence[Curve], cost: Cost, target: float) -> tuple[int, ...]:
    """Channels to remove from each family until cost(widths) <= target.

    Greedily: each time the step with the least predicted loss for what it saves. Raises InvalidOption where every
    layer is down to its last step before that.
    """
    counts = [0] * len(families)
    now = cost(widths(families, counts))
    while now > target:
        moves = [_move(families, losses, cost, counts, index, now) for index in range(len(families))]
        _, index, after = min((move for move in moves if move), default=(0.0, -1, 0.0))
        if index < 0:
            share = now / cost(widths(families, [0] * len(families)))
            raise InvalidOption(
                f"prune: the target would take the last channels of {families[0].name} and all other layers; at most"
                f" {1 - share:.0%} can go"
            )
        counts[index] += _size(families[index], counts[index])
        now = after
    return tuple(counts)


def _size(family: Family, count: int) -> int:
    """The first step evens out a width that is no multiple."""
    return family.step if count else family.width % family.step or family.step


def _move(
    families: Sequence[Family], losses: Sequence[Curve], cost: Cost, counts: list[int], index: int, now: float
) -> tuple[float, int, float] | None:
    """Loss per saved cost of one more step, the family's index, the cost after it; None where too few would stay."""
    family, count = families[index], counts[index]
    more = count + _size(family, count)
    if family.width - more < family.step:
        return None
    after = cost(widths(families, [*counts[:index], more, *counts[index + 1 :]]))
    if after >= now:
        return None
    return (losses[index].at(more) - losses[index].at(count)) / (now - after), index, after
