"""Second moments of a layer's inputs: all that error-compensated rounding and bias correction need, in fixed memory.

For a row x of the float model's input and the row x' of the quantized model's input at the same place, kept are the
means and the centred H = E[x' x'^T] and C = E[x x'^T]. Centred, because the bias takes up every constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST_IN_FLOAT64 = 512  # above this many columns the sums are kept in float32, for memory
TOGETHER_BYTES = 2 * 2**20  # of rows that enter the sums together: a K x K sum costs more to add than to compute
LARGEST_IN_FLOAT32 = 1e15  # above this value the sums of squares may exceed float32


class Moments:
    """Sums over rows (rows, groups, K), one set per group of the layer's input channels.

    Values are summed as distances from the mean of the first rows: a channel that never changes (a dead one, or one
    that a ReLU6 holds at 6) then has a variance of exactly zero, where E[x^2] - E[x]^2 would leave rounding noise of
    any sign.

    diagonal: only the squares are kept; `own` and `cross` are then vectors, (groups, K), in place of matrices.
    """

    def __init__(self, groups: int, K: int, *, diagonal: bool = False) -> None:
        float_type = np.float64 if K <= LARGEST_IN_FLOAT64 else np.float32
        self.rows, self.diagonal = 0, diagonal
        self.available = 0  # rows that the data hold, of which `rows` were drawn: counted by who draws them
        shape = (groups, K) if diagonal else (groups, K, K)
        self._own = np.zeros(shape, float_type)  # sum x' x'^T
        self._cross = np.zeros(shape, float_type)  # sum x x'^T
        self._float_squares = np.zeros((groups, K))  # sum x^2
        self._sum = np.zeros((groups, K))
        self._float_sum = np.zeros((groups, K))
        self._origins: tuple[NDArray[Any], NDArray[Any]] | None = None  # of x and x'
        self._waiting: list[NDArray[Any]] = []  # room for rows of x and of x' that are in none of the sums yet
        self._filled, self._alike = 0, True  # how many of them there are, and whether all x' are x

    def update(self, float_rows: NDArray[Any], quantized_rows: NDArray[Any]) -> None:
        """Add one batch of rows, (rows, groups, K) each, the same places of the two models."""
        count = len(float_rows)
        self.rows += count
        room = TOGETHER_BYTES // (4 * max(self._sum.size, 1))
        narrow = np.float32 == float_rows.dtype == quantized_rows.dtype
        if self.diagonal or count > room // 2 or not narrow:  # vectors are cheap to add
            self._add(float_rows, quantized_rows)
            return
        if self._filled + count > room:
            self._sum_up()
        if not self._waiting:  # once, and not a list of small arrays: these would lie scattered over the heap
            self._waiting = [np.empty((room, *self._sum.shape), np.float32) for _ in range(2)]
        for waiting, rows in zip(self._waiting, (float_rows, quantized_rows), strict=True):
            waiting[self._filled : self._filled + count] = rows
        self._filled += count
        self._alike &= float_rows is quantized_rows

    def _sum_up(self) -> None:
        """Add the waiting rows to the sums."""
        if self._filled:
            x, y = (rows[: self._filled] for rows in self._waiting)
            self._add(x, x if self._alike else y)
        self._filled, self._alike = 0, True

    def _add(self, float_rows: NDArray[Any], quantized_rows: NDArray[Any]) -> None:
        if self._origins is None:
            means = [rows.mean(axis=0, dtype=np.float64) for rows in (float_rows, quantized_rows)]
            self._origins = means[0].astype(np.float32), means[1].astype(np.float32)
        alike = float_rows is quantized_rows and np.array_equal(*self._origins)
        x = self._from_origin(float_rows, 0)
        y = x if alike else self._from_origin(quantized_rows, 1)
        if np.float64 in (x.dtype, y.dtype):
            self._own, self._cross = self._own.astype(np.float64), self._cross.astype(np.float64)
        squares = np.einsum("grk,grk->gk", x, x)
        self._float_squares += squares
        if self.diagonal:
            self._own += squares if y is x else np.einsum("grk,grk->gk", y, y)
            self._cross += squares if y is x else np.einsum("grk,grk->gk", x, y)
        else:
            own = y.transpose(0, 2, 1) @ y
            self._own += own
            self._cross += own if y is x else x.transpose(0, 2, 1) @ y
        self._sum += y.sum(axis=1, dtype=np.float64)
        self._float_sum += x.sum(axis=1, dtype=np.float64)

    def _from_origin(self, rows: NDArray[Any], which: int) -> NDArray[Any]:
        """(groups, rows, K), float32; float64 where the squares need it."""
        assert self._origins is not None
        large = rows.size and max(-float(rows.min()), float(rows.max())) > LARGEST_IN_FLOAT32
        wide = rows.astype(np.float64) if large else rows
        centred = (wide - self._origins[which]).transpose(1, 0, 2)
        return np.ascontiguousarray(centred, np.float64 if large else np.float32)

    @property
    def mean(self) -> Array:
        """E[x'], the quantized model's mean input: (groups, K)."""
        self._sum_up()
        return self._origin(1) + self._sum / max(self.rows, 1)

    @property
    def float_mean(self) -> Array:
        """E[x], the float model's mean input: (groups, K)."""
        self._sum_up()
        return self._origin(0) + self._float_sum / max(self.rows, 1)

    def _origin(self, which: int) -> Array:
        return np.zeros(self._sum.shape) if self._origins is None else self._origins[which].astype(np.float64)

    @property
    def float_variance(self) -> Array:
        """The variance of the float model's input: (groups, K)."""
        self._sum_up()
        count = max(self.rows, 1)
        return np.asarray(np.maximum(self._float_squares / count - (self._float_sum / count) ** 2, 0.0))

    @property
    def variance(self) -> Array:
        """The diagonal of H: (groups, K)."""
        self._sum_up()
        own, count = self._own, max(self.rows, 1)
        squares = own if self.diagonal else np.einsum("gkk->gk", own)
        return np.asarray(np.maximum(squares.astype(np.float64) / count - (self._sum / count) ** 2, 0.0))

    @property
    def own(self) -> Array:
        """H, the covariance of the quantized model's input: (groups, K, K), or its diagonal (groups, K)."""
        self._sum_up()
        return self._centred(self._own, self._sum)

    @property
    def cross(self) -> Array:
        """C, the covariance of the float model's input with the quantized model's: (groups, K, K)."""
        self._sum_up()
        return self._centred(self._cross, self._float_sum)

    def _centred(self, sums: NDArray[Any], left_sum: Array) -> Array:
        count = max(self.rows, 1)
        moments, left, mean = sums.astype(np.float64), left_sum / count, self._sum / count
        moments /= count
        moments -= left * mean if self.diagonal else left[:, :, None] * mean[:, None, :]
        return moments


def damping_level(H: Array, damping: float, power: Array | None = None) -> Array:
    """d = `damping` times the mean of H's diagonal, 1 where that is zero. H: (..., K, K). Returns (..., 1, 1).

    power: (..., K), another input's variances, which d is measured against where they are larger in the mean.
    """
    mean = np.einsum("...kk->...", H)[..., None, None] / H.shape[-1]
    if power is not None:
        mean = np.maximum(mean, power.mean(axis=-1)[..., None, None])
    return np.where(mean > 0, damping * mean, 1.0)


def damped(H: Array, damping: float) -> Array:
    """H + d I: invertible, with little weight on directions that were hardly ever seen. H: (..., K, K)."""
    return with_diagonal(H, damping_level(H, damping))


def with_diagonal(H: Array, level: Array) -> Array:
    """H + level I, without the matrices in between. H: (..., K, K), level: (..., 1, 1)."""
    added = H.copy()
    np.einsum("...kk->...k", added)[...] += level[..., 0]  # a view of the diagonal
    return added


def output_error(W: Array, W_q: Array, H: Array | None) -> Array:
    """E[((W_q - W) x)^2] of every output, without its mean: the diagonal of E H E^T.

    W, W_q: (..., outputs, K), H: (..., K, K), its diagonal (..., K), or None for the identity. Returns (..., outputs).
    """
    E = W_q - W
    if H is None:
        return np.asarray(np.einsum("...k,...k->...", E, E))
    product = E @ H if H.ndim == W.ndim and H.shape[-2] == H.shape[-1] else E * H[..., None, :]
    return np.asarray(np.maximum(np.einsum("...k,...k->...", product, E), 0.0))
