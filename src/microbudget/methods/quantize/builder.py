"""Build an ONNX graph: nodes and constants by name, and at the end the model of what its outputs depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...runtimes.onnx.graph import needed_for


class GraphBuilder:
    """Collects the nodes and constants of a new graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.domains: dict[str, int] = {}  # of operators that are not ONNX's own -> version
        self._produced: set[str] = set()

    def constant(self, name: str, value: Any) -> str:
        """Add an initializer; equal names must mean equal values."""
        self.constants[name] = np.asarray(value)
        return name

    def has(self, name: str) -> bool:
        """Whether a tensor of this name was added already."""
        return name in self._produced or name in self.constants

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and name it after that."""
        self.add_many(op_type, inputs, [output], **attributes)
        return output

    def add_many(self, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], **attributes))
        self._produced.update(outputs)

    def model(self, source: onnx.ModelProto) -> Any:
        """The model with the inputs, outputs and metadata of `source`, and those of its constants that are read."""
        nodes, used = needed_for([value.name for value in source.graph.output], self.nodes)
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
