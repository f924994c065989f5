"""prune of a text classifier: heads, neurons and layers of its encoder, by its answers to texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ...methods import Context
from ...methods.prune import Prune
from ...methods.prune.target import Batch, PruningTarget
from ...model import Model
from ...runtimes.hf.text_classifier import PooledClassifier, load_network, onnx_bytes, save_network
from ...runtimes.text.encoding import INPUTS, MASK
from ...task import Example
from ...training.objectives import inputs
from .network import has_head
from .teaching import TokenTask, in_tokens, reading

TAKES = ("hf",)
BATCH = 16


@dataclass
class TextTarget(PruningTarget):
    """A classifier of transformers, or an encoder below a head of our own: `around` has its pooling and its head."""

    around: PooledClassifier | None = None

    def answer(self, network: Any, batch: Batch) -> Tensor:
        """Logits (rows, classes) of one batch."""
        if self.around is None:
            return super().answer(network, batch)
        pooled: Tensor = self.around.pooling(network(**batch).last_hidden_state, batch[MASK])
        logits: Tensor = self.around.head(pooled)
        return logits

    def save(self, network: Any, folder: Path) -> None:
        """With the head."""
        save_network(self.whole(network), folder)

    def whole(self, network: Any) -> Any:
        """The network with its head."""
        if self.around is None:
            return network
        head = self.around.head
        return PooledClassifier(network, self.around.pooling, head if isinstance(head, torch.nn.Linear) else None)


def open_target(step: Prune, model: Model, context: Context, examples: Sequence[Example]) -> TextTarget:
    """The model's network with these texts, of middle length first. Raises UnsupportedModel."""
    if not has_head(model):
        raise UnsupportedModel(
            f"prune compares answers, and {model.path} is an encoder without a head of classes: put finetune() before"
            " prune()"
        )
    tokens = in_tokens(model, context).task
    assert isinstance(tokens, TokenTask)
    ordered = sorted(examples, key=lambda each: len(tokens.tokens([each])[0]))
    middle = len(ordered) // 2
    ordered = [*ordered[middle:], *ordered[:middle]]  # the first is timed
    batches = [inputs(tokens, ordered[start : start + BATCH], {}) for start in range(0, len(ordered), BATCH)]
    known = model.labels is not None and tuple(model.labels) == tuple(tokens.labels)
    classes = torch.tensor([each.label for each in ordered]) if known and _labelled(ordered) else None
    network, around = load_network(model.path), None
    if isinstance(network, PooledClassifier) and step.structure != "weights":  # those keep their names
        network, around = network.encoder, network
    target = TextTarget(network, batches, classes, tuple(each.key for each in ordered), uniform=True, around=around)
    names = tuple(reading(model)[INPUTS])
    target.onnx = lambda smaller: onnx_bytes(copy.deepcopy(target.whole(smaller)), names)
    return target


def _labelled(examples: Sequence[Example]) -> bool:
    return all(each.label is not None for each in examples)
