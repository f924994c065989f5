"""An ONNX graph as quantization sees it: layers with constant weights, the values of constants, what stays float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...runtimes.onnx.graph import OnnxGraph, attribute, is_standard, subgraphs
from .patches import Geometry

Array = NDArray[Any]

FOLDABLE = frozenset({"Constant", "Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
PLAIN_GEMM = {"transA": 0, "alpha": 1.0, "beta": 1.0}


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul whose weights are constant."""

    name: str  # of its node
    op: str
    input: str
    weight: str
    bias: str | None  # a constant of (outputs,); of a MatMul, that of the Add after it
    output: str  # after the bias
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


class Graph(OnnxGraph):
    """A model whose constants are initializers and whose nodes have names; `constants` holds the values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model.graph)
        self.model = model
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.left_float: dict[str, str] = {}  # node -> why it cannot be quantized
        self.layers = tuple(self._find_layers())
        # the output of the Add after a MatMul -> the layer whose bias it adds
        self.bias_adds = {layer.output: layer for layer in self.layers if layer.op == "MatMul" and layer.bias}
        self._note_foreign_operators()

    def activation_of(self, tensor: str) -> Any | None:
        """The Relu or Clip with constant limits that is the tensor's only reader: a quantized output can absorb it."""
        node = self.only_consumer(tensor)
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
            if node.op_type in ("Conv", "Gemm", "MatMul") and is_standard(node):
                if why := self._obstacle(node):
                    self.left_float[node.name] = why
                else:
                    yield self._layer(node)
            elif any(True for _ in subgraphs(node)):
                self.left_float[node.name] = f"{node.op_type} is control flow: what it holds stays float"
            elif node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum"):
                self.left_float[node.name] = f"{node.op_type} stays float: it is not supported yet"

    def _note_foreign_operators(self) -> None:
        """Operators of other domains, each type by its first node: a transformer has dozens of one type."""
        found: dict[tuple[str, str], list[str]] = {}
        for node in self.nodes:
            if not is_standard(node) and node.name not in self.left_float:
                found.setdefault((node.domain, node.op_type), []).append(node.name)
        for (domain, op_type), names in found.items():
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            self.left_float[names[0]] = f"{op_type} of {domain} has no integer kernel here{others}"

    def _obstacle(self, node: Any) -> str | None:
        """Why this Conv, Gemm or MatMul cannot be quantized, None when it can."""
        W = self.constants.get(node.input[1])
        if W is None:
            shared = self.origins(node.input[1], lambda each: each.op_type in FOLDABLE) <= self.constants.keys()
            return "its weights also serve other operators" if shared else "it has no constant weights"
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
        if bias and node.op_type == "Gemm" and self.constants[bias].shape != (gemm_outputs(node, W),):
            return "its bias is not one number for each output"
        others = {reader.op_type for reader in self.consumers[node.input[1]]} - {"Conv", "Gemm", "MatMul"}
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
        """The constant (outputs,) that an Add after a MatMul adds, and the Add's output."""
        reader, outputs = self.only_consumer(node.output[0]), self.constants[node.input[1]].shape[1]
        if reader is None or reader.op_type != "Add":
            return None
        for name in reader.input:
            if name in self.constants and self.constants[name].shape == (outputs,) and len(self.consumers[name]) == 1:
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
        return len(self.consumers[layer.weight]) > 1


def gemm_outputs(node: Any, W: Array) -> int:
    """How many outputs a Gemm with these weights has."""
    return int(W.shape[0 if attribute(node, "transB", 0) else 1])
