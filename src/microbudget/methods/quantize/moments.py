"""Second moments of a layer's inputs: all that error-compensated rounding and bias correction need, in fixed memory.

For a row x of the float model's input and the row x' of the quantized model's input at the same place, kept are the
means and the centred H = E[x' x'^T] and C = E[x x'^T]. Centred, because the bias takes up every constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST_IN_FLOAT64 = 1536  # above this many columns the sums are kept in float32, for memory


class Moments:
    """Sums over rows (rows, groups, K), one set per group of the layer's input channels.

    diagonal: only the squares are kept, a vector in place of a matrix; `own` and `cross` are then diagonal.
    """

    def __init__(self, groups: int, K: int, *, diagonal: bool = False) -> None:
        kind = np.float64 if K <= LARGEST_IN_FLOAT64 else np.float32
        self.rows, self.diagonal = 0, diagonal
        shape = (groups, K) if diagonal else (groups, K, K)
        self._own = np.zeros(shape, kind)  # sum x' x'^T
        self._cross = np.zeros(shape, kind)  # sum x x'^T
        self._sum = np.zeros((groups, K))
        self._float_sum = np.zeros((groups, K))

    def update(self, float_rows: NDArray[Any], quantized_rows: NDArray[Any]) -> None:
        """Add one batch of rows, (rows, groups, K) each, the same places of the two models."""
        x, y = (np.ascontiguousarray(rows.transpose(1, 0, 2), np.float32) for rows in (float_rows, quantized_rows))
        self.rows += x.shape[1]
        if self.diagonal:
            self._own += np.einsum("grk,grk->gk", y, y)
            self._cross += np.einsum("grk,grk->gk", x, y)
        else:
            self._own += y.transpose(0, 2, 1) @ y
            self._cross += x.transpose(0, 2, 1) @ y
        self._sum += y.sum(axis=1, dtype=np.float64)
        self._float_sum += x.sum(axis=1, dtype=np.float64)

    @property
    def mean(self) -> Array:
        """E[x'], the quantized model's mean input: (groups, K)."""
        return np.asarray(self._sum / max(self.rows, 1))

    @property
    def float_mean(self) -> Array:
        """E[x], the float model's mean input: (groups, K)."""
        return np.asarray(self._float_sum / max(self.rows, 1))

    @property
    def own(self) -> Array:
        """H, the covariance of the quantized model's input: (groups, K, K)."""
        return self._centred(self._own, self.mean)

    @property
    def cross(self) -> Array:
        """C, the covariance of the float model's input with the quantized model's: (groups, K, K)."""
        return self._centred(self._cross, self.float_mean)

    def _centred(self, sums: NDArray[Any], left_mean: Array) -> Array:
        moments = sums.astype(np.float64) / max(self.rows, 1)
        if self.diagonal:
            return np.asarray((moments - left_mean * self.mean)[..., None] * np.eye(moments.shape[-1]))
        return np.asarray(moments - left_mean[:, :, None] * self.mean[:, None, :])


def damping_level(H: Array, damping: float) -> Array:
    """d = `damping` times the mean of H's diagonal, 1 where that is zero. H: (..., K, K). Returns (..., 1, 1)."""
    mean = np.einsum("...kk->...", H)[..., None, None] / H.shape[-1]
    return np.where(mean > 0, damping * mean, 1.0)


def damped(H: Array, damping: float) -> Array:
    """H + d I: invertible, and shy of directions that were hardly ever seen. H: (..., K, K)."""
    return np.asarray(H + damping_level(H, damping) * np.eye(H.shape[-1]))


def output_error(W: Array, W_q: Array, H: Array) -> Array:
    """E[((W_q - W) x)^2] of every output, without its mean: the diagonal of E H E^T.

    W, W_q: (..., outputs, K), H: (..., K, K). Returns (..., outputs).
    """
    E = W_q - W
    return np.asarray(np.maximum(((E @ H) * E).sum(axis=-1), 0.0))
