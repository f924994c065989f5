"""The rounded tensors of a quantized graph: their Q and DQ nodes, and the name under which each reader finds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtimes.onnx.graph import captured
from .builder import GraphBuilder
from .graph import Graph
from .layout import need_identity, write_identity
from .plan import Plan

DEQUANTIZED, ROUNDED, BEFORE_IDENTITY = ".dq", ".q", ".q0"


class RoundedTensors:
    """Writes the rounding of tensors into a new graph. Real (unrounded) values are kept where they exist anyway."""

    def __init__(self, graph: Graph, plan: Plan, builder: GraphBuilder) -> None:
        self._graph, self._plan, self._builder = graph, plan, builder
        self._layers = {layer.name: layer for layer in graph.layers}
        self._identities = need_identity(graph, plan)
        self._real: set[str] = set()  # rounded tensors whose unrounded value exists as well
        inner = {name for node in graph.nodes for name in captured(node)}  # subgraphs read these by name
        self._named = {*graph.outputs, *inner} - {*graph.inputs}

    def mapping(self, tensor: str) -> list[str]:
        """The constants S and Z of a rounded tensor; equal mappings share them."""
        m, constant = self._plan.activations[tensor], self._builder.constant
        return [
            constant(f"S{m.S!r}", np.float32(m.S)),
            constant(f"Z{m.Z}.{m.integer_type.__name__}", m.integer_type(m.Z)),
        ]

    def read(self, tensor: str, reader: Any) -> str:
        """The name under which a node reads a tensor: dequantized, or the real one where a float node can have it."""
        if tensor not in self._plan.activations:
            return tensor
        if reader.name not in self._plan.integer_nodes:
            if tensor in self._real:
                return tensor
            if reader.name in self._layers and reader.op_type != "MatMul":
                return self._shielded(tensor, reader)
        return tensor if tensor in self._named else tensor + DEQUANTIZED

    def _shielded(self, tensor: str, reader: Any) -> str:
        """Dequantized with one (equal) scale per channel: after a scalar scale onnxruntime would round the weights of
        this float layer to int8, per tensor, when it loads the model.
        """
        layer, m = self._layers[reader.name], self._plan.activations[tensor]
        W = self._graph.constants[layer.weight]
        channels = W.shape[1] * layer.groups if layer.op == "Conv" else W.shape[1 - layer.outputs_axis]
        name, build = f"{tensor}.dq{channels}", self._builder
        if not build.has(name):
            S = build.constant(f"S{m.S!r}x{channels}", np.full(channels, m.S, np.float32))
            zeros = np.full(channels, m.Z, m.integer_type)
            Z = build.constant(f"Z{m.Z}.{m.integer_type.__name__}x{channels}", zeros)
            build.add("DequantizeLinear", [tensor + ROUNDED, S, Z], name, axis=1)
        return name

    def round_input(self, name: str) -> None:
        """Q and DQ after an input of the model."""
        self._real.add(name)
        self._round(name, name)

    def round_output(self, node: Any, tensor: str, *, real: bool) -> None:
        """Q and DQ after a node of the new graph; a tensor that is read by its name keeps that name for the dequantized
        value. real: others may read the unrounded value.
        """
        if tensor in self._named:
            index = list(node.output).index(tensor)
            node.output[index] = f"{tensor}.real"
            self._round(f"{tensor}.real", tensor)
        else:
            if real:
                self._real.add(tensor)
            self._round(tensor, tensor)

    def _round(self, real: str, tensor: str) -> None:
        self._builder.add("QuantizeLinear", [real, *self.mapping(tensor)], self._rounded_as(tensor))
        self._dequantize(tensor)

    def _rounded_as(self, tensor: str) -> str:
        """The name under which the integers of a tensor are made: another one where something follows them."""
        return tensor + (BEFORE_IDENTITY if tensor in self._identities else ROUNDED)

    def _dequantize(self, tensor: str) -> None:
        if tensor in self._identities:
            names = tensor + BEFORE_IDENTITY, tensor + ROUNDED
            write_identity(self._builder, *names, self.mapping(tensor), self._identities[tensor])
        name = tensor if tensor in self._named else tensor + DEQUANTIZED
        self._builder.add("DequantizeLinear", [tensor + ROUNDED, *self.mapping(tensor)], name)

    def move(self, node: Any) -> None:
        """Write a node that only moves values, on the integers: Pad pads with Z, the integer of zero. Changes `node`.

        node: a copy, with the names of the float graph.
        """
        moved, tensor = node.input[0], node.output[0]
        node.input[0] = moved + ROUNDED
        node.output[0] = self._rounded_as(tensor)
        if node.op_type == "Pad":
            node.input[2:3] = [self.mapping(moved)[1]]
        self._builder.nodes.append(node)
        self._dequantize(tensor)
