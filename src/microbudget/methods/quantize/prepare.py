"""Prepare an ONNX model for quantization: constants as initializers, named nodes, folded batch norms, joined biases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from ...errors import UnsupportedModel
from ...runtimes.onnx.graph import (
    attribute,
    captured,
    copied,
    is_standard,
    opset,
    replace_nodes,
    set_constant,
)
from ...runtimes.onnx.half import widen
from .equalize import fold_batch_norm
from .folding import fold_constants
from .graph import Graph, gemm_outputs

Array = NDArray[Any]

OLDEST_OPSET = 13  # the first whose DequantizeLinear knows channels
QUANTIZED_OPS = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QGemm", "QAttention", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
})  # fmt: skip


def read_graph(path: Path | str) -> Graph:
    """Load an `.onnx` file (with its external data) and prepare it; raises UnsupportedModel with the reason."""
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise several kinds of their own
        raise UnsupportedModel(f"{path} cannot be read as ONNX ({type(error).__name__}: {error})") from error
    return prepared(model)


def prepared(model: onnx.ModelProto) -> Graph:
    """The graph with constants as initializers, named nodes, folded batch norms, and every linear layer of rows with a
    bias a Gemm with one number for each output. Half floats are float32. The model given is not changed.
    """
    model = copied(model)
    _refuse_quantized(model)
    model = _of_known_opset(model)
    _name_nodes(model)
    _drop_overridable_inputs(model)
    _constants_to_initializers(model)
    fold_constants(model)
    widen(model)  # after what is rounded to half on the way has been
    _fold_batch_norms(model)
    _join_added_biases(model)
    _widen_biases(model)
    return Graph(model)


def _of_known_opset(model: Any) -> Any:
    if opset(model) >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others for operators it does not know
        raise UnsupportedModel(
            f"the model is of opset {opset(model)} and could not be raised to {OLDEST_OPSET} ({error}): export it again"
        ) from error


def _refuse_quantized(model: Any) -> None:
    found = sorted({node.op_type for node in model.graph.node} & QUANTIZED_OPS)
    if found:
        raise UnsupportedModel(f"the model is already quantized (it has {', '.join(found)}): quantize the float model")


def _name_nodes(model: Any) -> None:
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        del node.metadata_props[:]  # exporters put stack traces here, a sixth of a small quantized file
        node.doc_string = ""
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def _drop_overridable_inputs(model: Any) -> None:
    """Old exporters list the initializers among the inputs, which keeps runtimes from folding them."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def _constants_to_initializers(model: Any) -> None:
    """Constant nodes become initializers, and an Identity of an initializer that initializer (tied weights)."""
    graph, kept = model.graph, []
    same: dict[str, str] = {}
    known = {t.name for t in graph.initializer}
    outputs = {v.name for v in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type == "Constant" and (value := attribute(node, "value", None)) is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
            known.add(value.name)
        elif node.op_type == "Identity" and node.input[0] in known and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if any(captured(node) & same.keys() for node in kept):  # a subgraph reads an Identity's output by name
        kept = [*_identities(same), *kept]
    replace_nodes(graph, kept)


def _identities(same: dict[str, str]) -> list[Any]:
    """Nodes that give the initializers their other names again."""
    return [helper.make_node("Identity", [source], [name], name=f"same_{name}") for name, source in same.items()]


def _fold_batch_norms(model: Any) -> None:
    """A BatchNormalization that is the only reader of a Conv with constant weights goes into those weights."""
    graph = Graph(model)
    folded: list[Any] = []
    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or not all(name in graph.constants for name in node.input[1:]):
            continue
        conv = graph.producers.get(node.input[0])
        if conv is None or conv.op_type != "Conv" or graph.only_consumer(node.input[0]) is None:
            continue
        if attribute(node, "training_mode", 0) or not all(name in graph.constants for name in conv.input[1:] if name):
            continue
        if len(graph.consumers[conv.input[1]]) == 1 and conv.input[1] not in graph.outputs:
            _fold_into(graph, conv, node)
            folded.append(node)
    for node in folded:
        model.graph.node.remove(node)


def _fold_into(graph: Graph, conv: Any, norm: Any) -> None:
    W = graph.constants[conv.input[1]].astype(np.float64)
    float_type = graph.constants[conv.input[1]].dtype
    has_bias = len(conv.input) > 2 and conv.input[2] != ""
    b = graph.constants[conv.input[2]].astype(np.float64) if has_bias else np.zeros(len(W))
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
    W, b = fold_batch_norm(W, b, gamma, beta, mean, variance, attribute(norm, "epsilon", 1e-5))
    bias = f"{conv.name}.folded_bias"
    set_constant(graph.model, conv.input[1], W.astype(float_type))
    set_constant(graph.model, bias, b.astype(float_type))
    del conv.input[2:]
    conv.input.append(bias)
    conv.output[0] = norm.output[0]


def _join_added_biases(model: Any) -> None:
    """A MatMul of rows (two dimensions) and the Add of its bias become one Gemm.

    onnxruntime does that when it loads the model, and then multiplies floats: its integer kernel wants the bias as
    int32 in the Gemm. With more dimensions there is no Gemm, and the bias stays an Add.
    """
    graph = Graph(model)
    pairs = [(node, add, bias) for node in graph.nodes for add, bias in _added(graph, node)]
    ranks = _ranks(model) if pairs else {}
    for node, add, bias in pairs:
        if ranks.get(node.input[0]) == 2:
            node.op_type = "Gemm"
            node.input.append(bias)
            node.output[0] = add.output[0]
            model.graph.node.remove(add)


def _added(graph: Graph, node: Any) -> Iterator[tuple[Any, str]]:
    """The Add that is the only reader of a MatMul with constant weights, and the constant that it adds to every row."""
    if node.op_type != "MatMul" or not is_standard(node) or node.input[0] in graph.constants:
        return
    W, add = graph.constants.get(node.input[1]), graph.only_consumer(node.output[0])
    if W is None or W.ndim != 2 or W.dtype != np.float32 or add is None or add.op_type != "Add":
        return
    for name in add.input:
        b = graph.constants.get(name)
        if b is not None and _one_row(b, W.shape[1]):
            yield add, name
            return


def _one_row(b: Array, outputs: int) -> bool:
    """Whether b is one row that is added to all, or one number."""
    return b.ndim <= 2 and b.size in (1, outputs) and (b.ndim < 2 or b.shape[0] == 1)


def _ranks(model: Any) -> dict[str, int]:
    """The number of dimensions of every tensor, where shape inference finds it; large weights are passed by shape."""
    large = [t for t in model.graph.initializer if np.prod(t.dims) > 1000]
    known = {t.name for t in large}
    light = helper.make_model(
        helper.make_graph(
            model.graph.node,
            "ranks",
            [*model.graph.input, *(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large)],
            model.graph.output,
            [t for t in model.graph.initializer if t.name not in known],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    try:
        graph = onnx.shape_inference.infer_shapes(light).graph
    except Exception:  # of several kinds; an operator that it does not know is no error
        return {}
    values = [*graph.input, *graph.value_info, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _widen_biases(model: Any) -> None:
    """A Gemm's constant bias that is one number or one row gets one number for each output."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "Gemm" or len(node.input) < 3 or not {*node.input[1:3]} <= graph.constants.keys():
            continue
        W, b = (graph.constants[name] for name in node.input[1:3])
        outputs = gemm_outputs(node, W) if W.ndim == 2 else 0
        if outputs and b.shape != (outputs,) and _one_row(b, outputs):
            node.input[2] = f"{node.name}.wide_bias"
            set_constant(model, node.input[2], np.array(np.broadcast_to(b.reshape(-1), outputs)))
