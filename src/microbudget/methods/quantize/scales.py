"""Scales of weights by least squares: the S that loses least, over the weights or over the layer's output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mapping import SMALLEST_SCALE, integer_range, symmetric

Array = NDArray[np.float64]

COARSE = np.linspace(1.05, 0.3, 16)  # of the scale at which the largest weight just fits
BETWEEN = (0.025, -0.025)  # also tried around the best of these
FINE = np.linspace(1.025, 0.8, 10)  # where steps are small, clipping the largest weights does not pay


def rounded(W: Array, S: Array, bits: int) -> Array:
    """clamp(round(W / S)), as float64. W: (..., outputs, K), S: (..., outputs)."""
    return np.clip(np.rint(W / S[..., None]), *integer_range(bits))


def min_max_scale(W: Array, bits: int) -> Array:
    """The symmetric scale at which every weight of an output fits. (..., outputs, K) -> (..., outputs)"""
    return symmetric(np.abs(W).max(axis=-1), bits).astype(np.float64)


def least_squares_scale(W: Array, bits: int, H: Array | None = None) -> Array:
    """The scale of least squared error among fractions of `min_max_scale`, for each output: (..., outputs).

    The error is that of the weights (..., outputs, K), or with the input's second moments H (..., K, K) that of the
    layer's output, E H E^T.
    """
    widest = min_max_scale(W, bits)
    best, least = widest, _error(W, widest, bits, H)
    for fraction in FINE if bits > 6 else COARSE:
        best, least = _better(W, bits, H, _as_stored(widest * fraction), best, least)
    if bits > 6:
        return best
    centre = best
    for step in BETWEEN:
        best, least = _better(W, bits, H, _as_stored(centre + step * widest), best, least)
    return best


def _better(W: Array, bits: int, H: Array | None, S: Array, best: Array, least: Array) -> tuple[Array, Array]:
    """The better of two scales and its error, output by output."""
    error = _error(W, S, bits, H)
    return np.where(error < least, S, best), np.minimum(error, least)


def group_scales(W: Array, bits: int, group: int) -> Array:
    """`least_squares_scale` of every run of `group` inputs, the last may be short: (..., outputs, groups)."""
    K = W.shape[-1]
    padded = np.zeros((*W.shape[:-1], -(-K // group) * group))
    padded[..., :K] = W
    return least_squares_scale(padded.reshape(*W.shape[:-1], -1, group), bits)


def _error(W: Array, S: Array, bits: int, H: Array | None) -> Array:
    E = W - rounded(W, S, bits) * S[..., None]
    product: Array = E if H is None else E @ H
    return np.asarray(np.einsum("...ok,...ok->...o", product, E))


def refitted_scale(W: Array, Q: Array, H: Array, S: Array) -> Array:
    """The scale that is best for integers Q already chosen: s = (w H q) / (q H q), where that is above zero, else S.

    W, Q: (..., outputs, K), H: (..., K, K), S: (..., outputs). Minimizes (w - s q) H (w - s q)^T.
    """
    QH = Q @ H
    shared, own = np.einsum("...ok,...ok->...o", QH, W), np.einsum("...ok,...ok->...o", QH, Q)
    usable = (shared > 0) & (own > 0)
    fitted = np.where(usable, shared / np.where(usable, own, 1.0), S)
    return _as_stored(fitted)


def _as_stored(S: Array) -> Array:
    """S as the file will hold it: a normal float32."""
    return np.maximum(S, SMALLEST_SCALE).astype(np.float32).astype(np.float64)
