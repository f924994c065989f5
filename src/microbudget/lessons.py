"""Lessons of classifiers: a task's examples in batches, and the task's own loss and metric on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .tasks import Example, Task
from .train import Batch, Lesson, Rows, Scores

LABEL = "label"  # beside the model's inputs, in a batch
JUDGED_AT_ONCE = 32


def labelled(
    task: Task, preprocessing: dict[str, Any], *, views: int = 1, train: Sequence[Example] | None = None
) -> Lesson:
    """Cross entropy on the labels. Epoch by epoch another of the fixed views is shown, the plain one first.

    train: the examples, by default the whole train split.
    """
    examples = task.examples("train") if train is None else train
    targets = torch.tensor([example.label for example in examples])

    def batch(rows: Rows, epoch: int) -> Batch:
        return {**inputs(task, [examples[row] for row in rows], preprocessing, epoch % views), LABEL: targets[rows]}

    def loss(network: Any, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits_of(network, batch), batch[LABEL])

    return Lesson(len(examples), batch, loss, judge(task, preprocessing))


def inputs(task: Task, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> dict[str, Any]:
    """The model's inputs as tensors, pixels with channels last, which is how a CPU convolves fastest."""
    arrays = task.collate(examples, preprocessing, view)
    return {name: _channels_last(torch.from_numpy(array)) for name, array in arrays.items()}


def logits_of(network: Any, batch: Batch) -> torch.Tensor:
    """(batch, classes), of whatever in the batch is an input of the model."""
    named = {name: tensor for name, tensor in batch.items() if name != LABEL}
    logits: torch.Tensor = network(**named).logits
    return logits


def judge(task: Task, preprocessing: dict[str, Any]) -> Callable[[Any], Scores] | None:
    """The task's mean loss and its metric on the validation split; None where there is none."""
    examples = task.examples("validation")
    if not examples:
        return None

    def scores(network: Any) -> Scores:
        logits = answers(network, task, preprocessing, examples)
        scored = task.score(logits, examples)
        return {"loss": float(task.loss(logits, examples).mean()), scored.metric.replace(" ", "_"): scored.value}

    return scores


def answers(network: Any, task: Task, preprocessing: dict[str, Any], examples: Sequence[Example]) -> NDArray[Any]:
    """Logits (examples, classes), float32, of a network in eval mode."""
    device = next(network.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(examples), JUDGED_AT_ONCE):
            part = inputs(task, examples[start : start + JUDGED_AT_ONCE], preprocessing)
            moved = {name: tensor.to(device) for name, tensor in part.items()}
            parts.append(logits_of(network, moved).float().cpu().numpy())
    return np.concatenate(parts)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
