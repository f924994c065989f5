"""The module of an ONNX graph: the same numbers as the graph in a runtime, with gradients."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ....errors import UnsupportedModel
from ...signature import Signature
from ..graph import OnnxGraph
from ..interface import INDEPENDENT, LOGITS, SMALLEST, scale_of, signature_of
from .layers import run_layer
from .reading import OPERATORS, Makers, Read, Reader
from .step import Step, Value


@dataclass
class Answer:
    """What the module answers: logits (batch, classes), of probabilities their logarithms."""

    logits: Tensor


torch.export.register_dataclass(Answer)


@dataclass(frozen=True)
class Source:
    """The `onnx.ModelProto` that a module was made of, which its copies share."""

    proto: Any

    def __deepcopy__(self, memo: Any) -> Source:
        """Itself: nothing changes it."""
        return self


class OnnxNetwork(Module):
    """A graph as a module. `stored_in` says which constant of the graph each of its tensors is.

    Layers with constant weights are torch's own modules, other float constants of several numbers are tensors under
    their ONNX names. Training changes nothing but these: a Dropout does nothing, as in the runtimes.
    """

    def __init__(self, model: Any, output: str, makers: Makers | None = None) -> None:
        """model: an `onnx.ModelProto` after `prepared`. output: the name of the one with the scores.

        makers: of the modules that compute other operators, or some in another way, by operator; they take one input.

        Raises UnsupportedModel with the operator that is not known or has no gradient.
        """
        super().__init__()
        self._source = Source(model)
        self._signature: Signature = signature_of(model)
        self._read: Read = Reader(model, output, self, makers or {}).read()
        self._scores = output
        self._logits, self._scale = _before_scores(model, output)
        self._last_uses = _last_uses(self._read.steps, {self._scores, self._logits})
        self.config = SimpleNamespace(num_labels=None, model_type="onnx")
        self.eval()

    def forward(self, **named: Tensor) -> Answer:
        """named: the graph's inputs, or under another name its only one. Pixels are (batch, 3, height, width)."""
        found = self._run(named, self._logits)
        if self._scale == LOGITS:
            return Answer(found)
        if self._scale == INDEPENDENT and self._logits != self._scores:
            return Answer(functional.logsigmoid(found))
        return Answer(found.clamp(min=SMALLEST).log())

    def scores(self, **named: Tensor) -> Tensor:
        """The output as the graph has it."""
        return self._run(named, self._scores)

    @property
    def proto(self) -> Any:
        """The `onnx.ModelProto` that it was made of."""
        return self._source.proto

    @property
    def output(self) -> str:
        """The name of the output with the scores."""
        return self._scores

    @property
    def stored_in(self) -> dict[str, str]:
        """Path of each tensor of the module -> the constant of the graph that it is."""
        return {path: part.constant for path, part in self._read.stored.items()}

    @property
    def transposed(self) -> frozenset[str]:
        """The paths of tensors that are their constant transposed."""
        return frozenset(path for path, part in self._read.stored.items() if part.transposed)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The nodes in their order."""
        return tuple(self._read.steps)

    def tensors_of(self, step: Step) -> list[Tensor]:
        """The tensors of the module that a node reads."""
        if step.layer:
            return list(self.get_submodule(step.layer).parameters())
        return [self._held(name) for name in step.inputs if name in self._read.held]

    def last_linear(self) -> tuple[str, torch.nn.Linear]:
        """The last linear layer and its path. Raises UnsupportedModel where there is none."""
        for step in reversed(self._read.steps):
            module = self.get_submodule(step.layer) if step.layer else None
            if isinstance(module, torch.nn.Linear):
                return step.layer, module
        raise UnsupportedModel("the graph has no linear layer with constant weights: its head cannot be trained")

    def _run(self, named: dict[str, Tensor], wanted: str) -> Tensor:
        values: dict[str, Value] = dict(self._fed(named))
        for place, step in enumerate(self._read.steps):
            if wanted in values:
                break
            outputs = self._outputs(place, step, [self._value(name, values) for name in step.inputs])
            values.update(zip(step.outputs, outputs, strict=False))
            for name in self._last_uses[place]:
                values.pop(name, None)
        result = values[wanted]
        assert isinstance(result, Tensor)
        return result

    def _fed(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        ports = self._signature.inputs
        if len(ports) == 1 and len(named) == 1:
            named = {ports[0].name: next(iter(named.values()))}
        return {port.name: _fitted(named[port.name], port) for port in ports}

    def _value(self, name: str, values: dict[str, Value]) -> Value:
        if name in values:
            return values[name]
        if name in self._read.held:
            return self._held(name)
        return self._read.constants[name] if name else None

    def _held(self, name: str) -> Tensor:
        path, _, leaf = self._read.held[name].rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(path), leaf)
        return tensor

    def _outputs(self, place: int, step: Step, values: list[Value]) -> tuple[Value, ...]:
        if step.layer:
            assert isinstance(values[0], Tensor)
            return (run_layer(self.get_submodule(step.layer), step, values[0]),)
        if not any(isinstance(value, Tensor) for value in values):
            return self._read.static[place](values)
        try:
            result = OPERATORS[step.op](step, *values)
        except (NotImplementedError, KeyError, TypeError) as error:
            raise UnsupportedModel(
                f"the operator {step.op} ({step.name or step.outputs[0]}) is of a form that training does not know"
                f" ({error}): export the model again without it, or train the head alone"
            ) from error
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _fitted(tensor: Tensor, port: Any) -> Tensor:
    """As `Port.fitted` has it for arrays: channels last, or bytes, where the graph takes those.

    In memory channels come first: with channels last, torch 2.13 wrote beyond its memory in the backward pass of pruned
    graphs, whose convolutions have a bias and few channels.
    """
    tensor = tensor.permute(0, 2, 3, 1) if port.channels_last else tensor.contiguous()
    if port.dtype == "uint8":
        return tensor.round().to(torch.uint8)
    return tensor.to(torch.float32) if port.dtype in ("float16", "bfloat16") else tensor


def _before_scores(model: Any, output: str) -> tuple[str, str]:
    """The tensor from which the logits are made, and what its numbers are.

    A Softmax or Sigmoid at the end is left out: training through it would lose the gradient of sure answers.
    """
    scale, graph = scale_of(model, output), OnnxGraph(model.graph)
    node = graph.producer(output, skipping=("Identity", "Cast"))
    if node is not None and node.op_type == "Softmax":
        return str(node.input[0]), LOGITS
    if node is not None and node.op_type == "Sigmoid":
        return str(node.input[0]), INDEPENDENT
    return output, scale


def _last_uses(steps: list[Step], kept: set[str]) -> dict[int, list[str]]:
    """After which step a value is not read any more, so that inference need not hold it."""
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        last.update(dict.fromkeys((*step.inputs, *step.outputs), place))
    found: dict[int, list[str]] = defaultdict(list)
    for name, place in last.items():
        if name and name not in kept:
            found[place].append(name)
    return found
