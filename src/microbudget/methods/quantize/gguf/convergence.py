"""When an importance matrix has seen enough text: when more of it no longer changes how weights are rounded.

A matrix only decides which rounding of a block is the best. So rows of the model are rounded twice, by the matrix of
the first half of the text so far and by that of all of it, and the weighted squared errors of both are compared by the
latter. What the first half loses against all of it, all of it is expected to lose against endless text: the mean of n
tokens differs from that of 2n as that of 2n from the true one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ....runtimes.gguf.file import GgufFile, TensorInfo
from ....runtimes.gguf.inputs import Means, Sums
from ....runtimes.gguf.types import TYPES
from .rewrite import as_float

FIRST_LOOK = 2048  # tokens, and then each time that they have doubled
LOSES = 0.01  # of the weighted squared error, which the divergence of the rounded model follows
MATRICES, ROWS = 16, 32  # that are rounded at each look: about as many weights as one matrix of a small model has
TYPES_TRIED = ("Q2_K", "Q4_0")  # the first that the rows fit: coarse, so that the matrix matters

Rows = NDArray[np.float32]


@dataclass
class Convergence:
    """Asked after each chunk of a text whether the matrix is good enough. rows: by the tensor's name."""

    rows: Mapping[str, Rows]
    tokens: int = 0  # of the matrix at the last look
    loses: float | None = None  # what the rounding by that of the look before it loses; None before the second look
    _before: Means = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, file: GgufFile, tensors: Sequence[TensorInfo]) -> Convergence:
        """For a model's file and those of its matrices that are weighted: a few rows of some of them."""
        fit = [tensor for tensor in tensors if _type_of(tensor.columns) is not None]
        chosen = [fit[place * len(fit) // MATRICES] for place in range(MATRICES)] if len(fit) > MATRICES else fit
        return cls({tensor.name: _some_rows(file, tensor) for tensor in chosen})

    def __call__(self, sums: Sums) -> bool:
        """Whether more text would not change the rounding."""
        if sums.tokens < max(FIRST_LOOK, 2 * self.tokens):
            return False
        means = sums.means()
        self.loses = self._loss(means) if self._before else None
        self.tokens, self._before = sums.tokens, means
        return self.done

    @property
    def done(self) -> bool:
        """Whether the last look found nothing that more text would change."""
        return self.loses is not None and self.loses <= LOSES

    def _loss(self, means: Means) -> float:
        """What rounding by the matrix before loses against rounding by this one, relative, by this one's weights."""
        before, now = 0.0, 0.0
        for name, rows in self.rows.items():
            if name in means and name in self._before:
                before += _error(rows, self._before[name], means[name])
                now += _error(rows, means[name], means[name])
        return max(0.0, before / now - 1) if now else 0.0


def _error(rows: Rows, importance: Rows, weights: Rows) -> float:
    """The squared error of rows that are rounded by an importance, weighted by columns."""
    from ....runtimes.gguf.llama.quantizing import dequantize, quantize

    kind = _type_of(rows.shape[1])
    assert kind is not None
    rounded = dequantize(quantize(rows, kind, importance), kind, rows.shape[1])
    return float((np.square(rounded - rows, dtype=np.float64) @ weights.astype(np.float64)).sum())


def _type_of(columns: int) -> int | None:
    return next((TYPES[name].id for name in TYPES_TRIED if TYPES[name].fits(columns)), None)


def _some_rows(file: GgufFile, tensor: TensorInfo) -> Rows:
    """ROWS of a matrix, evenly spaced."""
    places = sorted({place * tensor.rows // ROWS for place in range(ROWS)})
    return np.concatenate([as_float(file.read(tensor, place, 1), tensor) for place in places])
