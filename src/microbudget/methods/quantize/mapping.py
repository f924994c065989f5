"""Mappings between reals and integers of 2 to 8 bits: `real = S * (q - Z)`, per tensor, channel or group.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
eq. 1.
Rounding is half to even and the division is float32's, as ONNX's QuantizeLinear has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel, InvalidOption

Real = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # a denormal S would lose bits, and runtimes flush it to zero
LARGEST = float(np.finfo(np.float32).max)


def integer_range(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """The smallest and the largest integer of `bits` bits; raises InvalidOption outside 2 to 8."""
    if not 2 <= bits <= 8:
        raise InvalidOption(f"bits must be from 2 to 8, not {bits!r}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def extremes(x: Real, *, axis: int | None = None, group: int | None = None) -> tuple[Real, Real]:
    """The smallest and the largest value, in float64: of the tensor (), of each channel of `axis` (channels,),
    or of each run of `group` values along the last axis (..., groups), the last of which may be short.

    Raises BrokenModel on NaN or infinity.
    """
    if group is not None:
        starts = np.arange(0, x.shape[-1], group)
        low, high = np.minimum.reduceat(x, starts, axis=-1), np.maximum.reduceat(x, starts, axis=-1)
    else:
        others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        low, high = x.min(axis=others), x.max(axis=others)
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    _check_finite(low, high)
    return low, high


def _check_finite(*values: Real) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise BrokenModel(
            "a tensor holds NaN or infinity and cannot be quantized: is the model or its training broken?"
        )


def affine(low: Real, high: Real, bits: int, *, signed: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scale S and zero point Z that map [low, high] onto the integers of `bits` bits.

    low, high: any one shape, () or (channels,) or (rows, groups); widened to hold zero, which stays exact.
    Returns S > 0 and integer Z of that shape, with real = S * (q - Z). Jacob et al. 2018, eq. 1.
    """
    smallest, largest = integer_range(bits, signed=signed)
    _check_finite(low, high)
    low, high = np.minimum(np.asarray(low, np.float64), 0), np.maximum(np.asarray(high, np.float64), 0)
    S = _usable_scale((high - low) / (largest - smallest))
    Z = np.clip(np.rint(smallest - low / S), smallest, largest)
    return S, Z.astype(np.int32)


def symmetric(largest_magnitude: Real, bits: int, *, signed: bool = True) -> NDArray[np.float32]:
    """Scale S (with Z = 0) that maps magnitudes up to `largest_magnitude` onto the integers of `bits` bits.

    Signed, both ends must fit, so S = largest / (2^(bits-1) - 1); unsigned is for values that are never negative.
    """
    _, largest = integer_range(bits, signed=signed)
    magnitude = np.abs(np.asarray(largest_magnitude, np.float64))
    _check_finite(magnitude)
    return _usable_scale(magnitude / largest)


def _usable_scale(S: Real) -> NDArray[np.float32]:
    """S as float32, above zero: all zeros get 1, denormals the smallest normal number."""
    return np.where(S == 0, 1.0, np.maximum(S, SMALLEST_SCALE)).astype(np.float32)


def spread(values: NDArray[Any], shape: tuple[int, ...], *, axis: int | None, group: int | None) -> NDArray[Any]:
    """S or Z, one per tensor, channel or group, in a shape that broadcasts against a tensor of `shape`."""
    if values.ndim == 0:
        return values
    if group is not None:
        return np.repeat(values, group, axis=-1)[..., : shape[-1]]
    if axis is None:
        raise ValueError(f"S and Z of shape {values.shape} need an axis or a group")
    return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def quantize(
    x: Real,
    S: NDArray[np.float32],
    Z: NDArray[np.int32] | int = 0,
    bits: int = 8,
    *,
    signed: bool = True,
    axis: int | None = None,
    group: int | None = None,
) -> Integers:
    """q = clamp(round(x / S) + Z), int8 or uint8 whatever the bits, of x's shape. Raises BrokenModel on NaN.

    S and Z: () per tensor, (channels,) with `axis`, (..., groups) with `group`.
    """
    smallest, largest = integer_range(bits, signed=signed)
    scale = spread(np.asarray(S, np.float32), x.shape, axis=axis, group=group)
    zero = spread(np.asarray(Z, np.int32), x.shape, axis=axis, group=group)
    with np.errstate(over="ignore"):
        q = np.rint(np.asarray(x, np.float32) / scale)
    if np.isnan(q).any():
        raise BrokenModel("a tensor holds NaN and cannot be quantized: did its training diverge?")
    integer_type = np.int8 if signed else np.uint8
    return np.asarray(np.clip(q + zero, smallest, largest).astype(integer_type))


def dequantize(
    q: Integers,
    S: NDArray[np.float32],
    Z: NDArray[np.int32] | int = 0,
    *,
    axis: int | None = None,
    group: int | None = None,
) -> NDArray[np.float32]:
    """real = S * (q - Z), of q's shape; S and Z as in `quantize`. A value beyond float32 is its largest."""
    scale = spread(np.asarray(S, np.float64), q.shape, axis=axis, group=group)
    zero = spread(np.asarray(Z, np.int32), q.shape, axis=axis, group=group)
    real = scale * (q.astype(np.int32) - zero)
    return np.asarray(np.clip(real, -LARGEST, LARGEST), np.float32)


def rounding_error(x: NDArray[np.float32], S: float, Z: int, *, signed: bool = True) -> NDArray[np.float32]:
    """dequantize(quantize(x)) - x at 8 bits with one scale, without the integers between: one temporary, not five."""
    smallest, largest = integer_range(8, signed=signed)
    e = x / np.float32(S)
    np.rint(e, out=e)
    np.clip(e, smallest - Z, largest - Z, out=e)
    e *= np.float32(S)
    e -= x
    return e
