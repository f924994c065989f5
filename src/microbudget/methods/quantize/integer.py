"""The integer forward pass of linear and convolution layers: what a runtime computes once S and Z are known.

    q_y = clamp(Z_y + round((S_w S_x / S_y) * (sum((q_w - Z_w) (q_x - Z_x)) + q_b)))

Jacob et al. 2018, eqs. 4, 7 and 8: products are summed into int32, the bias lies at scale S_w S_x with zero point 0,
and the zero points leave the inner loop as correction terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mapping import Integers, Real, integer_range
from .patches import Geometry, patches

INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Quantized:
    """A tensor as integers with its mapping, real = S * (q - Z). S and Z: () or, for weights, (outputs,)."""

    q: Integers
    S: NDArray[np.float32]
    Z: NDArray[np.int32]


@dataclass(frozen=True)
class Target:
    """The mapping of a layer's output."""

    S: float
    Z: int
    bits: int = 8
    signed: bool = False


def quantize_bias(b: Real, S_w: Real, S_x: Real | float) -> NDArray[np.int32]:
    """q_b = round(b / (S_w S_x)), saturated to int32. b: (outputs,), S_w: () or (outputs,), S_x: ()."""
    scale = np.asarray(S_w, np.float64) * np.float64(S_x)
    return np.clip(np.rint(np.asarray(b, np.float64) / scale), INT32.min, INT32.max).astype(np.int32)


def scale_with_room(S_w: NDArray[np.float32], S_x: float, b: Real) -> NDArray[np.float32]:
    """S_w, enlarged where the bias would not fit into int32 at scale S_w S_x: a dead channel with a bias. (outputs,)"""
    needed = np.abs(np.asarray(b, np.float64)) / (S_x * (INT32.max // 2))
    return np.maximum(S_w, needed).astype(np.float32)


def zero_point_terms(q_x: Integers, Z_x: int, q_w: Integers, Z_w: NDArray[np.int32]) -> NDArray[np.int64]:
    """What turns sum(q_w q_x) into sum((q_w - Z_w) (q_x - Z_x)): -Z_w sum(q_x) - Z_x sum(q_w) + K Z_w Z_x.

    q_x: (rows, K), q_w: (outputs, K), Z_w: (outputs,). Returns (rows, outputs). Only the first term needs the input.
    """
    K = q_w.shape[1]
    sums_x = q_x.sum(axis=1, dtype=np.int64)[:, None]
    sums_w = q_w.sum(axis=1, dtype=np.int64)
    zeros = Z_w.astype(np.int64)
    terms: NDArray[np.int64] = -zeros * sums_x - Z_x * sums_w + K * zeros * Z_x
    return terms


def accumulate(
    q_x: Integers, Z_x: int, q_w: Integers, Z_w: NDArray[np.int32], q_b: NDArray[np.int32]
) -> NDArray[np.int32]:
    """sum((q_w - Z_w) (q_x - Z_x)) + q_b as int32, which wraps as the hardware does. Shapes as in `zero_point_terms`.

    The products go through float64's matrix product, which is exact here: no sum reaches 2^53.
    """
    products = (q_x.astype(np.float64) @ q_w.T.astype(np.float64)).astype(np.int64)
    total = products + zero_point_terms(q_x, Z_x, q_w, Z_w) + q_b
    return total.astype(np.int32)


def requantize(sums: NDArray[np.int32], multiplier: Real, target: Target) -> Integers:
    """clamp(Z_y + round(M * sums)) with M = S_w S_x / S_y. sums: (rows, outputs), M: () or (outputs,)."""
    smallest, largest = integer_range(target.bits, signed=target.signed)
    q = np.rint(sums * np.asarray(multiplier, np.float64)) + target.Z
    integer_type = np.int8 if target.signed else np.uint8
    return np.asarray(np.clip(q, smallest, largest).astype(integer_type))


def linear(x: Quantized, w: Quantized, q_b: NDArray[np.int32], target: Target) -> Integers:
    """x.q: (rows, K), w.q: (outputs, K), q_b: (outputs,) at scale S_w S_x. Returns q_y, (rows, outputs)."""
    Z_w = np.broadcast_to(w.Z, w.q.shape[:1])
    sums = accumulate(x.q, int(x.Z), w.q, Z_w, q_b)
    return requantize(sums, np.float64(x.S) * w.S.astype(np.float64) / target.S, target)


def conv(x: Quantized, w: Quantized, q_b: NDArray[np.int32], target: Target, geometry: Geometry) -> Integers:
    """x.q: (batch, channels, *space), w.q: (outputs, channels / groups, *kernel). Returns (batch, outputs, *positions).

    Padding is Z_x, the integer of real zero. Output channels are split among the groups in order.
    """
    outputs, groups = w.q.shape[0], geometry.groups
    per_group = outputs // groups
    columns = patches(x.q, geometry, padding=int(x.Z))  # (batch, *positions, groups, K)
    positions = columns.shape[:-2]
    rows = columns.reshape(-1, groups, columns.shape[-1])
    scale, zero = np.broadcast_to(w.S, (outputs,)), np.broadcast_to(w.Z, (outputs,))
    parts = []
    for group in range(groups):
        part = slice(group * per_group, (group + 1) * per_group)
        kernel = Quantized(w.q[part].reshape(per_group, -1), scale[part], zero[part])
        parts.append(linear(Quantized(rows[:, group], x.S, x.Z), kernel, q_b[part], target))
    joined: NDArray[Any] = np.concatenate(parts, axis=1).reshape(*positions, outputs)
    return np.moveaxis(joined, -1, 1)
