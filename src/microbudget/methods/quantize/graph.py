"""An ONNX graph as quantization sees it: layers with constant weights, who makes and who reads each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...errors import UnsupportedModel
from .equalize import fold_batch_norm
from .patches import Geometry

Array = NDArray[Any]

OLDEST_OPSET = 13  # the first whose DequantizeLinear knows channels
QUANTIZED_OPS = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QGemm", "QAttention", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
})  # fmt: skip


PLAIN_GEMM = {"transA": 0, "alpha": 1.0, "beta": 1.0}


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul whose weights are constant."""

    name: str  # of its node
    op: str
    input: str
    weight: str
    bias: str | None  # a constant of (outputs,); of a MatMul, that of the Add behind it
    output: str  # behind the bias
    outputs_axis: int  # the axis of the weights that counts the outputs
    groups: int = 1

    def matrix(self, W: Array) -> NDArray[np.float64]:
        """The weights as (groups, outputs / groups, K), in the order of `patches`."""
        ordered = np.moveaxis(np.asarray(W, np.float64), self.outputs_axis, 0)
        return ordered.reshape(self.groups, ordered.shape[0] // self.groups, -1)

    def shaped(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix` for weights of `shape`."""
        ordered = (shape[self.outputs_axis], *(n for i, n in enumerate(shape) if i != self.outputs_axis))
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(ordered), 0, self.outputs_axis))


class Graph:
    """A model whose constants are initializers and whose nodes have names; `constants` holds the values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.inputs = [v.name for v in model.graph.input if v.name not in self.constants]
        self.outputs = [v.name for v in model.graph.output]
        self.maker: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        self.left_float: dict[str, str] = {}  # node -> why it cannot be quantized
        self._connect()
        self.layers = tuple(self._find_layers())
        self.added = {layer.output: layer for layer in self.layers if layer.op == "MatMul" and layer.bias}
        self._name_foreign()

    def _connect(self) -> None:
        for node in self.nodes:
            self.maker.update({name: node for name in node.output if name})
            for name in {*node.input, *captured(node)} - {""}:
                self.readers.setdefault(name, []).append(node)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return max(int(entry.version) for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))

    def only_reader(self, tensor: str) -> Any | None:
        """The node that alone reads the tensor; None where there are more, or where it is an output of the model."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def behind(self, tensor: str, goes_on: Callable[[Any], bool]) -> Iterator[Any]:
        """The nodes that read the tensor, and those behind every one of them for which `goes_on` holds; each once."""
        seen, tensors = set[str](), [tensor]
        while tensors:
            for node in self.readers.get(tensors.pop(), []):
                if node.name not in seen:
                    seen.add(node.name)
                    yield node
                    if goes_on(node):
                        tensors += node.output

    def activation_of(self, tensor: str) -> Any | None:
        """The Relu or Clip with constant limits that alone reads the tensor, which a quantized output can absorb."""
        node = self.only_reader(tensor)
        if node is None or node.op_type not in ("Relu", "Clip"):
            return None
        return node if all(name == "" or name in self.constants for name in node.input[1:]) else None

    def limits(self, node: Any) -> tuple[float, float]:
        """The smallest and largest value that a Relu or Clip lets through."""
        if node.op_type == "Relu":
            return 0.0, float("inf")
        ends = [float(self.constants[name]) if name else None for name in (*node.input[1:], "", "")[:2]]
        return -np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1]

    def _find_layers(self) -> Iterator[Layer]:
        for node in self.nodes:
            if node.op_type in ("Conv", "Gemm", "MatMul") and node.domain in ("", "ai.onnx"):
                if why := self._obstacle(node):
                    self.left_float[node.name] = why
                else:
                    yield self._layer(node)
            elif any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
                self.left_float[node.name] = f"{node.op_type} is control flow: what it holds stays float"
            elif node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum"):
                self.left_float[node.name] = f"{node.op_type} stays float: it is not supported yet"

    def _name_foreign(self) -> None:
        """Operators of other domains, each kind by its first node: a transformer has dozens of one kind."""
        kinds: dict[tuple[str, str], list[str]] = {}
        for node in self.nodes:
            if node.domain not in ("", "ai.onnx") and node.name not in self.left_float:
                kinds.setdefault((node.domain, node.op_type), []).append(node.name)
        for (domain, op), names in kinds.items():
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            self.left_float[names[0]] = f"{op} of {domain} has no integer kernel here{others}"

    def _obstacle(self, node: Any) -> str | None:
        """Why this Conv, Gemm or MatMul cannot be quantized, None when it can."""
        W = self.constants.get(node.input[1])
        if W is None:
            return "it has no constant weights"
        if W.dtype != np.float32:
            return f"its weights are {W.dtype}, not float32"
        if node.op_type != "Conv" and W.ndim != 2:
            return f"its weights have {W.ndim} dimensions, not 2"
        if node.input[0] in self.constants:
            return "its input is constant"
        if node.op_type == "Gemm" and any(attribute(node, name, is_) != is_ for name, is_ in PLAIN_GEMM.items()):
            return "it transposes or scales its input"
        if not W.size:
            return "its weights are empty"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in self.constants:
            return "its bias is computed"
        if bias and node.op_type == "Gemm" and self.constants[bias].shape != (_gemm_outputs(node, W),):
            return "its bias is not one number for each output"
        others = {reader.op_type for reader in self.readers[node.input[1]]} - {"Conv", "Gemm", "MatMul"}
        return f"its weights also serve {', '.join(sorted(others))}" if others else None

    def _layer(self, node: Any) -> Layer:
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in self.constants else None
        output, axis, groups = node.output[0], 0, 1
        if node.op_type == "Conv":
            groups = attribute(node, "group", 1)
        elif node.op_type == "MatMul" or not attribute(node, "transB", 0):
            axis = 1
        if node.op_type == "MatMul" and (added := self._added_bias(node)):
            bias, output = added
        return Layer(node.name, node.op_type, node.input[0], node.input[1], bias, output, axis, groups)

    def _added_bias(self, node: Any) -> tuple[str, str] | None:
        """The constant (outputs,) that an Add behind a MatMul adds, and the Add's output."""
        reader, outputs = self.only_reader(node.output[0]), self.constants[node.input[1]].shape[1]
        if reader is None or reader.op_type != "Add":
            return None
        for name in reader.input:
            if name in self.constants and self.constants[name].shape == (outputs,) and len(self.readers[name]) == 1:
                return name, reader.output[0]
        return None

    def geometry(self, layer: Layer, space: tuple[int, ...]) -> Geometry:
        """How a Conv's kernel moves over an input of this size."""
        node, kernel = self.node(layer.name), self.constants[layer.weight].shape[2:]
        n = len(kernel)
        strides, dilations = attribute(node, "strides", [1] * n), attribute(node, "dilations", [1] * n)
        pads = list(attribute(node, "pads", [0] * 2 * n))
        mode = attribute(node, "auto_pad", b"NOTSET").decode()
        if mode.startswith("SAME"):
            total = [
                max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
                for size, k, s, d in zip(space, kernel, strides, dilations, strict=True)
            ]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = small + large if mode == "SAME_UPPER" else large + small
        return Geometry(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads[:n]), tuple(pads[n:]), layer.groups)

    def node(self, name: str) -> Any:
        """The node of this name."""
        return next(node for node in self.nodes if node.name == name)

    def shares_weights(self, layer: Layer) -> bool:
        """Whether another layer reads the same weights."""
        return len(self.readers[layer.weight]) > 1


def _gemm_outputs(node: Any, W: Array) -> int:
    return int(W.shape[0 if attribute(node, "transB", 0) else 1])


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def captured(node: Any) -> set[str]:
    """The outer tensors that a node's subgraphs (of If, Loop, Scan) read."""
    names: set[str] = set()
    for a in node.attribute:
        for graph in [a.g] if a.type == a.GRAPH else list(a.graphs):
            own = {t.name for t in graph.initializer} | {v.name for v in graph.input}
            own |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                names |= {*inner.input, *captured(inner)} - own
            names |= {v.name for v in graph.output} - own
    return names - {""}


def read_graph(path: Path | str) -> Graph:
    """Load an `.onnx` file (with its external data) and prepare it; raises UnsupportedModel with the reason."""
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise several kinds of their own
        raise UnsupportedModel(f"{path} cannot be read as ONNX ({type(error).__name__}: {error})") from error
    return prepared(model)


def prepared(model: onnx.ModelProto) -> Graph:
    """The graph with constants as initializers, named nodes, folded batch norms, and every linear layer of rows with a
    bias a Gemm with one number for each output. The model given is left alone.
    """
    model = _of_known_opset(_copy(model))
    _refuse_quantized(model)
    _name_nodes(model)
    _drop_overridable_inputs(model)
    _constants_to_initializers(model)
    _fold_batch_norms(model)
    _join_added_biases(model)
    _widen_biases(model)
    return Graph(model)


def _copy(model: onnx.ModelProto) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _of_known_opset(model: Any) -> Any:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others for operators it does not know
        raise UnsupportedModel(
            f"the model is of opset {opset} and could not be raised to {OLDEST_OPSET} ({error}): export it again"
        ) from error


def _refuse_quantized(model: Any) -> None:
    found = sorted({node.op_type for node in model.graph.node} & QUANTIZED_OPS)
    if found:
        raise UnsupportedModel(f"the model is already quantized (it has {', '.join(found)}): give the float model")


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
    captured_names = set().union(*(captured(node) for node in kept)) if kept else set()
    if captured_names & same.keys():
        return _keep_identities(graph, kept, same)
    del graph.node[:]
    graph.node.extend(kept)
    return None


def _keep_identities(graph: Any, kept: list[Any], same: dict[str, str]) -> None:
    """A subgraph reads an Identity's output by name: put the Identities back at the front."""
    identities = [helper.make_node("Identity", [source], [name], name=f"same_{name}") for name, source in same.items()]
    del graph.node[:]
    graph.node.extend([*identities, *kept])


def _fold_batch_norms(model: Any) -> None:
    """A BatchNormalization that alone reads a Conv with constant weights goes into those weights."""
    graph = Graph(model)
    folded: list[Any] = []
    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or not all(name in graph.constants for name in node.input[1:]):
            continue
        conv = graph.maker.get(node.input[0])
        if conv is None or conv.op_type != "Conv" or graph.only_reader(node.input[0]) is None:
            continue
        if attribute(node, "training_mode", 0) or not all(name in graph.constants for name in conv.input[1:] if name):
            continue
        if len(graph.readers[conv.input[1]]) == 1 and conv.input[1] not in graph.outputs:
            _fold_into(graph, conv, node)
            folded.append(node)
    for node in folded:
        model.graph.node.remove(node)


def _fold_into(graph: Graph, conv: Any, norm: Any) -> None:
    W = graph.constants[conv.input[1]].astype(np.float64)
    kind = graph.constants[conv.input[1]].dtype
    has_bias = len(conv.input) > 2 and conv.input[2] != ""
    b = graph.constants[conv.input[2]].astype(np.float64) if has_bias else np.zeros(len(W))
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
    W, b = fold_batch_norm(W, b, gamma, beta, mean, variance, attribute(norm, "epsilon", 1e-5))
    bias = f"{conv.name}.folded_bias"
    set_constant(graph.model, conv.input[1], W.astype(kind))
    set_constant(graph.model, bias, b.astype(kind))
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
    """The Add that alone reads a MatMul with constant weights, and the constant that it adds to every row."""
    if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or node.input[0] in graph.constants:
        return
    W, add = graph.constants.get(node.input[1]), graph.only_reader(node.output[0])
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
    """The number of dimensions of every tensor for which shape inference finds it; weights are told by shape alone."""
    told = [t for t in model.graph.initializer if np.prod(t.dims) > 1000]
    known = {t.name for t in told}
    light = helper.make_model(
        helper.make_graph(
            model.graph.node,
            "ranks",
            [*model.graph.input, *(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in told)],
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
        outputs = _gemm_outputs(node, W) if W.ndim == 2 else 0
        if outputs and b.shape != (outputs,) and _one_row(b, outputs):
            node.input[2] = f"{node.name}.wide_bias"
            set_constant(model, node.input[2], np.array(np.broadcast_to(b.reshape(-1), outputs)))


def set_constant(model: Any, name: str, value: Array) -> None:
    """Replace or add an initializer."""
    tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
    for existing in model.graph.initializer:
        if existing.name == name:
            existing.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)
