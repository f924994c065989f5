"""Weights in a file: integers of fewer than 7 bits are stored packed, and unpacked by nodes that fold on loading.

The unpacking is plain ONNX on constants: division, remainder and sums of int32 (OpenVINO's BitShift does not drop what
leaves a byte). ONNX Runtime and OpenVINO compute it once when they load the model, so that 2, 3 or 4 bits on disk
run as fast as 8 bits do, in int8 kernels. Folding passes through int32: opening MobileNetV2 took 130 MB more. For the
eighth of the bytes that 7 bits would save (they are what 8 bits become where sums would saturate) that is not worth it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .builder import GraphBuilder
from .graph import Layer
from .packing import FIELDS, split
from .plan import Plan

PACKED = 6  # bits: up to here weights are packed


class StoredWeights:
    """Writes each layer's integers into a new graph once, in the forms in which kernels read them."""

    def __init__(self, plan: Plan, builder: GraphBuilder) -> None:
        self._plan, self._builder = plan, builder
        self._shorts: dict[tuple[str, int], str] = {}

    def short(self, layer: Layer) -> str:
        """A short name for a layer's integers: unpacking has many nodes, and names are bytes in the file.

        Layers that share their integers share it; weights that were rounded twice, for two kernels, have two.
        """
        return self._shorts.setdefault((layer.weight, id(self._plan.weights[layer.name].q)), f"w{len(self._shorts)}")

    def integers(self, layer: Layer, *, transposed: bool = False) -> str:
        """The name of the layer's int8 weights, as they are or (of a matrix) transposed."""
        weights, builder = self._plan.weights[layer.name], self._builder
        q = np.ascontiguousarray(weights.q.T) if transposed else weights.q
        name = f"{self.short(layer)}{'t' if transposed else ''}.int8"
        if builder.has(name):
            return name
        if weights.bits > PACKED:
            return builder.constant(name, q)
        offset = 1 << (weights.bits - 1)
        codes = (q.astype(np.int16) + offset).astype(np.uint8)
        total = _unpacked(builder, name, split(codes, weights.bits), weights.bits, codes.size)
        centred = builder.add("Sub", [total, builder.constant(f"int32.{offset}", np.int32(offset))], f"{name}.centred")
        narrow = builder.add("Cast", [centred], f"{name}.flat", to=TensorProto.INT8)
        shape = "x".join(map(str, q.shape))
        return builder.add("Reshape", [narrow, builder.constant(f"shape.{shape}", np.array(q.shape, np.int64))], name)

    def real(self, layer: Layer) -> str:
        """The name of the layer's weights as floats, S times the stored integers: computed once, on loading."""
        weights, builder, name = self._plan.weights[layer.name], self._builder, f"{self.short(layer)}.real"
        if builder.has(name):
            return name
        wide = builder.add("Cast", [self.integers(layer)], f"{name}.integers", to=TensorProto.FLOAT)
        S: NDArray[Any] = weights.S.reshape([-1 if i == layer.outputs_axis else 1 for i in range(weights.q.ndim)])
        return builder.add("Mul", [wide, builder.constant(f"{name}.S", S)], name)


def _unpacked(builder: GraphBuilder, name: str, planes: list[NDArray[np.uint8]], bits: int, count: int) -> str:
    """The planes' fields put together again: (count,) int32 from 0 to 2^bits - 1."""
    total, shift = "", 0
    for width, packed in zip(FIELDS[bits], planes, strict=True):
        field = _fields(builder, f"{name}.{shift}", packed, width, count)
        if shift:
            weight = builder.constant(f"int32.{1 << shift}", np.int32(1 << shift))
            field = builder.add("Mul", [field, weight], f"{name}.{shift}.raised")
            total = builder.add("Add", [total, field], f"{name}.{shift}.sum")
        else:
            total = field
        shift += width
    return total


def _fields(builder: GraphBuilder, name: str, packed: NDArray[np.uint8], width: int, count: int) -> str:
    """The fields of `width` bits of each byte, lowest first, as (count,) int32: byte / 2^(width * i) mod 2^width."""
    per_byte = 8 // width
    column = builder.constant(f"{name}.bytes", packed.reshape(-1, 1))
    wide = builder.add("Cast", [column], f"{name}.wide", to=TensorProto.INT32)
    if per_byte > 1:
        steps = (1 << width * np.arange(per_byte)).astype(np.int32)
        wide = builder.add("Div", [wide, builder.constant(f"steps.{width}", steps)], f"{name}.shifted")
        modulus = builder.constant(f"int32.{1 << width}", np.int32(1 << width))
        wide = builder.add("Mod", [wide, modulus], f"{name}.fields")
    flat = builder.constant("shape.flat", np.array([-1], np.int64))
    row = builder.add("Reshape", [wide, flat], f"{name}.row")
    if packed.size * per_byte == count:
        return row
    ends = [builder.constant(f"int64.{n}", np.array([n], np.int64)) for n in (0, count)]
    return builder.add("Slice", [row, *ends], f"{name}.cut")
