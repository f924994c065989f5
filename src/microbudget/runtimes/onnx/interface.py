"""What an `.onnx` file asks for and answers, read from its graph without running it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..signature import Port, Shape, Signature, has_channels_last
from .graph import OnnxGraph, attribute, is_standard, load_structure

if TYPE_CHECKING:
    from ...model import Model

LOGITS, PROBABILITIES, INDEPENDENT = "logits", "probabilities", "independent"  # scales of the scores
SMALLEST = float(np.finfo(np.float32).tiny)  # a softmax's float32 underflows to 0, whose logarithm is no number
# These change how numbers are stored, and not what they say of the classes.
_TRANSPARENT = frozenset({
    "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_POINTWISE = {"Identity", "Cast", "Sub", "Add", "Mul", "Div", "Clip", "QuantizeLinear", "DequantizeLinear"}
_TO_CHANNELS_FIRST = [0, 3, 1, 2]


def signature_of(proto: Any) -> Signature:
    """The signature of an `onnx.ModelProto`."""
    graph = OnnxGraph(proto.graph)
    inputs = tuple(_port(value) for value in proto.graph.input if value.name not in graph.initializers)
    return Signature(
        tuple(Port(port.name, port.dtype, port.shape, _channels_last(graph, port)) for port in inputs),
        tuple(_port(value) for value in proto.graph.output),
    )


def _port(value: Any) -> Port:
    tensor = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):  # a sequence, a map, or a type that NumPy lacks
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    return Port(value.name, dtype, tuple(_side(dim) for dim in tensor.shape.dim))


def _side(dim: Any) -> int | None:
    """A dimension; None where it is free. Some exporters write 0 or -1 for that."""
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _channels_last(graph: OnnxGraph, port: Port) -> bool:
    """By the shape, else by what comes first: a Transpose from channels last, or anything else."""
    known = has_channels_last(port.shape)
    if known is not None:
        return known
    readers = graph.downstream(port.name, lambda node: node.op_type in _POINTWISE)
    return any(node.op_type == "Transpose" and attribute(node, "perm", []) == _TO_CHANNELS_FIRST for node in readers)


def scale_of(proto: Any, output: str) -> str:
    """What the numbers of an output are, by the node that makes them.

    LOGITS (a LogSoftmax's too), PROBABILITIES of a Softmax over the classes, or INDEPENDENT ones of a Sigmoid.
    """
    graph = OnnxGraph(proto.graph)
    node = graph.producer(output, skipping=_TRANSPARENT)
    if node is None or not is_standard(node):
        return LOGITS
    if node.op_type == "Sigmoid":
        return INDEPENDENT
    return PROBABILITIES if node.op_type == "Softmax" or _is_written_out_softmax(graph, node) else LOGITS


def _is_written_out_softmax(graph: OnnxGraph, node: Any) -> bool:
    """Whether a division is that of exponentials by their sum, as older exporters write a softmax."""
    if node.op_type != "Div":
        return False
    above, below = (graph.producers.get(name) for name in node.input)
    return (
        above is not None
        and below is not None
        and (above.op_type, below.op_type) == ("Exp", "ReduceSum")
        and below.input[0] == above.output[0]
    )


def as_logits(scores: NDArray[Any], scale: str) -> NDArray[Any]:
    """Scores (examples, classes) as logits: what softmax gives the probabilities of.

    The logarithm of probabilities. Independent ones do not sum to 1; softmax then divides them by their sum.
    """
    if scale == LOGITS:
        return scores
    return np.asarray(np.log(np.maximum(scores.astype(np.float32), SMALLEST)))


def read_signature(path: Path) -> Signature:
    """The signature of a file. Shapes of outputs that it leaves open are those of one run on zeros.

    Raises UnsupportedModel where the file cannot be parsed.
    """
    found = path.stat()
    return _read_signature(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _read_signature(path: Path, changed_ns: int, size_bytes: int) -> Signature:
    del changed_ns, size_bytes  # another file under the same name
    signature = signature_of(load_structure(path))
    if all(port.width is not None for port in signature.outputs):
        return signature
    shown = _shown(path, signature)
    outputs = (
        port if port.width is not None else Port(port.name, port.dtype, shown.get(port.name, port.shape))
        for port in signature.outputs
    )
    return Signature(signature.inputs, tuple(outputs))


def scale_of_model(model: Model) -> str:
    """As `scale_of`, of the scores of a model in any format."""
    return scale_of_file(model.weights, model.record.output) if model.format == "onnx" else LOGITS


def scale_of_file(path: Path, output: str | None) -> str:
    """As `scale_of`, of a file; of its only output where none is named."""
    found = path.stat()
    return _scale_of_file(path, output, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _scale_of_file(path: Path, output: str | None, changed_ns: int, size_bytes: int) -> str:
    del changed_ns, size_bytes
    proto = load_structure(path)
    return scale_of(proto, output or proto.graph.output[0].name)


def _shown(path: Path, signature: Signature) -> dict[str, Shape]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        values = session.run(None, {port.name: _zeros(port) for port in signature.inputs})
    except Exception:  # onnxruntime's exceptions share no base class; the shapes then stay unknown
        return {}
    return {port.name: (None, *np.shape(value)[1:]) for port, value in zip(signature.outputs, values, strict=True)}


def _zeros(port: Port) -> NDArray[Any]:
    """An example for an input, where sides of pixels that are left open get 224."""
    sides: Sequence[int | None] = port.shape or ()
    usual = (1, 224, 224, 3) if port.channels_last else (1, 3, 224, 224)
    filled = [usual[at] if side is None and len(sides) == 4 else side or 1 for at, side in enumerate(sides)]
    return np.zeros(filled, port.dtype)
