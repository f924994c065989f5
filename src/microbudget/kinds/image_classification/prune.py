"""prune of an image classifier: the network with photos, and its time in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...images.preprocess import Preprocessing
from ...methods import Context
from ...methods.prune import Prune
from ...methods.prune.graph import trace
from ...methods.prune.target import PruningTarget
from ...model import Model
from ...runtimes.hf.image_classifier import load_network, onnx_bytes
from ...runtimes.onnx.module.norms import add_norms
from ...task import Example
from ...training.objectives import inputs
from .graph import onnx_bytes as graph_bytes
from .graph import open_network, save_graph
from .teaching import preprocessing_of

BATCH = 32


@dataclass
class GraphTarget(PruningTarget):
    """The module of an `.onnx` file; what is left of it is a graph again, in which all widths are written."""

    labels: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)

    def save(self, network: Any, folder: Path) -> None:
        """Write `model.onnx`, with labels and preprocessing inside."""
        save_graph(network, self.labels, self.preprocessing, folder)

    def state_of(self, network: Any, pruned: Sequence[tuple[int, int]], state: dict[str, Any]) -> dict[str, Any]:
        """As it was."""
        del network, pruned
        return state


def open_target(step: Prune, model: Model, context: Context, examples: Sequence[Example]) -> PruningTarget:
    """The model's network with these photos. Raises what opening raises."""
    del step
    preprocessing = preprocessing_of(model)
    batches = [
        inputs(context.task, examples[start : start + BATCH], preprocessing) for start in range(0, len(examples), BATCH)
    ]
    known = model.labels is not None and tuple(model.labels) == tuple(context.task.labels)
    labels = [example.label for example in examples]
    classes = torch.tensor(labels) if known and None not in labels else None
    keys = tuple(example.key for example in examples)
    if model.format == "onnx":
        graph = open_network(model, context)
        add_norms(graph, batches)  # which make up for the channels that are removed
        return GraphTarget(
            graph, batches, classes, keys, onnx=graph_bytes, labels=model.labels, preprocessing=preprocessing
        )
    network = load_network(model.path).to(memory_format=torch.channels_last)  # as `inputs` has the pixels
    height, width = Preprocessing.parse(preprocessing).input_size
    onnx = partial(onnx_bytes, height=height, width=width)
    return PruningTarget(network, batches, classes, keys, onnx=onnx)


def check_groups(model: Model) -> None:
    """Raise UnsupportedModel for a network with normalization in groups of which no channel can be removed.

    Only such a network is traced here: others can be pruned nearly always, and tracing takes seconds.
    """
    network = load_network(model.path)
    if any(isinstance(module, torch.nn.GroupNorm) for module in network.modules()):
        height, width = Preprocessing.parse(preprocessing_of(model)).input_size
        trace(network, {"pixel_values": torch.zeros(2, 3, height, width)})
