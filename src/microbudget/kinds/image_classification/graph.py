"""Graphs of image classifiers as torch modules: opened, checked on the user's photos, and written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ...methods import Context
from ...model import ONNX_NAME, Model
from ...runtimes.onnx.interface import signature_of
from ...runtimes.onnx.module.agreement import check_agreement
from ...runtimes.onnx.module.network import OnnxNetwork
from ...runtimes.onnx.module.preparing import only_output, prepared
from ...runtimes.onnx.module.writing import written
from ...runtimes.onnx.session import write_metadata
from ...task import Task
from .teaching import preprocessing_of

CHECKED = 4  # photos that the module and ONNX Runtime answer before the module is used


@dataclass(frozen=True)
class Graph:
    """A graph and the module that was made of it: what is trained is the module, and `save` puts it back."""

    proto: Any  # the prepared `onnx.ModelProto`
    network: OnnxNetwork
    labels: tuple[str, ...] | None
    preprocessing: dict[str, Any]

    @classmethod
    def of(
        cls, proto: Any, task: Task, labels: tuple[str, ...] | None, preprocessing: dict[str, Any], output: str
    ) -> Graph:
        """Of an `onnx.ModelProto`, checked on a few of the task's photos. output: the name of the one with the scores.

        Raises UnsupportedModel with the operator that cannot be trained, or with the difference of the answers.
        """
        ready = prepared(proto)
        only_output(ready, output)
        network = OnnxNetwork(ready, output)
        network.config.num_labels = None if labels is None else len(labels)
        examples = (task.examples("train") or task.examples("validation"))[:CHECKED]
        check_agreement(ready, network, dict(task.collate(examples, preprocessing)), output)
        return cls(ready, network, labels, preprocessing)

    def bytes_with(self, network: OnnxNetwork) -> bytes:
        """The graph with the tensors of this module, which may have lost channels, as a file's bytes."""
        found: bytes = written(self.proto, network).SerializeToString()
        return found

    def save(self, network: OnnxNetwork, out: Path) -> None:
        """Write `model.onnx` with the tensors of this module, labels and preprocessing inside."""
        proto = written(self.proto, network)
        write_metadata(proto, self.labels, self.preprocessing)
        onnx.checker.check_model(proto)
        onnx.save(proto, str(out / ONNX_NAME))


def open_graph(model: Model, context: Context) -> Graph:
    """Of an `onnx` Model as it is. Raises what `Graph.of` raises."""
    proto = onnx.load(str(model.weights))
    output = signature_of(proto).scores(len(model.labels or ()) or None, model.record.output).name
    return Graph.of(proto, context.task, model.labels, preprocessing_of(model), output)
