"""Training of adapters, the same for every kind: which layers get one, the memory it takes, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import UnsupportedModel
from ...model import Model, Record
from ...runtimes.hf import adapters, widths
from ...training.objective import Objective
from ...training.settings import Settings
from ...training.train import train
from ...units import format_bytes
from .. import Context
from .adapting import adapted, chosen, enable_checkpointing, groups, keep_zeros, last_parts, parameter_counts
from .memory import checkpointed, entering_bytes, saved_bytes, training_bytes

if TYPE_CHECKING:
    from . import Lora


@dataclass(frozen=True)
class Learner:
    """What a kind gives to be adapted."""

    network: Any
    head: str | None  # name of the layer that is trained whole
    head_factor: float  # on the learning rate of the head
    alpha: float  # by default
    rate: float  # of learning, by default
    mode: Any  # puts the network into training mode at the start of an epoch
    save: Callable[[Any, Path], None] = widths.save  # writes the merged network into a folder


def has_validation(context: Context) -> bool:
    """Whether there is a validation split; without one there is a warning."""
    found = bool(context.task.examples("validation"))
    if not found:
        context.progress.warn("lora: there is no validation split: all epochs run and the last weights are kept")
    return found


def train_adapters(
    step: Lora, learner: Learner, objective: Objective, model: Model, context: Context, out: Path
) -> dict[str, Any]:
    """Train adapters, and write the merged model or the adapters into `out`. Returns the report."""
    names = chosen(learner.network, step.targets, learner.head)
    network = adapted(learner.network, names, step.rank, step.alpha or learner.alpha, learner.head, context.seed)
    keep_zeros(network, model.record.state.get("zeros", ()))
    trained, everything = parameter_counts(network)
    estimate = _estimate(step, network, objective, learner.mode)
    context.progress.detail(
        f"lora      {trained:,} of {everything:,} parameters are trained ({trained / everything:.2%}), in"
        f" {len(names)} layers ({', '.join(last_parts(names)[:8])}); about {format_bytes(estimate)} of memory at"
        " most, in addition to what Python and torch take"
    )
    done = train(
        network,
        objective,
        Settings(
            step.epochs,
            step.learning_rate or learner.rate,
            step.batch_size,
            patience=step.patience,
            parts=step.batch_size if step.checkpointing else 1,
        ),
        context.execution("lora"),
        groups=groups(network, learner.head_factor),
        mode=learner.mode,
    )
    _write(step, network, learner, model, out)
    facts = {"trained": trained, "parameters": everything, "layers": len(names), "memory_estimate_bytes": estimate}
    return {**done.as_dict(), **facts}


def adapted_record(model: Model, context: Context, report: dict[str, Any]) -> Record:
    """The record of the adapted model."""
    keys = (example.key for split in ("train", "validation") for example in context.task.examples(split))
    return replace(model.record.with_seen(keys).with_report("lora", report), task=context.task.kind)


def _estimate(step: Lora, network: Any, objective: Objective, mode: Any) -> int:
    """Peak memory of the training in bytes; turns gradient checkpointing on where the options want it."""
    longest = 0 if objective.sizes is None else int(np.argmax(objective.sizes))
    batch = objective.batch(np.array([longest]), 0)
    mode(network)
    with torch.random.fork_rng(devices=[]):
        kept, largest = saved_bytes(network, lambda network: objective.loss(network, batch))
        if not step.checkpointing:
            return training_bytes(network, min(step.batch_size, objective.examples), kept, largest)
        base = network.base_model.model
        if not getattr(base, "supports_gradient_checkpointing", False):
            raise UnsupportedModel(f"{type(base).__name__} does not support gradient checkpointing: leave it out")
        enable_checkpointing(base)
        blocks = int(getattr(base.config, "num_hidden_layers", 1))
        entering = entering_bytes(base, blocks, lambda _: objective.loss(network, batch))
        outside, _ = saved_bytes(network, lambda network: objective.loss(network, batch))
    return training_bytes(network, 1, checkpointed(kept, outside, blocks, entering), largest)


def _write(step: Lora, network: Any, learner: Learner, model: Model, out: Path) -> None:
    if not step.merge:
        adapters.save(network, model, out)
        return
    zeros = set(model.record.state.get("zeros", ()))
    before = {name: tensor == 0 for name, tensor in _weights(network) if name in zeros}
    merged = network.merge_and_unload()
    for name, tensor in merged.named_parameters():
        if name in before:
            tensor.detach().masked_fill_(before[name], 0.0)
    learner.save(merged, out)
    model.copy_beside(out)


def _weights(network: Any) -> list[tuple[str, Any]]:
    """The frozen weights under the names that they have without adapters."""
    return [(name.replace(".base_layer.", "."), tensor) for name, tensor in network.base_model.model.named_parameters()]
