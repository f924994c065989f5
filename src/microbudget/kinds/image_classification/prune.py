"""prune of an image classifier: the network with photos, and its time in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ...images.preprocess import Preprocessing
from ...methods import Context
from ...methods.prune import Prune
from ...methods.prune.graph import trace
from ...methods.prune.target import PruningTarget
from ...model import Model
from ...runtimes.hf.image_classifier import load_network, onnx_bytes
from ...task import Example
from ...training.objectives import inputs
from .teaching import preprocessing_of

BATCH = 32


def open_target(step: Prune, model: Model, context: Context, examples: Sequence[Example]) -> PruningTarget:
    """The model's network with these photos. Raises what opening raises."""
    del step
    preprocessing = preprocessing_of(model)
    batches = [
        inputs(context.task, examples[start : start + BATCH], preprocessing) for start in range(0, len(examples), BATCH)
    ]
    known = model.labels is not None and tuple(model.labels) == tuple(context.task.labels)
    classes = torch.tensor([example.label for example in examples]) if known else None
    network = load_network(model.path).to(memory_format=torch.channels_last)  # as `inputs` has the pixels
    height, width = Preprocessing.parse(preprocessing).input_size
    onnx = partial(onnx_bytes, height=height, width=width)
    return PruningTarget(network, batches, classes, tuple(example.key for example in examples), onnx=onnx)


def check_groups(model: Model) -> None:
    """Raise UnsupportedModel for a network with normalization in groups of which no channel can be removed.

    Only such a network is traced here: others can be pruned nearly always, and tracing takes seconds.
    """
    network = load_network(model.path)
    if any(isinstance(module, torch.nn.GroupNorm) for module in network.modules()):
        height, width = Preprocessing.parse(preprocessing_of(model)).input_size
        trace(network, {"pixel_values": torch.zeros(2, 3, height, width)})
