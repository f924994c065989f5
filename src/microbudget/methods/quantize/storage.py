"""Weights in a file: integers of fewer than 7 bits are stored packed, and unpacked by nodes that fold on loading.

The unpacking is plain ONNX on constants: division, remainder and sums of int32 (OpenVINO's BitShift does not drop what
leaves a byte). ONNX Runtime and OpenVINO compute it once when they load the model, so that 2, 3 or 4 bits on disk
run as fast as 8 bits do, in int8 kernels. Folding passes through int32: opening MobileNetV2 took 130 MB more. For the
eighth of the bytes that 7 bits would save (they are what 8 bits become where sums would saturate) that is not worth it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .packing import FIELDS, split

if TYPE_CHECKING:
    from .graph import Layer
    from .write import Writer

PACKED = 6  # bits: up to here weights are packed


def integers(writer: Writer, layer: Layer, *, transposed: bool = False) -> str:
    """The name of the layer's int8 weights, as they are or (of a matrix) transposed."""
    weights = writer.plan.weights[layer.name]
    q = np.ascontiguousarray(weights.q.T) if transposed else weights.q
    name = f"{writer.short(layer)}{'t' if transposed else ''}.int8"
    if writer.has(name):
        return name
    if weights.bits > PACKED:
        return writer.constant(name, q)
    offset = 1 << (weights.bits - 1)
    codes = (q.astype(np.int16) + offset).astype(np.uint8)
    total = _unpacked(writer, name, split(codes, weights.bits), weights.bits, codes.size)
    centred = writer.add("Sub", [total, writer.constant(f"int32.{offset}", np.int32(offset))], f"{name}.centred")
    narrow = writer.add("Cast", [centred], f"{name}.flat", to=TensorProto.INT8)
    shape = "x".join(map(str, q.shape))
    return writer.add("Reshape", [narrow, writer.constant(f"shape.{shape}", np.array(q.shape, np.int64))], name)


def _unpacked(writer: Writer, name: str, planes: list[NDArray[np.uint8]], bits: int, count: int) -> str:
    """The planes' fields put together again: (count,) int32 from 0 to 2^bits - 1."""
    total, shift = "", 0
    for width, packed in zip(FIELDS[bits], planes, strict=True):
        field = _fields(writer, f"{name}.{shift}", packed, width, count)
        if shift:
            weight = writer.constant(f"int32.{1 << shift}", np.int32(1 << shift))
            field = writer.add("Mul", [field, weight], f"{name}.{shift}.raised")
            total = writer.add("Add", [total, field], f"{name}.{shift}.sum")
        else:
            total = field
        shift += width
    return total


def _fields(writer: Writer, name: str, packed: NDArray[np.uint8], width: int, count: int) -> str:
    """The fields of `width` bits of each byte, lowest first, as (count,) int32: byte / 2^(width * i) mod 2^width."""
    per_byte = 8 // width
    column = writer.constant(f"{name}.bytes", packed.reshape(-1, 1))
    wide = writer.add("Cast", [column], f"{name}.wide", to=TensorProto.INT32)
    if per_byte > 1:
        steps = (1 << width * np.arange(per_byte)).astype(np.int32)
        wide = writer.add("Div", [wide, writer.constant(f"steps.{width}", steps)], f"{name}.shifted")
        modulus = writer.constant(f"int32.{1 << width}", np.int32(1 << width))
        wide = writer.add("Mod", [wide, modulus], f"{name}.fields")
    flat = writer.constant("shape.flat", np.array([-1], np.int64))
    row = writer.add("Reshape", [wide, flat], f"{name}.row")
    if packed.size * per_byte == count:
        return row
    ends = [writer.constant(f"int64.{n}", np.array([n], np.int64)) for n in (0, count)]
    return writer.add("Slice", [row, *ends], f"{name}.cut")


def real_weights(writer: Writer, layer: Layer) -> str:
    """The name of the layer's weights as floats, S times the stored integers: folded on loading, float at run time."""
    weights, name = writer.plan.weights[layer.name], f"{writer.short(layer)}.real"
    if writer.has(name):
        return name
    wide = writer.add("Cast", [integers(writer, layer)], f"{name}.integers", to=TensorProto.FLOAT)
    S: NDArray[Any] = weights.S.reshape([-1 if i == layer.outputs_axis else 1 for i in range(weights.q.ndim)])
    return writer.add("Mul", [wide, writer.constant(f"{name}.S", S)], name)
