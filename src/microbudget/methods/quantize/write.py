"""Write a plan as an ONNX model: Q/DQ nodes where ONNX Runtime and OpenVINO fuse them into integer kernels.

Static layers become DQ -> Conv -> Q, which the runtimes compute as one QLinearConv; a Relu or Clip that the output's
range implies is left out. A MatMul of more than two dimensions is rounded once, after the Add of its bias. Nodes that
only move values (reshape, slice, pad) work on the integers themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from .draft import Draft
from .dynamic import write_dynamic
from .graph import Graph, Layer
from .integer import quantize_bias
from .placement import MOVING, after_activation
from .plan import Mapping, Plan
from .tables import round_tables
from .weightonly import kernel_takes, write_weight_only


class Writer:
    """Writes the nodes of a plan, one after the other."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self._draft = Draft.of(graph, plan)
        self._builder, self._tensors = self._draft.builder, self._draft.tensors
        self._layers = {layer.name: layer for layer in graph.layers}
        self._layer_of_bias = {layer.bias: layer for layer in graph.layers if layer.op == "MatMul" and layer.bias}
        self._absorbed: set[str] = set()  # nodes of activations that a rounding implies

    def write(self) -> Any:
        """The whole model."""
        for name in self.graph.inputs:
            if name in self.plan.activations:
                self._tensors.round_input(name)
        for node in self.graph.nodes:
            if node.name not in self._absorbed:
                self._write_node(node)
        return self._builder.model(self.graph.model)

    def _write_node(self, node: Any) -> None:
        layer = self._layers.get(node.name)
        scheme = self.plan.schemes.get(node.name, "float")
        rounded = layer is not None and layer.name in self.plan.weights
        if layer is not None and rounded and scheme == "dynamic":
            write_dynamic(self._draft, layer)
        elif layer is not None and rounded and scheme == "weights" and self._has_kernel(layer):
            write_weight_only(self._draft, layer)
        elif layer is None and self._moves(node):
            self._tensors.move(_copied(node))
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
        new = _copied(node)
        for index, name in enumerate(node.input):
            new.input[index] = self._tensors.read(name, node)
        if layer is not None and layer.name in self.plan.weights:
            self._give_weights(new, layer)
        elif layer is not None and layer.name in self.plan.biases:
            self._give_bias(new, layer, self._float_bias(layer))
        self._place_added_bias(new)
        self._builder.nodes.append(new)
        final, adding = after_activation(self.graph, node.output[0]), self.graph.bias_adds.get(node.output[0])
        name = node.name if adding is None else adding.name  # the Add of a bias belongs to its MatMul
        if final in self.plan.activations and name in self.plan.integer_nodes:
            self._absorb(node, new, final)
        else:
            for name in node.output:
                if name in self.plan.activations:
                    self._tensors.round_output(new, name, real=True)

    def _absorb(self, node: Any, new: Any, final: str) -> None:
        """Round after the activation, without it where the rounding clips as it does."""
        activation = self.graph.activation_of(node.output[0])
        if activation is not None and self._implied(activation, self.plan.activations[final]):
            self._absorbed.add(activation.name)
            new.output[0] = final
            self._tensors.round_output(new, final, real=False)
        elif activation is None:
            self._tensors.round_output(new, final, real=False)
        # else: the Relu or Clip is written as a node of its own, and its output rounded there

    def _implied(self, activation: Any, mapping: Mapping) -> bool:
        low, high = self.graph.limits(activation)
        slack = mapping.S / 2
        return mapping.ends[0] >= low - slack and mapping.ends[1] <= high + slack

    def _give_weights(self, new: Any, layer: Layer) -> None:
        """Dequantized integer weights and bias; for a layer on real inputs, weights that fold to floats on loading."""
        b, constant = self.plan.biases.get(layer.name), self._builder.constant
        if self.plan.schemes[layer.name] == "weights":
            new.input[1] = self._draft.weights.real(layer)
            if b is not None:
                self._give_bias(new, layer, self._float_bias(layer))
            return
        S, S_x = self.plan.weights[layer.name].S, self.plan.activations[layer.input].S
        zeros = constant(f"Z0.int8x{len(S)}", np.zeros(len(S), np.int8))
        scale = constant(f"{self._draft.weights.short(layer)}.S", S)
        inputs = [self._draft.weights.integers(layer), scale, zeros]
        new.input[1] = self._builder.add("DequantizeLinear", inputs, f"{layer.name}.w", axis=layer.outputs_axis)
        if b is not None and layer.op != "MatMul":
            q_b = constant(f"{layer.name}.b.q", quantize_bias(b, S, S_x))
            S_b = constant(f"{layer.name}.b.S", (S.astype(np.float64) * S_x).astype(np.float32))
            zero = constant(f"Z0.int32x{len(S)}", np.zeros(len(S), np.int32))
            bias = self._builder.add("DequantizeLinear", [q_b, S_b, zero], f"{layer.name}.b", axis=0)
            self._give_bias(new, layer, bias)

    def _float_bias(self, layer: Layer) -> str:
        return self._builder.constant(f"{layer.name}.bias", self.plan.biases[layer.name])

    def _give_bias(self, new: Any, layer: Layer, name: str) -> None:
        if layer.op == "MatMul":
            return  # `_place_added_bias` gives it to the Add that follows
        del new.input[2:]
        new.input.append(name)

    def _place_added_bias(self, new: Any) -> None:
        """The corrected bias of a MatMul goes into the Add that follows it."""
        for index, name in enumerate(new.input):
            layer = self._layer_of_bias.get(name)
            if layer is not None and layer.name in self.plan.biases:
                new.input[index] = self._float_bias(layer)


def _copied(node: Any) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def write(graph: Graph, plan: Plan) -> Any:
    """The `onnx.ModelProto` of a plan; layers without integers in the plan keep their float weights.

    Tables of embeddings are integers too.
    """
    model = Writer(graph, plan).write()
    round_tables(model, plan.table_bits)
    return model
