"""Graphs of image classifiers as torch modules: opened, checked on the user's photos, and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch.nn import Linear

from ...errors import InvalidOption
from ...methods import Context
from ...model import ONNX_NAME, Model
from ...runtimes.labels import known_outputs
from ...runtimes.onnx.half import widen
from ...runtimes.onnx.interface import signature_of
from ...runtimes.onnx.module.agreement import check_agreement
from ...runtimes.onnx.module.network import OnnxNetwork
from ...runtimes.onnx.module.norms import add_norms
from ...runtimes.onnx.module.preparing import only_output, prepared
from ...runtimes.onnx.module.writing import written
from ...runtimes.onnx.session import write_metadata
from ...runtimes.onnx.surgery import find_classifier, with_head
from ...task import Task
from ...training.objectives import inputs
from .teaching import preprocessing_of

CHECKED = 4  # photos that the module and ONNX Runtime answer before the module is used
FOR_NORMS, AT_ONCE = 128, 32  # photos over which batch norms begin, and in one batch


def network_of(proto: Any, task: Task, preprocessing: dict[str, Any], output: str) -> OnnxNetwork:
    """The module of an `onnx.ModelProto`, checked on a few of the task's photos. output: the one with the scores.

    Raises UnsupportedModel with the operator that cannot be trained, or with the difference of the answers.
    """
    ready = prepared(proto)
    only_output(ready, output)
    network = OnnxNetwork(ready, output)
    examples = (task.examples("train") or task.examples("validation"))[:CHECKED]
    check_agreement(network, dict(task.collate(examples, preprocessing)))
    return network


def open_network(model: Model, context: Context) -> OnnxNetwork:
    """The module of an `onnx` Model as it is. Raises what `network_of` raises."""
    proto = onnx.load(str(model.weights))
    return network_of(proto, context.task, preprocessing_of(model), _scores(proto, model))


def _scores(proto: Any, model: Model) -> str:
    return signature_of(proto).scores(len(model.labels or ()) or None, model.record.output).name


def open_student(model: Model, depth: float, width: float, context: Context) -> OnnxNetwork:
    """The module of an `onnx` Model that answers the data's labels, with batch norms again where they were folded.

    Its own outputs for labels that it knows, else a new head. Raises InvalidOption for a depth or width below 1, and
    what `network_of` raises.
    """
    if depth != 1.0 or width != 1.0:
        raise InvalidOption(
            "distill: depth= and width= cut a Hugging Face folder by its configuration, and an .onnx file has none:"
            " prune() before distill(), or name a student"
        )
    task, preprocessing = context.task, preprocessing_of(model)
    proto = onnx.load(str(model.weights))
    output = _scores(proto, model)
    if model.labels != tuple(task.labels):
        proto, output = _for_labels(proto, output, model, tuple(task.labels), context.seed), "logits"
    network = network_of(proto, task, preprocessing, output)
    shown = task.examples("train")[:FOR_NORMS]
    add_norms(network, (inputs(task, shown[at : at + AT_ONCE], preprocessing) for at in range(0, len(shown), AT_ONCE)))
    return network


def _for_labels(proto: Any, output: str, model: Model, labels: tuple[str, ...], seed: int) -> Any:
    """The graph with the rows of its last layer for these labels, or with a randomly initialized one."""
    widen(proto)
    classifier = find_classifier(proto, output)
    rows = known_outputs(model, labels, len(classifier.weight))
    if rows is not None:
        layer = classifier.weight[list(rows)], classifier.bias[list(rows)]
    else:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            head = Linear(classifier.weight.shape[1], len(labels))
        layer = head.weight.detach().numpy(), head.bias.detach().numpy()
    return with_head(proto, classifier.features, [layer])


def onnx_bytes(network: OnnxNetwork) -> bytes:
    """The graph with the tensors of the module, which may have lost channels, as a file's bytes."""
    found: bytes = written(network).SerializeToString()
    return found


def save_graph(network: OnnxNetwork, labels: tuple[str, ...] | None, preprocessing: dict[str, Any], out: Path) -> None:
    """Write `model.onnx` with the tensors of the module, labels and preprocessing inside."""
    proto = written(network)
    write_metadata(proto, labels, preprocessing)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(out / ONNX_NAME))
