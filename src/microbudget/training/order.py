"""Order: which rows each step of a training sees, and at which fraction of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]


@dataclass
class Order:
    """The rows of each batch: shuffled again for each epoch, by the seed and the epoch's number alone."""

    examples: int
    batch_size: int
    seed: int
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
            order = np.random.default_rng([self.seed, epoch]).permutation(self.examples)
            self._epoch, self._batches = epoch, np.array_split(order, self.batches)
        return self._batches


def schedule(step: int, total: int, warmup: float) -> float:
    """Fraction of the learning rate at a step: up in a line over the warm-up, then down to zero in half a cosine."""
    warm = round(total * warmup)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))
