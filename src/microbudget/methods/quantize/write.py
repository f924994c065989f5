"""Write a plan as an ONNX model: Q/DQ nodes where ONNX Runtime and OpenVINO fuse them into integer kernels.

Static layers become DQ -> Conv -> Q, which the runtimes compute as one QLinearConv; a Relu or Clip that the output's
range implies is left out. A MatMul of more than two dimensions is rounded behind the Add of its bias, once. Nodes that
only move values (reshape, slice, pad) work on the integers themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...runtimes.onnx.graph import captured, needed_for
from .dynamic import write_dynamic
from .graph import Graph, Layer
from .integer import quantize_bias
from .layout import begun_in_float, pass_through
from .placement import MOVING, settled
from .plan import Mapping, Plan
from .storage import integers, real_weights
from .weightonly import kernel_takes, write_weight_only

DEQUANTIZED, ROUNDED, BEGUN = ".dq", ".q", ".q0"


class Writer:
    """Collects the nodes and constants of the new graph. `seen` says under which name a reader finds a tensor."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.domains: dict[str, int] = {}
        self._layers = {layer.name: layer for layer in graph.layers}
        self._layer_of_bias = {layer.bias: layer for layer in graph.layers if layer.op == "MatMul" and layer.bias}
        self._made: set[str] = set()
        self._shorts: dict[tuple[str, int], str] = {}
        self._absorbed: set[str] = set()
        self._begun = begun_in_float(graph, plan)
        self._real: set[str] = set()  # rounded tensors whose unrounded value exists as well
        inner = {name for node in graph.nodes for name in captured(node)}  # subgraphs read these by name
        self._named = {*graph.outputs, *inner} - {*graph.inputs}

    def constant(self, name: str, value: Any) -> str:
        """Add an initializer; equal names must mean equal values."""
        self.constants[name] = np.asarray(value)
        return name

    def has(self, name: str) -> bool:
        """Whether a tensor of this name was added already."""
        return name in self._made or name in self.constants

    def short(self, layer: Layer) -> str:
        """A short name for a layer's integers: unpacking has many nodes, and names are bytes in the file.

        Layers that share their integers share it; weights that were rounded twice, for two kernels, have two.
        """
        return self._shorts.setdefault((layer.weight, id(self.plan.weights[layer.name].q)), f"w{len(self._shorts)}")

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, named after it."""
        self.add_many(op, inputs, [output], **attributes)
        return output

    def add_many(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        self._made.update(outputs)

    def mapping(self, tensor: str) -> list[str]:
        """The constants S and Z of a rounded tensor; equal mappings share them."""
        m = self.plan.activations[tensor]
        return [
            self.constant(f"S{m.S!r}", np.float32(m.S)),
            self.constant(f"Z{m.Z}.{m.integer_type.__name__}", m.integer_type(m.Z)),
        ]

    def write(self) -> Any:
        """The whole model."""
        for name in self.graph.inputs:
            if name in self.plan.activations:
                self._real.add(name)
                self._round(name, name)
        for node in self.graph.nodes:
            if node.name not in self._absorbed:
                self._write_node(node)
        return self._assembled()

    def _write_node(self, node: Any) -> None:
        layer = self._layers.get(node.name)
        scheme = self.plan.schemes.get(node.name, "float")
        rounded = layer is not None and layer.name in self.plan.weights
        if layer is not None and rounded and scheme == "dynamic":
            write_dynamic(self, layer)
        elif layer is not None and rounded and scheme == "weights" and self._has_kernel(layer):
            write_weight_only(self, layer)
        elif layer is None and self._moves(node):
            self._move(node)
        else:
            self._compute(node, layer)

    def _moves(self, node: Any) -> bool:
        rounded = bool(node.input) and node.input[0] in self.plan.activations
        return rounded and node.op_type in MOVING and node.name in self.plan.integer_nodes

    def _has_kernel(self, layer: Layer) -> bool:
        weights = self.plan.weights[layer.name]
        return layer.op != "Conv" and kernel_takes(weights.bits, weights.group)

    def _compute(self, node: Any, layer: Layer | None) -> None:
        """A node on real or dequantized inputs, its output rounded where the plan says so."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for index, name in enumerate(node.input):
            new.input[index] = self.read(name, node)
        if layer is not None and layer.name in self.plan.weights:
            self._give_weights(new, layer)
        elif layer is not None and layer.name in self.plan.biases:
            self._give_bias(new, layer, self.constant(f"{layer.name}.bias", self.plan.biases[layer.name]))
        self._place_added_bias(new)
        self.nodes.append(new)
        final, adding = settled(self.graph, node.output[0]), self.graph.bias_adds.get(node.output[0])
        name = node.name if adding is None else adding.name  # the Add of a bias belongs to its MatMul
        if final in self.plan.activations and name in self.plan.integer_nodes:
            self._absorb(node, new, final)
        else:
            for name in node.output:
                if name in self.plan.activations:
                    self._round_output(new, name, real=True)

    def _absorb(self, node: Any, new: Any, final: str) -> None:
        """Round behind the activation, without it where the rounding clips as it does."""
        activation = self.graph.activation_of(node.output[0])
        if activation is not None and self._implied(activation, self.plan.activations[final]):
            self._absorbed.add(activation.name)
            new.output[0] = final
            self._round_output(new, final, real=False)
        elif activation is None:
            self._round_output(new, final, real=False)
        # else: the Relu or Clip is written as a node of its own, and its output rounded there

    def _implied(self, activation: Any, mapping: Mapping) -> bool:
        low, high = self.graph.limits(activation)
        slack = mapping.S / 2
        return mapping.ends[0] >= low - slack and mapping.ends[1] <= high + slack

    def _round_output(self, new: Any, tensor: str, *, real: bool) -> None:
        """Q and DQ behind a node; what is read by its name keeps it for the dequantized value."""
        if tensor in self._named:
            index = list(new.output).index(tensor)
            new.output[index] = f"{tensor}.real"
            self._round(f"{tensor}.real", tensor)
        else:
            if real:
                self._real.add(tensor)
            self._round(tensor, tensor)

    def _round(self, real: str, tensor: str) -> None:
        self.add("QuantizeLinear", [real, *self.mapping(tensor)], self._rounded_as(tensor))
        self._dequantize(tensor)

    def _rounded_as(self, tensor: str) -> str:
        """The name under which the integers of a tensor are made: another one where something stands behind them."""
        return tensor + (BEGUN if tensor in self._begun else ROUNDED)

    def _dequantize(self, tensor: str) -> None:
        if tensor in self._begun:
            pass_through(self, tensor + BEGUN, tensor, tensor + ROUNDED, self._begun[tensor])
        name = tensor if tensor in self._named else tensor + DEQUANTIZED
        self.add("DequantizeLinear", [tensor + ROUNDED, *self.mapping(tensor)], name)

    def read(self, tensor: str, reader: Any) -> str:
        """The name under which a node reads a tensor: dequantized, or the real one where a float node can have it."""
        if tensor not in self.plan.activations:
            return tensor
        if reader.name not in self.plan.integer_nodes:
            if tensor in self._real:
                return tensor
            if reader.name in self._layers and reader.op_type != "MatMul":
                return self._shielded(tensor, reader)
        return tensor if tensor in self._named else tensor + DEQUANTIZED

    def _shielded(self, tensor: str, reader: Any) -> str:
        """Dequantized with one (equal) scale per channel: behind a scalar scale onnxruntime would round the weights of
        this float layer to int8, per tensor, when it loads the model.
        """
        layer, m = self._layers[reader.name], self.plan.activations[tensor]
        W = self.graph.constants[layer.weight]
        channels = W.shape[1] * layer.groups if layer.op == "Conv" else W.shape[1 - layer.outputs_axis]
        name = f"{tensor}.dq{channels}"
        if not self.has(name):
            S = self.constant(f"S{m.S!r}x{channels}", np.full(channels, m.S, np.float32))
            Z = self.constant(f"Z{m.Z}.{m.integer_type.__name__}x{channels}", np.full(channels, m.Z, m.integer_type))
            self.add("DequantizeLinear", [tensor + ROUNDED, S, Z], name, axis=1)
        return name

    def _move(self, node: Any) -> None:
        """A node that only moves values, on the integers: Pad pads with Z, the integer of zero."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[0] = node.input[0] + ROUNDED
        new.output[0] = self._rounded_as(node.output[0])
        if node.op_type == "Pad":
            padding = self.mapping(node.input[0])[1]
            new.input[2:3] = [padding]
        self.nodes.append(new)
        self._dequantize(node.output[0])

    def _give_weights(self, new: Any, layer: Layer) -> None:
        """Integer weights and bias behind DQ; for a layer on real inputs, weights that fold to floats on loading."""
        b = self.plan.biases.get(layer.name)
        if self.plan.schemes[layer.name] == "weights":
            new.input[1] = real_weights(self, layer)
            if b is not None:
                self._give_bias(new, layer, self.constant(f"{layer.name}.bias", b))
            return
        weights, S_x = self.plan.weights[layer.name], self.plan.activations[layer.input].S
        S = weights.S
        zeros = self.constant(f"Z0.int8x{len(S)}", np.zeros(len(S), np.int8))
        scale = self.constant(f"{self.short(layer)}.S", S)
        stored = integers(self, layer)
        new.input[1] = self.add("DequantizeLinear", [stored, scale, zeros], f"{layer.name}.w", axis=layer.outputs_axis)
        if b is not None and layer.op != "MatMul":
            q_b = self.constant(f"{layer.name}.b.q", quantize_bias(b, S, S_x))
            S_b = self.constant(f"{layer.name}.b.S", (S.astype(np.float64) * S_x).astype(np.float32))
            zero = self.constant(f"Z0.int32x{len(S)}", np.zeros(len(S), np.int32))
            self._give_bias(new, layer, self.add("DequantizeLinear", [q_b, S_b, zero], f"{layer.name}.b", axis=0))

    def _give_bias(self, new: Any, layer: Layer, name: str) -> None:
        if layer.op == "MatMul":
            return  # `_place_added_bias` gives it to the Add behind
        del new.input[2:]
        new.input.append(name)

    def _place_added_bias(self, new: Any) -> None:
        """The corrected bias of a MatMul goes into the Add behind it."""
        for index, name in enumerate(new.input):
            layer = self._layer_of_bias.get(name)
            if layer is not None and layer.name in self.plan.biases:
                new.input[index] = self.constant(f"{layer.name}.bias", self.plan.biases[layer.name])

    def _assembled(self) -> Any:
        source, (nodes, used) = self.graph.model, needed_for(self.graph.outputs, self.nodes)
        kept = [t for t in source.graph.initializer if t.name in used and t.name not in self.constants]
        made = [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in self.constants.items() if n in used]
        graph = helper.make_graph(nodes, source.graph.name, source.graph.input, source.graph.output, [*kept, *made])
        imports = {entry.domain: entry.version for entry in source.opset_import} | self.domains
        opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
        model: Any = helper.make_model(graph, opset_imports=opsets, ir_version=source.ir_version)
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
        model.metadata_props.extend(source.metadata_props)
        model.functions.extend(source.functions)
        return model


def write(graph: Graph, plan: Plan) -> Any:
    """The `onnx.ModelProto` of a plan; layers without integers in the plan keep their float weights."""
    return Writer(graph, plan).write()
