"""The simulation: a quantized file as a torch module that rounds as the runtimes do and can be trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import Identity, Module, Parameter
from torch.nn.utils import parametrize

from ...runtimes.onnx.graph import OnnxGraph, copied, replace_nodes, set_constant
from ...runtimes.onnx.module.network import Answer, OnnxNetwork
from ...runtimes.onnx.module.preparing import only_output, prepared
from ...runtimes.onnx.module.step import Step
from .lsq import BiasRounding, FakeQuantize
from .rounded import Rounded, find_rounded, in_integers


class Simulation(Module):
    """A quantized graph as a module: each Q is a FakeQuantize, and so is each rounded weight; a DQ does nothing."""

    def __init__(self, model: Any, output: str) -> None:
        """model: the `onnx.ModelProto` that quantize wrote, with a scale of its own for each rounding (`own_scales`).

        Raises UnsupportedModel for integers that are not simulated, and operators that have no gradient.
        """
        super().__init__()
        self.file = model
        self.rounded: Rounded = find_rounded(model)
        self.network = OnnxNetwork(_skeleton(model, self.rounded, output), output, makers=MAKERS)
        self.weights: dict[str, str] = {}  # path of a layer -> `real` of its weights
        for path, constant in self.network.stored_in.items():
            layer, _, leaf = path.rpartition(".")
            if constant in self.rounded.weights and leaf == "weight":
                self._round_weight(layer, constant)
            elif constant in self.rounded.fixed and constant not in self.rounded.biases:
                self.network.get_parameter(path).requires_grad_(False)

        self._round_biases()

    def forward(self, **named: Tensor) -> Answer:
        """As of OnnxNetwork."""
        answer: Answer = self.network(**named)
        return answer

    def _round_weight(self, layer: str, constant: str) -> None:
        weight, module = self.rounded.weights[constant], self.network.get_submodule(layer)
        scale = torch.from_numpy(np.array(self.rounded.values[weight.scale], np.float32)).reshape(-1)
        shape = (-1, *(1,) * (weight.q.ndim - 1))
        limit = 1 << (weight.bits - 1)
        rounding = FakeQuantize(scale.reshape(shape), -limit, limit - 1)
        parametrize.register_parametrization(module, "weight", rounding, unsafe=True)
        self.weights[layer] = constant

    def _round_biases(self) -> None:
        graph = OnnxGraph(self.file.graph)
        inside, layer_of = in_integers(graph), {real: layer for layer, real in self.weights.items()}
        for node in graph.nodes:
            reader = graph.producers.get(node.input[0]) if node.input else None
            rounding = inside.get(reader.input[0]) if reader is not None and reader.input else None
            if len(node.input) > 2 and node.input[2] in self.rounded.biases and rounding is not None:
                layer = layer_of[node.input[1]]
                module = BiasRounding(self.weight_rounding(layer), self.activation(rounding))
                parametrize.register_parametrization(self.network.get_submodule(layer), "bias", module, unsafe=True)

    def weight_rounding(self, layer: str) -> FakeQuantize:
        """What simulates the weights of a layer."""
        found = self.network.get_submodule(f"{layer}.parametrizations.weight.0")
        assert isinstance(found, FakeQuantize)
        return found

    def latent(self, path: str) -> Tensor:
        """A tensor of the network before it is rounded."""
        layer, _, leaf = path.rpartition(".")
        module: Any = self.network.get_submodule(layer)
        rounded = parametrize.is_parametrized(module, leaf)
        found: Tensor = module.parametrizations[leaf].original if rounded else getattr(module, leaf)
        return found

    def scales(self) -> list[Parameter]:
        """The parameters of scales."""
        modules = (each for each in self.modules() if isinstance(each, FakeQuantize))
        return [each.log_scale for each in modules if isinstance(each.log_scale, Parameter)]

    def others(self) -> list[Parameter]:
        """The parameters of weights and biases."""
        own = {id(each) for each in self.scales()}
        return [each for each in self.parameters() if id(each) not in own and each.requires_grad]

    def activation(self, rounding: Any) -> FakeQuantize:
        """What simulates a QuantizeLinear of the file."""
        found = next(step for step in self.network.steps if step.outputs[0] == rounding.output[0])
        module = self.network.get_submodule(found.layer)
        assert isinstance(module, FakeQuantize)
        return module


def own_scales(model: Any) -> Any:
    """A copy in which each rounding of an activation has a scale of its own: equal ones share a constant in the file.

    Roundings that follow each other without computing (around an identity convolution) keep theirs in common.
    """
    result = copied(model)
    graph = OnnxGraph(result.graph)
    integers, values = in_integers(graph), constants(result)
    names: dict[str, str] = {}  # output of a Q -> its scale
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            before = _same_as(graph, integers, node)
            names[node.output[0]] = names[before] if before else f"{node.output[0]}.S"
            if not before:
                set_constant(result, names[node.output[0]], values[node.input[1]])
            node.input[1] = names[node.output[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in integers:
            scale = names[integers[node.input[0]].output[0]]
            count = np.size(values[node.input[1]])
            if np.ndim(values[node.input[1]]):  # one for each channel, all equal
                single, scale = scale, f"{scale}x{count}"
                set_constant(result, scale, np.full(count, constants(result)[single], np.float32))
            node.input[1] = scale
    read = {name for node in result.graph.node for name in node.input}
    for tensor in [tensor for tensor in result.graph.initializer if tensor.name not in read]:
        result.graph.initializer.remove(tensor)
    return result


def _same_as(graph: OnnxGraph, integers: dict[str, Any], node: Any) -> str:
    """Where an identity convolution lies between this Q and another: the output of that; else ""."""
    conv = graph.producers.get(node.input[0])
    if conv is None or conv.op_type != "Conv":
        return ""
    x, kernel = (graph.producers.get(name) for name in conv.input[:2])
    if x is None or kernel is None or kernel.op_type != "DequantizeLinear" or x.op_type != "DequantizeLinear":
        return ""
    scalar = kernel.input[1] in graph.initializers and not graph.initializers[kernel.input[1]].dims
    return str(integers[x.input[0]].output[0]) if scalar and x.input[0] in integers else ""


def constants(model: Any) -> dict[str, Any]:
    """The initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _skeleton(model: Any, rounded: Rounded, output: str) -> Any:
    """The graph with floats in place of the integers of weights and biases; padding of integers pads with zero."""
    result = copied(model)
    reals = {name: weight.q * _spread(rounded, name) for name, weight in rounded.weights.items()} | rounded.fixed
    graph = OnnxGraph(result.graph)
    inside = in_integers(graph)
    for node in graph.nodes:
        if node.op_type == "Pad" and node.input[0] in inside and len(node.input) > 2:
            node.input[2] = ""  # the integer of zero
    replace_nodes(result.graph, [node for node in graph.nodes if not reals.keys() & set(node.output)])
    for name, value in reals.items():
        set_constant(result, name, np.asarray(value, np.float32))
    only_output(result, output)
    return prepared(result)


def _spread(rounded: Rounded, name: str) -> Any:
    weight = rounded.weights[name]
    shape = [-1 if place == weight.axis else 1 for place in range(weight.q.ndim)]
    return np.asarray(rounded.values[weight.scale], np.float32).reshape(shape)


def _rounding(step: Step, values: dict[str, Any]) -> Module:
    """A QuantizeLinear."""
    scale, zero = values[step.inputs[1]], values[step.inputs[2]]
    limits = np.iinfo(zero.dtype)
    return FakeQuantize(torch.from_numpy(np.array(scale, np.float32)), int(limits.min), int(limits.max), int(zero))


def _nothing(step: Step, values: dict[str, Any]) -> Module:
    """A DequantizeLinear: what comes in are the real numbers already."""
    del step, values
    return Identity()


MAKERS = {"QuantizeLinear": _rounding, "DequantizeLinear": _nothing}
