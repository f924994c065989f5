"""A step: one node of a graph as the module computes it, and the values that go in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ..graph import Node, is_standard

# What a node takes: a tensor of the network, a number that is known before it runs (or from shapes), or nothing.
Value = Tensor | NDArray[Any] | None
Operator = Callable[..., Any]  # step, values -> a Tensor, an array, or several of them


@dataclass(frozen=True)
class Step:
    """A node's operator with its attributes. layer: the name of the submodule that holds its weights; "" for none."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: dict[str, Any] = field(default_factory=dict)
    layer: str = ""
    domain: str = ""

    @classmethod
    def of(cls, node: Node, opset: int) -> Step:
        """Of an `onnx.NodeProto`."""
        attributes = {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute}
        domain = "" if is_standard(node) else node.domain
        return cls(node.op_type, node.name, tuple(node.input), tuple(node.output), opset, attributes, domain=domain)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the default."""
        return self.attributes.get(name, default)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


class StaticNode:
    """A node on numbers that are known before the network runs, such as shapes: computed by ONNX's reference."""

    def __init__(self, node: Node, opset: int) -> None:
        self._node, self._opset = node.SerializeToString(), opset
        self._known: dict[tuple[Any, ...], tuple[NDArray[Any], ...]] = {}

    def __call__(self, values: list[Value]) -> tuple[NDArray[Any], ...]:
        """The outputs; those of earlier values are kept, as shapes are the same for every batch but the last."""
        arrays = [np.asarray(value) for value in values if value is not None]
        key = tuple((array.dtype.str, array.shape, array.tobytes()) for array in arrays)
        if key not in self._known:
            self._known[key] = self._evaluated(values)
        return self._known[key]

    def _evaluated(self, values: list[Value]) -> tuple[NDArray[Any], ...]:
        node = self.proto
        given = {name: np.asarray(value) for name, value in zip(node.input, values, strict=True) if value is not None}
        return tuple(np.asarray(each) for each in self._evaluator.run(None, given))

    @property
    def proto(self) -> Node:
        """The `onnx.NodeProto`."""
        return onnx.NodeProto.FromString(self._node)

    @cached_property
    def _evaluator(self) -> Any:
        node = self.proto
        graph = helper.make_graph(
            [node],
            "static",
            [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(node.input) if name],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        opsets = [helper.make_opsetid("" if is_standard(node) else node.domain, self._opset)]
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))

    def __deepcopy__(self, memo: Any) -> StaticNode:
        """Shared by copies of a network: it has no state but what it has computed."""
        return self


def number(value: Value, other: Tensor) -> Any:
    """A value as torch's operators take it next to `other`: a single one as a number of Python's, else a tensor."""
    if isinstance(value, np.ndarray):
        if value.size == 1 and value.ndim <= other.ndim:
            return value.item()
        return torch.from_numpy(value.copy()).to(other.device)
    return value


def tensor(value: Value) -> Tensor:
    """A value as a tensor."""
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.array(value))


def integers(value: Value) -> list[int]:
    """A value that holds sizes, axes or places. Raises TypeError for one that only the data decide."""
    if isinstance(value, Tensor):
        raise TypeError("a size, axis or place that depends on the numbers of the data")
    return [int(each) for each in np.asarray(value).reshape(-1)]


def axes_of(step: Step, given: Value) -> list[int] | None:
    """Axes of an operator that takes them as an attribute in older opsets and as an input in newer; None: not given."""
    if given is not None:
        return integers(given)
    found = step.get("axes")
    return None if found is None else list(found)
