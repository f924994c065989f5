"""Trial: how long a step and a validation of a training take, timed on a copy before the training begins."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from ..machine.allocator import reused_memory
from .objective import Objective
from .order import Order

STEPS = 4  # of which the first is not counted: memory is taken, files are read


@dataclass(frozen=True)
class Trial:
    """Seconds of one epoch."""

    step_s: float
    steps: int  # in an epoch
    validation_s: float

    @property
    def epoch_s(self) -> float:
        """Of an epoch and the validation after it."""
        return self.steps * self.step_s + self.validation_s


def timed(network: torch.nn.Module, objective: Objective, batch_size: int, threads: int = 0) -> Trial:
    """Train a copy of the network for a few steps; the network and torch's random numbers stay as they are."""
    if threads:
        torch.set_num_threads(threads)
    order = Order(objective.examples, batch_size, seed=0)
    learner: Any = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-6, fused=True)
    seconds = []
    with torch.random.fork_rng([]), reused_memory():
        for rows in (order.rows(0) * STEPS)[:STEPS]:
            began = time.monotonic()
            loss: Any = objective.loss(learner, objective.batch(rows, 0))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.monotonic() - began)
    began = time.monotonic()
    if objective.validate is not None:
        with torch.no_grad():
            objective.validate(learner.eval())
    return Trial(statistics.median(seconds[1:]), order.batches, time.monotonic() - began)
