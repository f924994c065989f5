"""Reading: from a graph to steps, with constants computed, layers made and tensors that are trained named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn import Module, Parameter

from ....errors import UnsupportedModel
from ..graph import OnnxGraph, needed_for, opset, subgraphs
from . import elementwise, normalizing, pooling, shaping
from .layers import LayerForm, Part, form_of, module_of, put
from .names import Names
from .preparing import constant_of, constants_of
from .step import Operator, StaticNode, Step

OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS, **normalizing.OPERATORS, **pooling.OPERATORS, **shaping.OPERATORS,
}  # fmt: skip
# Operators whose result does not change a little when their input does: nothing before them could learn.
WITHOUT_GRADIENT = frozenset({
    "ArgMax", "ArgMin", "Bernoulli", "BitShift", "Ceil", "Compress", "DynamicQuantizeLinear", "Floor", "Hardmax",
    "IsInf", "IsNaN", "Mod", "Multinomial", "NonMaxSuppression", "NonZero", "OneHot", "QuantizeLinear", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Round", "Sign", "TopK", "Unique",
})  # fmt: skip
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "MatMulNBits", "Integer", "DynamicQuantize")
TRAINED = frozenset({
    "Add", "Concat", "Conv", "ConvTranspose", "Div", "Einsum", "Expand", "Gather", "Gemm",
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "MatMul", "Mul", "PRelu", "RMSNormalization",
    "Sub",
})  # fmt: skip
LAYERS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gather", "Gemm", "MatMul"})
FOREIGN = {"com.microsoft": frozenset({"Gelu", "QuickGelu"})}  # operators of other domains that are computed alike

Maker = Callable[[Step, dict[str, Any]], Module]  # a step and the constants -> the module that computes it
Makers = Mapping[str, Maker]  # by operator


@dataclass
class Read:
    """What a graph became."""

    steps: list[Step] = field(default_factory=list)
    static: dict[int, StaticNode] = field(default_factory=dict)  # of each step, for when its inputs are known numbers
    constants: dict[str, Any] = field(default_factory=dict)  # numbers that are no tensors of the module
    held: dict[str, str] = field(default_factory=dict)  # constant -> path of the tensor in the module
    stored: dict[str, Part] = field(default_factory=dict)  # path of a tensor in the module -> the constant that it is


class Reader:
    """Reads a prepared graph into a module's tensors and steps."""

    def __init__(self, model: Any, output: str, network: Module, makers: Makers) -> None:
        self._makers = makers
        self._graph, self._opset = OnnxGraph(model.graph), opset(model)
        self._nodes = needed_for([output], model.graph.node)[0]
        self._constants = constants_of(model)
        self._names, self._read = Names(network), Read()
        self._made: dict[str, Any] = {}  # constant with its orientation -> the Parameter, which layers may share
        self._after_a_layer: set[str] = set()
        self._forms: dict[str, set[Any]] = {}  # constant -> the ways in which nodes read it

    def read(self) -> Read:
        """All nodes. Raises UnsupportedModel, naming the operator that has no gradient or is not known."""
        pairs = [(node, Step.of(node, self._opset)) for node in self._nodes]
        live = [(node, step) for node, step in pairs if not self._folded(node, step)]
        for _, step in live:
            form = form_of(step, self._constants)
            for name in step.inputs:
                own = [part for part in (form.parts if form else ()) if part.constant == name]
                self._forms.setdefault(name, set()).add((form.module, own[0]) if form and own else step.name)
        for node, step in live:
            self._add(node, step)
        used = {name for step in self._read.steps for name in step.inputs}
        self._read.constants = {
            name: value for name, value in self._constants.items() if name in used and name not in self._read.held
        }
        return self._read

    def _folded(self, node: Any, step: Step) -> bool:
        """Compute a node whose inputs are all constant."""
        if step.op == "Constant":
            self._constants[step.outputs[0]] = constant_of(node)
            return True
        if not step.inputs or not all(name in self._constants for name in step.inputs if name):
            return False
        if any(True for _ in subgraphs(node)) or step.op.startswith("Random"):
            return False
        try:
            values = StaticNode(node, self._opset)([self._constants[name] if name else None for name in step.inputs])
        except Exception as error:  # of many kinds
            raise UnsupportedModel(
                f"the operator {step.op} ({step.name or step.outputs[0]}) on constants cannot be computed"
                f" ({type(error).__name__}): export the model again with constants folded"
            ) from error
        self._constants |= {name: value for name, value in zip(step.outputs, values, strict=False) if name}
        return True

    def _add(self, node: Any, step: Step) -> None:
        if step.op in self._makers:
            step = self._made_by(self._makers[step.op], step)
            self._finish(node, step)
            return
        known = step.op in OPERATORS if not step.domain else step.op in FOREIGN.get(step.domain, ())
        if not known and not self._only_shapes(step):
            raise UnsupportedModel(_refusal(step))
        form = form_of(step, self._constants)
        if form is not None and all(len(self._forms[part.constant]) == 1 for part in form.parts):
            step = self._layer(step, form)
        else:
            self._hold_inputs(step)
        self._finish(node, step)

    def _finish(self, node: Any, step: Step) -> None:
        learnt = step.op in LAYERS and (step.layer or any(name in self._read.held for name in step.inputs))
        if learnt or any(name in self._after_a_layer for name in step.inputs):
            self._after_a_layer.update(step.outputs)
        self._read.static[len(self._read.steps)] = StaticNode(node, self._opset)
        self._read.steps.append(step)

    def _only_shapes(self, step: Step) -> bool:
        """Whether a node computes with shapes alone, for which ONNX's reference is enough."""
        made_of = self._graph.origins(step.outputs[0], lambda each: each.op_type != "Shape")
        producers = [self._graph.producers.get(name) for name in made_of - self._constants.keys()]
        return bool(producers) and all(each is not None and each.op_type == "Shape" for each in producers)

    def _layer(self, step: Step, form: LayerForm) -> Step:
        module = module_of(form, step, self._constants)
        weight = form.weight.constant
        path = self._names.free(weight.removesuffix(".weight") if form.module != "norm" else _stem(weight))
        parent, leaf = self._names.container(path)
        parent.add_module(leaf, module)
        for part in form.parts:
            put(module, part, self._tensor(part, learns=not part.leaf.startswith("running")))
            self._read.stored[f"{path}.{part.leaf}"] = part
        return replace(step, layer=path, inputs=step.inputs[:1])

    def _made_by(self, make: Maker, step: Step) -> Step:
        path = self._names.free(step.outputs[0])
        parent, leaf = self._names.container(path)
        parent.add_module(leaf, make(step, self._constants))
        return replace(step, layer=path, inputs=step.inputs[:1])

    def _tensor(self, part: Part, *, learns: bool) -> Any:
        key = f"{part.constant}{'.T' if part.transposed else ''}"
        if key not in self._made:
            value = self._constants[part.constant]
            value = value.T if part.transposed else value
            if part.leaf == "bias":
                value = value.reshape(-1)
            tensor = torch.from_numpy(np.array(value, order="C")).clone()
            self._made[key] = Parameter(tensor) if learns else tensor
        return self._made[key]

    def _hold_inputs(self, step: Step) -> None:
        """Constants of several float numbers that a node reads are tensors of the module."""
        for name in step.inputs:
            value = self._constants.get(name)
            if value is None or name in self._read.held or value.dtype != np.float32 or value.size < 2:
                continue
            begun = step.op in LAYERS or any(other in self._after_a_layer for other in step.inputs)
            part = Part(path := self._names.free(name), name)
            parent, leaf = self._names.container(path)
            tensor = self._tensor(part, learns=step.op in TRAINED and begun)
            put(parent, replace(part, leaf=leaf), tensor)
            self._read.held[name], self._read.stored[path] = path, part


def _stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".gamma").removesuffix("/gamma")


def _refusal(step: Step) -> str:
    """Why a graph with this operator cannot be trained."""
    what = f"{step.op}{f' of {step.domain}' if step.domain else ''} ({step.name or step.outputs[0]})"
    if any(word in step.op for word in QUANTIZED):
        return (
            f"the graph is quantized, it has the operator {what}: train or prune the float model before quantize, and"
            " use qat after it"
        )
    if step.op in WITHOUT_GRADIENT:
        return f"the operator {what} has no gradient, so that nothing before it can learn: train the head alone"
    return (
        f"the operator {what} is not known to training: a finetune of the head alone and quantize take such a graph, or"
        " export the model again without it"
    )
