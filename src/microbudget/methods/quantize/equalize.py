"""Folding batch norms and equalizing channels across layers: the function stays the same and is easier to quantize.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1
(arXiv:1906.04721).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fold_batch_norm(
    W: Array, b: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Weights and bias of one layer that equals gamma * (W x + b - mean) / sqrt(variance + epsilon) + beta.

    W: (outputs, ...), all others (outputs,).
    """
    factor = gamma / np.sqrt(variance + epsilon)
    return W * factor.reshape(-1, *[1] * (W.ndim - 1)), (b - mean) * factor + beta


def equalizing_factors(range_out: Array, range_in: Array, largest_factor: float = 1e3) -> Array:
    """s = sqrt(r1 / r2) for every channel between two layers (eq. 11): W1 / s and s W2 both have range sqrt(r1 r2).

    range_out, range_in: (channels,), the largest weight of each output of the first and input of the second layer.
    Dead channels (a zero range) keep s = 1; s stays within [1 / largest_factor, largest_factor].
    """
    alive = (range_out > 0) & (range_in > 0)
    ratio = np.where(alive, range_out, 1.0) / np.where(alive, range_in, 1.0)
    return np.clip(np.sqrt(ratio), 1 / largest_factor, largest_factor)


def equalized(W1: Array, b1: Array, W2: Array, groups: int = 1) -> tuple[Array, Array, Array]:
    """(W1, b1, W2) of the same function through any positively homogeneous activation such as ReLU (eqs. 5 to 7).

    W1: (channels, ...), b1: (channels,), W2: (outputs, channels / groups, ...); `groups` are the second layer's.
    """
    by_input = _by_input(W2, groups)
    range_in = np.abs(by_input).reshape(groups, -1, by_input.shape[2], int(np.prod(W2.shape[2:])))
    s = equalizing_factors(np.abs(W1).reshape(len(W1), -1).max(axis=1), range_in.max(axis=(1, 3)).ravel())
    scaled = by_input * s.reshape(groups, 1, -1, *[1] * (W2.ndim - 2))
    return W1 / s.reshape(-1, *[1] * (W1.ndim - 1)), b1 / s, scaled.reshape(W2.shape)


def _by_input(W: Array, groups: int) -> Array:
    """(outputs, channels / groups, ...) as (groups, outputs / groups, channels / groups, ...)."""
    return W.reshape(groups, -1, *W.shape[1:])
