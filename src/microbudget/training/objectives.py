"""Objectives of classifiers: a task's examples in batches, and the task's own loss and metric on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..metrics import cross_entropy
from ..task import Example, Inputs, Task
from .objective import Batch, Objective, Scores
from .order import Rows

LABEL = "label"  # in a batch, next to the model's inputs
CALIBRATED = "calibrated_loss"  # of the scores, the one that decides which epoch is kept
VALIDATED_AT_ONCE = 32
TEMPERATURES = np.geomspace(0.25, 8, 41)


def labelled(
    task: Task, preprocessing: dict[str, Any], *, views: int = 1, train: Sequence[Example] | None = None
) -> Objective:
    """Cross entropy on the labels. Each epoch shows another of the fixed views, the plain one first.

    train: the examples, by default the whole train split.
    """
    examples = task.examples("train") if train is None else train
    targets = torch.tensor([example.label for example in examples])

    def batch(rows: Rows, epoch: int) -> Batch:
        return {**inputs(task, [examples[row] for row in rows], preprocessing, epoch % views), LABEL: targets[rows]}

    def loss(network: Any, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits_of(network, batch), batch[LABEL])

    return Objective(len(examples), batch, loss, validator(task, preprocessing), decides=CALIBRATED)


def inputs(task: Task, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> dict[str, Any]:
    """The model's inputs as tensors, pixels with channels last, which is how a CPU convolves fastest."""
    return tensors(task.collate(examples, preprocessing, view))


def tensors(arrays: Inputs) -> dict[str, Any]:
    """Inputs of a model as tensors, pixels with channels last."""
    return {name: _channels_last(torch.from_numpy(array)) for name, array in arrays.items()}


def logits_of(network: Any, batch: Batch) -> torch.Tensor:
    """(batch, classes), of whatever in the batch is an input of the model."""
    named = {name: tensor for name, tensor in batch.items() if name != LABEL}
    logits: torch.Tensor = network(**named).logits
    return logits


def validator(task: Task, preprocessing: dict[str, Any]) -> Callable[[Any], Scores] | None:
    """The task's mean loss on the validation split, that loss calibrated, its metric; None where there is no split."""
    examples = task.examples("validation")
    if not examples:
        return None

    def scores(network: Any) -> Scores:
        logits = answers(network, task, preprocessing, examples)
        scored = task.score(logits, examples)
        return {
            "loss": float(task.loss(logits, examples).mean()),
            CALIBRATED: calibrated_loss(task, logits, examples),
            scored.metric.replace(" ", "_"): scored.value,
        }

    return scores


def calibrated_loss(task: Task, logits: NDArray[Any], examples: Sequence[Example]) -> float:
    """The mean cross entropy at the temperature that is best for these logits (Guo et al. 2017, arXiv:1706.04599).

    A network that trains on a few photos until it overfits becomes overconfident: its loss on validation rises while
    it answers more of them correctly, and no epoch would be kept. The temperature changes no answer. Accuracy itself
    jumps by a point with every photo of a small split. For a task with another loss that loss is returned.
    """
    losses = task.loss(logits, examples)
    labels = [example.label for example in examples]
    if None in labels or not np.isfinite(logits).all():
        return float(losses.mean())
    targets = np.array(labels, np.intp)
    if not np.allclose(losses, cross_entropy(logits, targets), rtol=1e-3, atol=1e-5):
        return float(losses.mean())
    return min(float(cross_entropy(logits / temperature, targets).mean()) for temperature in TEMPERATURES)


def answers(network: Any, task: Task, preprocessing: dict[str, Any], examples: Sequence[Example]) -> NDArray[Any]:
    """Logits (examples, classes), float32, of a network in eval mode."""
    device = next(network.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(examples), VALIDATED_AT_ONCE):
            part = inputs(task, examples[start : start + VALIDATED_AT_ONCE], preprocessing)
            moved = {name: tensor.to(device) for name, tensor in part.items()}
            parts.append(logits_of(network, moved).float().cpu().numpy())
    return np.concatenate(parts)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
