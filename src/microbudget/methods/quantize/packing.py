"""Integers of fewer than 8 bits, packed into bytes and unpacked again.

A width is split into fields whose width divides 8, so that no value crosses a byte: 4 is (4,), 2 is (2,), 3 is (2, 1),
a plane of the two low bits followed by a plane of the high bit. Within a plane the first value takes the lowest bits,
as in ONNX's INT4 and INT2. Signed values are stored in two's complement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mapping import Integers, integer_range

FIELDS: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_size(count: int, bits: int) -> int:
    """The bytes that `count` values of `bits` bits take."""
    integer_range(bits)
    return sum(-(-count * width // 8) for width in FIELDS[bits])


def split(q: Integers, bits: int) -> list[NDArray[np.uint8]]:
    """The planes of `q` (any shape, read in C order), each packed: one array of bytes per field of FIELDS[bits].

    Raises ValueError when a value does not fit into `bits` bits.
    """
    smallest, largest = integer_range(bits, signed=q.dtype == np.int8)
    if q.size and not (smallest <= q.min() and q.max() <= largest):
        raise ValueError(f"{bits}-bit values lie in {smallest}..{largest}, not {q.min()}..{q.max()}")
    codes, planes = q.ravel().view(np.uint8), []
    for width in FIELDS[bits]:
        planes.append(_pack_field(codes & np.uint8((1 << width) - 1), width))
        codes = codes >> np.uint8(width)
    return planes


def _pack_field(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """codes: (n,), each below 2^width, width a divisor of 8. Returns (ceil(n * width / 8),)."""
    per_byte = 8 // width
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(width)
    joined: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return joined


def _unpack_field(packed: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    shifts = np.arange(8 // width, dtype=np.uint8) * np.uint8(width)
    return ((packed[:, None] >> shifts) & np.uint8((1 << width) - 1)).ravel()[:count]


def pack(q: Integers, bits: int) -> NDArray[np.uint8]:
    """The values of `q` (int8 or uint8, any shape) in `bits` bits each: (packed_size,) bytes, plane after plane."""
    return np.concatenate(split(q, bits))


def unpack(packed: NDArray[np.uint8], bits: int, count: int, *, signed: bool = True) -> Integers:
    """The inverse of `pack`: (count,) values, int8 when signed else uint8."""
    if packed.size != packed_size(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {packed_size(count, bits)} bytes, not {packed.size}")
    codes, offset, shift = np.zeros(count, np.uint8), 0, 0
    for width in FIELDS[bits]:
        size = -(-count * width // 8)
        codes |= _unpack_field(packed[offset : offset + size], width, count) << np.uint8(shift)
        offset, shift = offset + size, shift + width
    return _sign_extended(codes, bits) if signed else codes


def _sign_extended(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    unused = 8 - bits
    return (codes << np.uint8(unused)).view(np.int8) >> np.int8(unused)
