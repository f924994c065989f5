"""The ledger of an `.onnx` file: which bytes are weights, and which belong to their scales, zero points and packing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto, numpy_helper

from ...model import Model
from ...runtimes.onnx.graph import OnnxGraph, attribute, load_structure, with_subgraphs
from ...runtimes.onnx.types import BITS
from .rows import VOCABULARY, Ledger, Role, Row

# For each operator that reads quantized numbers: the positions of (values, scales, zero points) among its inputs.
QUANTIZED: dict[str, tuple[tuple[int, int | None, int | None], ...]] = {
    "DequantizeLinear": ((0, 1, 2),),
    "QLinearConv": ((3, 4, 5), (8, None, None)),
    "QLinearMatMul": ((3, 4, 5), (0, 1, 2)),
    "QGemm": ((3, 4, 5), (6, None, None)),
    "ConvInteger": ((1, None, 3),),
    "MatMulInteger": ((1, None, 3),),
    "MatMulIntegerToFloat": ((1, 3, 5),),
    "DynamicQuantizeMatMul": ((1, 2, 3),),
    "MatMulNBits": ((1, 2, 3),),
    "GatherBlockQuantized": ((0, 2, 3),),
}
# Positions of scales and zero points of activations.
ACTIVATION_SCALES: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 6, 7),
    "QLinearMatMul": (1, 2, 6, 7),
    "QGemm": (1, 2, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QLinearGlobalAveragePool": (1, 2, 3, 4),
    "QLinearAveragePool": (1, 2, 3, 4),
    "QLinearConcat": (0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16),
    "QLinearLeakyRelu": (1, 2, 3, 4),
    "QLinearSigmoid": (1, 2, 3, 4),
}
DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
UNPACKING = ("Cast", "Div", "Mod", "Mul", "Add", "Sub", "Reshape", "Slice")


@dataclass(frozen=True)
class _Stored:
    """A tensor as it lies in the file: its numbers before unpacking, and the bytes of its data."""

    name: str
    shape: tuple[int, ...]
    type: str
    inside_bytes: int  # in the .onnx file
    outside_bytes: int  # in the external data

    @property
    def bytes(self) -> int:
        return self.inside_bytes + self.outside_bytes

    def row(self, role: Role) -> Row:
        """Its row; what 4-bit packing leaves empty in the last byte is still a value's byte, more is padding."""
        bits = BITS.get(self.type, 8)
        packed = (math.prod(self.shape) * bits + 7) // 8
        values = min(self.bytes, packed) if bits < 8 else self.bytes
        return Row(self.name, role, self.shape, self.type, bits, values, padding_bytes=self.bytes - values)


def read(model: Model) -> Ledger:
    """The ledger of an `.onnx` file with its external data. Raises UnsupportedModel when it cannot be parsed."""
    path = model.weights
    proto = load_structure(path)
    stored = _stored(proto.graph)
    graph = OnnxGraph(proto.graph, nested=True)
    rows = _rows(graph.nodes, stored, _packings(graph, stored))
    metadata = sum(prop.ByteSize() for prop in proto.metadata_props) + len(proto.doc_string.encode())
    graph_bytes = path.stat().st_size - metadata - sum(tensor.inside_bytes for tensor in stored.values())
    beside = {file: file.stat().st_size for file in model.files if file != path}
    vocabulary = sum(size for file, size in beside.items() if file.name in VOCABULARY)
    external = sum(beside.values()) - vocabulary
    gap = external - sum(tensor.outside_bytes for tensor in stored.values())
    if gap:
        rows.append(Row("(between tensors in the external data)", "constant", (), "", 0, 0, padding_bytes=gap))
    return Ledger(tuple(rows), graph_bytes, metadata, 0, vocabulary)


def _stored(graph: Any) -> dict[str, _Stored]:
    """Initializers and the tensors of Constant nodes by name; bytes that two of them share are counted once."""
    stored: dict[str, _Stored] = {}
    places: set[tuple[str, ...]] = set()
    for inner in with_subgraphs(graph):
        constants = [
            (node.output[0], item.t)
            for node in inner.node
            if node.op_type == "Constant"
            for item in node.attribute
            if item.name == "value"
        ]
        for name, tensor in [(tensor.name, tensor) for tensor in inner.initializer] + constants:
            unique = name if name not in stored else f"{name} ({len(stored)})"
            stored[unique] = _place(unique, tensor, places)
    return stored


def _place(name: str, tensor: Any, places: set[tuple[str, ...]]) -> _Stored:
    shape, type_name = tuple(tensor.dims), TensorProto.DataType.Name(tensor.data_type)
    if tensor.data_location != TensorProto.EXTERNAL:
        return _Stored(name, shape, type_name, _data_bytes(tensor), 0)
    entry = {item.key: item.value for item in tensor.external_data}
    place = (entry["location"], entry.get("offset", "0"))
    length = int(entry.get("length", (math.prod(shape) * BITS.get(type_name, 8) + 7) // 8))
    known = place in places
    places.add(place)
    return _Stored(name, shape, type_name, 0, 0 if known else length)


def _data_bytes(tensor: Any) -> int:
    """Bytes of a tensor's numbers in the file, without its name, shape and field heads."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    head = TensorProto()
    head.CopyFrom(tensor)
    for field in DATA_FIELDS:
        head.ClearField(field)
    return int(tensor.ByteSize() - head.ByteSize())


@dataclass(frozen=True)
class _Packing:
    """Stored integers from which nodes compute the weights when the file is opened: unpacked, or as floats."""

    shape: tuple[int, ...]  # of the weights
    planes: tuple[str, ...]  # the tensors of bytes
    scales: str  # what the unpacked integers are multiplied with there, "" for none

    def row(self, name: str, stored: Mapping[str, _Stored], zero_point_bytes: int = 0) -> Row:
        size = sum(stored[plane].bytes for plane in self.planes)
        bits = round(8 * size / math.prod(self.shape))
        values = min(size, (math.prod(self.shape) * bits + 7) // 8)
        scale_bytes = stored[self.scales].bytes if self.scales else 0
        type_name = f"{bits}-bit, packed" if bits < 8 else "INT8"
        return Row(name, "weight", self.shape, type_name, bits, values, scale_bytes, zero_point_bytes, size - values)


def _packings(graph: OnnxGraph, stored: Mapping[str, _Stored]) -> dict[str, _Packing]:
    """The tensors, by name, that a few operators compute from stored bytes only, and how."""
    nodes, producers = graph.nodes, graph.producers
    shapes = {
        name: tuple(numpy_helper.to_array(tensor))
        for name, tensor in graph.initializers.items()
        if tensor.data_type == TensorProto.INT64
        and len(tensor.dims) == 1  # scalars, which exporters leave for indices, are no shapes
        and tensor.data_location != TensorProto.EXTERNAL
    }
    found = {}
    for node in nodes:
        if node.op_type == "Reshape" and node.input[1] in shapes:
            origins = graph.origins(node.input[0], lambda node: node.op_type in UNPACKING)
            planes = tuple(sorted(name for name in origins if name in stored and stored[name].type == "UINT8"))
            shape = tuple(int(size) for size in shapes[node.input[1]])
            if planes and origins <= stored.keys() and min(shape, default=0) > 0:
                found[node.output[0]] = _Packing(shape, planes, "")
    for node in nodes:
        casts = [producers[name] for name in node.input if name in producers and producers[name].op_type == "Cast"]
        factors = [cast.input[0] for cast in casts]
        scales = [name for name in node.input if name in stored and stored[name].type in FLOATS]
        if node.op_type == "Mul" and factors and not scales:
            table, rows = (_gathered(producers.get(name)) for name in (factors[0], _other(node, casts[0])))
            if stored.get(table) is not None and stored[table].type == "INT8" and rows in stored:
                found[node.output[0]] = _Packing(stored[table].shape, (table,), rows)
        if node.op_type != "Mul" or not scales or not factors:
            continue
        if factors[0] in found:
            found[node.output[0]] = replace(found.pop(factors[0]), scales=scales[0])
        elif factors[0] in stored and stored[factors[0]].type == "INT8":
            found[node.output[0]] = _Packing(stored[factors[0]].shape, (factors[0],), scales[0])
    return found


def _gathered(node: Any | None) -> str:
    """The table that a Gather reads; "" for another node."""
    return str(node.input[0]) if node is not None and node.op_type == "Gather" else ""


def _other(node: Any, producer: Any) -> str:
    """The input of a node of two that `producer` does not make."""
    return next((str(name) for name in node.input if name not in producer.output), "")


def _rows(nodes: list[Any], stored: Mapping[str, _Stored], packings: Mapping[str, _Packing]) -> list[Row]:
    """Weights with their scales and zero points first, then what no weight owns."""
    owned: set[str] = set()
    rows: list[Row] = []
    for node in nodes:
        for value, scale, zero in QUANTIZED.get(node.op_type, ()):
            name = _input(node, value)
            packing = packings.get(name)
            source = name if packing is None else packing.planes[0]
            if source in stored and source not in owned:
                parts = [_input(node, position) for position in (scale, zero)]
                parts = [part if part in stored and part not in owned else "" for part in parts]
                sizes = [stored[part].bytes if part else 0 for part in parts]
                if packing is None:
                    owned.update({name, *parts})
                    rows.append(_quantized(node, stored[name], *sizes))
                else:
                    owned.update({*packing.planes, *parts})
                    rows.append(replace(packing.row(name, stored, sizes[1]), scale_bytes=sizes[0]))
    for name, packing in packings.items():
        if packing.planes[0] not in owned:
            owned.update({*packing.planes, packing.scales})
            rows.append(packing.row(name, stored))
    scales = {_input(node, at) for node in nodes for at in ACTIVATION_SCALES.get(node.op_type, ())}
    rest = (tensor for name, tensor in stored.items() if name not in owned)
    return rows + [tensor.row("activation scale" if tensor.name in scales else _role(tensor)) for tensor in rest]


def _input(node: Any, position: int | None) -> str:
    return str(node.input[position]) if position is not None and position < len(node.input) else ""


def _quantized(node: Any, tensor: _Stored, scale_bytes: int, zero_point_bytes: int) -> Row:
    row = tensor.row("weight")
    if node.op_type == "MatMulNBits":
        bits, shape = attribute(node, "bits", 4), (attribute(node, "N", 0), attribute(node, "K", 0))
        values = min(tensor.bytes, (math.prod(shape) * bits + 7) // 8)
        type_name = f"{bits}-bit blocks of {attribute(node, 'block_size', 0)}"
        row = Row(tensor.name, "weight", shape, type_name, bits, values, padding_bytes=tensor.bytes - values)
    return replace(row, scale_bytes=scale_bytes, zero_point_bytes=zero_point_bytes)


def _role(tensor: _Stored) -> Role:
    """Integers that no operator dequantizes are shapes and indices, single numbers are bounds and exponents."""
    return "weight" if tensor.type in FLOATS and math.prod(tensor.shape) > 1 else "constant"
