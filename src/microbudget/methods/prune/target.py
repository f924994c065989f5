"""The network to prune, and the examples without labels on which its answers are compared.

A kind's part, `kinds/<kind>/prune.py`, has `open_target(step, model, context, examples)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import BadData
from ...runtimes.hf import widths
from ...task import Example
from .. import Context
from .configs import set_widths

Batch = dict[str, Tensor]


@dataclass
class PruningTarget:
    """A network in eval mode, and batches of its inputs."""

    network: Any
    batches: list[Batch]
    classes: Tensor | None = None  # of each row, where the labels are the network's
    keys: tuple[str, ...] = ()  # of the examples
    uniform: bool = False  # the same layer of all blocks keeps equally many channels, whatever the config has
    onnx: Callable[[Any], bytes] | None = None  # a network of these inputs as an ONNX file, where its time is measured

    def answer(self, network: Any, batch: Batch) -> Tensor:
        """Logits (rows, classes) of one batch."""
        logits: Tensor = network(**batch).logits
        return logits

    def logits(self, network: Any = None) -> Tensor:
        """Answers to all batches, (rows, classes)."""
        with torch.inference_mode():
            return torch.cat([self.answer(network or self.network, batch) for batch in self.batches])

    def labelled(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its classes; without labels those that the network answers."""
        start = 0
        for batch in self.batches:
            count = len(next(iter(batch.values())))
            if self.classes is None:
                with torch.no_grad():
                    classes = self.answer(self.network, batch).argmax(1)
            else:
                classes = self.classes[start:][:count]
            start += count
            yield batch, classes

    def save(self, network: Any, folder: Path) -> None:
        """Write the smaller network, with what belongs to it."""
        widths.save(network, folder)

    def state_of(self, network: Any, pruned: Sequence[tuple[int, int]], state: dict[str, Any]) -> dict[str, Any]:
        """The record's state after channels were removed: the widths that the network's config cannot express.

        pruned: widths before and after of each layer. state: before.
        """
        dropped = state.get("dropped", ())
        return with_parts(state, widths=widths.widths_of(network, dropped) if dropped else set_widths(network, pruned))

    @property
    def example(self) -> Batch:
        """Two examples, for tracing."""
        return {name: tensor[:2] for name, tensor in self.batches[0].items()}


def with_parts(state: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """The state with these parts; empty ones are left out."""
    return {name: value for name, value in {**state, **parts}.items() if value}


def divergence(reference: Tensor, answers: Tensor) -> float:
    """Mean KL of answers from the reference, in nats: both logits (rows, classes)."""
    p, q = (functional.log_softmax(one.double(), dim=1) for one in (reference, answers))
    return float((p.exp() * (p - q)).sum(dim=1).mean())


def choose_examples(context: Context, samples: int, *, unlabelled: bool = False) -> list[Example]:
    """So many training examples, evenly spaced, with `unlabelled` of those without a label too.

    Raises BadData where there are fewer than two.
    """
    examples = [*context.task.examples("train"), *(context.task.examples("unlabelled") if unlabelled else ())]
    if len(examples) < 2:
        raise BadData(f"prune compares answers on training examples, and there are {len(examples)}: give more")
    return [examples[index] for index in np.unique(np.linspace(0, len(examples) - 1, samples, dtype=int))]
