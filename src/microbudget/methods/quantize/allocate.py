"""Bits for every layer under a limit of size or of loss: a multiple-choice knapsack, solved exactly.

The states that no other beats in both bytes and loss are kept layer by layer (Nemhauser and Ullmann 1969); what cannot
come under the limit any more is dropped on the way. The frontier of the last layer answers both questions, the least
loss for the bytes and the fewest bytes for the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption

MOST_STATES = 200_000  # beyond these, neighbours in bytes are merged, and the result is no longer exact


@dataclass(frozen=True)
class Choice:
    """One way to store a layer."""

    bits: int
    size_bytes: int
    loss: float


@dataclass(frozen=True)
class Allocation:
    """The chosen bits of every layer, with their sums."""

    bits: tuple[int, ...]
    size_bytes: int
    loss: float
    exact: bool


def least_loss(layers: Sequence[Sequence[Choice]], max_bytes: int) -> Allocation:
    """The choice per layer of least total loss within `max_bytes`; InvalidOption when even the smallest is larger."""
    smallest = sum(min(choice.size_bytes for choice in layer) for layer in layers)
    if smallest > max_bytes:
        raise InvalidOption(f"the layers take at least {smallest} bytes at the lowest bits, more than {max_bytes}")
    states = _frontier(layers, max_bytes=max_bytes)
    return _allocation(layers, states, int(np.argmin(states[-1].loss)))


def least_bytes(layers: Sequence[Sequence[Choice]], max_loss: float) -> Allocation:
    """The choice per layer of fewest bytes with a total loss of at most `max_loss`; InvalidOption when none has it."""
    least = sum(min(choice.loss for choice in layer) for layer in layers)
    if least > max_loss:
        raise InvalidOption(
            f"the layers lose at least {least:.3g} in sum at the highest bits, more than {max_loss:.3g}"
        )
    states = _frontier(layers, max_loss=max_loss)
    return _allocation(layers, states, 0)


@dataclass
class _States:
    """Undominated sums after some layers, bytes rising and loss falling; which choice and state each came from."""

    size: NDArray[np.int64]
    loss: NDArray[np.float64]
    choice: NDArray[np.int64]
    previous: NDArray[np.int64]
    exact: bool = True


def _frontier(layers: Sequence[Sequence[Choice]], max_bytes: float = np.inf, max_loss: float = np.inf) -> list[_States]:
    bytes_ahead = _ahead([min(choice.size_bytes for choice in layer) for layer in layers])
    loss_ahead = _ahead([min(choice.loss for choice in layer) for layer in layers])
    zero = np.zeros(1, np.int64)
    states = [_States(zero, np.zeros(1), zero, zero)]
    for i, layer in enumerate(layers):
        merged = _extended(states[-1], layer)
        # a little slack: sums in another order differ in the last digits
        within = (merged.size + bytes_ahead[i + 1] <= max_bytes) & (
            merged.loss + loss_ahead[i + 1] <= max_loss * (1 + 1e-12) + 1e-300
        )
        states.append(_thinned(_picked(merged, np.flatnonzero(within))))
    return states


def _ahead(least: Sequence[float]) -> list[float]:
    """What the layers from each one on take at least, and 0 after the last."""
    return [sum(least[i:]) for i in range(len(least) + 1)]


def _extended(before: _States, layer: Sequence[Choice]) -> _States:
    """Every state with every choice of the next layer, the dominated dropped."""
    count = len(before.size)
    size = np.concatenate([before.size + choice.size_bytes for choice in layer])
    loss = np.concatenate([before.loss + choice.loss for choice in layer])
    choice, previous = np.repeat(np.arange(len(layer)), count), np.tile(np.arange(count), len(layer))
    order = np.lexsort((loss, size))
    best = np.minimum.accumulate(loss[order])
    keep = order[np.concatenate([[True], best[1:] < best[:-1]])]
    return _picked(_States(size, loss, choice, previous, before.exact), keep)


def _picked(states: _States, keep: NDArray[np.int64]) -> _States:
    return _States(states.size[keep], states.loss[keep], states.choice[keep], states.previous[keep], states.exact)


def _thinned(states: _States) -> _States:
    """At most MOST_STATES states, evenly along the frontier, both ends kept."""
    if len(states.size) <= MOST_STATES:
        return states
    keep = np.unique(np.linspace(0, len(states.size) - 1, MOST_STATES).round().astype(np.int64))
    thin = _picked(states, keep)
    thin.exact = False
    return thin


def _allocation(layers: Sequence[Sequence[Choice]], states: list[_States], at: int) -> Allocation:
    last, bits = states[-1], []
    size, loss, exact = int(last.size[at]), float(last.loss[at]), last.exact
    for layer, state in zip(layers[::-1], states[:0:-1], strict=True):
        bits.append(layer[state.choice[at]].bits)
        at = int(state.previous[at])
    return Allocation(tuple(bits[::-1]), size, loss, exact)
