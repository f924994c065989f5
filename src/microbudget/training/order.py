"""Order: which rows each step of a training sees, and at which fraction of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
SORTED = 25  # batches: few enough that a batch is still of different texts in each epoch


@dataclass
class Order:
    """The rows of each batch: shuffled again for each epoch, by the seed and the epoch's number alone.

    sizes: of the examples. Then a batch holds examples of about one size: of every SORTED batches the rows are sorted,
    and the batches come in random order.
    """

    examples: int
    batch_size: int
    seed: int
    sizes: NDArray[Any] | None = None
    _epoch: int = -1
    _batches: list[Rows] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """How many an epoch has; none with a single example, unless the batch size is 1."""
        count = math.ceil(self.examples / self.batch_size)
        return count if self.batch_size == 1 else min(count, max(1, self.examples // 2))

    def rows(self, epoch: int) -> list[Rows]:
        """Of each batch of the epoch (from 0)."""
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(self.examples)
            if self.sizes is None:
                self._epoch, self._batches = epoch, np.array_split(order, self.batches)
            else:
                self._epoch, self._batches = epoch, self._by_size(order, self.sizes, random)
        return self._batches

    def _by_size(self, order: Rows, sizes: NDArray[Any], random: np.random.Generator) -> list[Rows]:
        parts = np.array_split(order, math.ceil(self.batches / SORTED))
        ordered = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts])
        batches = np.array_split(ordered, self.batches)
        return [batches[place] for place in random.permutation(self.batches)]


def schedule(step: int, total: int, warmup: float) -> float:
    """Fraction of the learning rate at a step: up in a line over the warm-up, then down to zero in half a cosine."""
    warm = round(total * warmup)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))
