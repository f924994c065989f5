"""The loop: one training, its steps and epochs, its best weights, and what a checkpoint of it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module

from ..errors import Diverged, OutOfTime
from ..units import format_seconds
from . import checkpoint
from .average import Average
from .deadline import Clock
from .objective import Group, Objective, Scores, Trained
from .order import Order, Rows, schedule
from .processes import Processes
from .settings import Execution, Settings

CHECKPOINT_EVERY_S = 20.0  # a kill costs at most this much work, and the writing less than 1 % of the time
SAY_EVERY_S = 10.0
FINISHED = {
    "optimizer": None,
    "best": None,
    "given": None,
    "average": None,
}  # not needed in the checkpoint of a finished training
STATE = ("step", "losses", "history", "best", "given", "best_loss", "before", "kept", "stopped")  # of a checkpoint


@dataclass
class Loop:
    """One training. Everything below the dashes goes into its checkpoint."""

    network: Module
    objective: Objective
    settings: Settings
    execution: Execution
    groups: Sequence[Group] | None
    mode: Callable[[Any], object]
    after_step: Callable[[], object] | None
    accelerator: Accelerator
    # ---
    step: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of this epoch: sum over its rows, how many rows
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    given: dict[str, Tensor] | None = None  # with `Settings.last`, the weights before
    best_loss: float = math.inf
    before: Scores | None = None
    kept: int | None = None
    stopped: str = ""

    def __post_init__(self) -> None:
        self.network.to(self.accelerator.device)
        chosen = self.groups or [(list(self.network.parameters()), 1.0)]
        optimizer = torch.optim.AdamW(_decayed(chosen, self.settings), lr=self.settings.learning_rate, fused=True)
        self._factors = [group["factor"] for group in optimizer.param_groups]
        self.learner, self._optimizer = self.accelerator.prepare(self.network, optimizer)
        self._processes = Processes(self.accelerator)
        self._clock = Clock(self.execution.deadline, self.execution.name)
        settings, sizes = self.settings, self.objective.sizes
        self._order = Order(self.objective.examples, settings.batch_size, self.execution.seed, sizes)
        self._total = self.settings.epochs * self._order.batches
        self._average = Average(self.network, settings.average * self._total) if settings.average else None
        self._saved_at = self._reported_at = time.monotonic()

    def run(self) -> Trained:
        """Train, or take over what a finished training left."""
        self._restore()
        self._began_at, self._began = time.monotonic(), self.step
        if not self.stopped:
            try:
                self.stopped = self._train()
            except NotFiniteError as error:
                self.stopped = _rescued(self, str(error))
            if self.given is not None and self.before and self.before[self.objective.decides] < self.best_loss:
                self.best, self.kept = self.given, 0
            if self.best is not None:
                checkpoint.put_weights(self.network, self.best)
            self._save()
        return Trained(self.history, self.before, self.kept, self.stopped)

    def _train(self) -> str:
        """All steps that are left; why they ended."""
        first = self.step
        if first == 0:
            self.before = self._validate(0)
        for step in self.execution.progress.track(range(first, self._total), f"{self.execution.name}, step"):
            epoch, place = divmod(step, self._order.batches)
            if place == 0:
                self.mode(self.learner)
            self.learn(self._order.rows(epoch)[place], epoch, step)
            self.step = step + 1
            if place == self._order.batches - 1 and self._end_epoch(epoch):
                score = self.objective.decides.replace("_", " ")
                return f"no better validation {score} for {self.settings.patience} epochs"
            if self._time_is_up():
                return f"the time was up after {len(self.history)} of {self.settings.epochs} epochs"
            if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY_S:
                self._save()
        return "all epochs"

    def _time_is_up(self) -> bool:
        """Whether to stop with what is learnt, see `Settings.cut`; without it all epochs must fit.

        Raises OutOfTime as soon as the time will not suffice; the checkpoint has what is learnt.
        """
        enough = self._order.batches if self.settings.cut else self._total
        late: OutOfTime | None = None
        try:
            self._clock.tick(max(0, enough - self.step))
        except OutOfTime as error:
            late = error
        if not self._clock.limited:
            return False
        if enough <= self.step:
            return self._processes.any(self._clock.over)
        if self._processes.any(late is not None):
            self._save()
            raise late or OutOfTime(f"the time is up for another process of {self.execution.name}")
        return False

    def learn(self, rows: Rows, epoch: int, step: int) -> None:
        """One step of the optimizer. Raises NotFiniteError, before the weights are touched."""
        self._set_rates(step)
        parts = [part for part in np.array_split(self._processes.share(rows), self.settings.parts) if len(part)]
        batches = [self.objective.batch(part, epoch) for part in parts]
        weigh = self.objective.weight
        weights = [len(part) if weigh is None else weigh(batch) for part, batch in zip(parts, batches, strict=True)]
        for given, weight in zip(batches, weights, strict=True):
            batch = {name: tensor.to(self.accelerator.device) for name, tensor in given.items()}
            with self.accelerator.autocast():
                loss = self.objective.loss(self.learner, batch)
            value = self._processes.mean(loss)
            if not math.isfinite(value):
                raise NotFiniteError(f"the loss was {value} in epoch {epoch + 1}, step {step + 1}")
            self.accelerator.backward(loss * (weight / (sum(weights) or 1)))
            self.losses[0] += value * weight
            self.losses[1] += weight
        self._clip(epoch, step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.after_step is not None:
            self.after_step()
        if self._average is not None:
            self._average.update(self.network)

    def _clip(self, epoch: int, step: int) -> None:
        if not self.settings.clip:
            return
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if not bool(torch.isfinite(norm)):
            raise NotFiniteError(f"the gradient was {float(norm)} in epoch {epoch + 1}, step {step + 1}")

    def _set_rates(self, step: int) -> None:
        rate = self.settings.learning_rate * schedule(step, self._total, self.settings.warmup)
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    def _end_epoch(self, epoch: int) -> bool:
        """Validate, record the epoch, keep its weights when they are the best so far; whether it is time to stop."""
        row: dict[str, Any] = {"epoch": epoch + 1, "train_loss": self.losses[0] / (self.losses[1] or 1)}
        self.losses = [0.0, 0.0]
        scores = self._validate(epoch + 1)
        row |= {f"validation_{name}": value for name, value in (scores or {}).items()}
        self.history.append(row)
        self._report(row)
        patience = self.settings.patience
        return scores is not None and patience is not None and epoch + 1 - (self.kept or 0) >= patience

    def _validate(self, epoch: int) -> Scores | None:
        """Scores on validation; keeps the weights when they are the best so far, or when there is no validation."""
        averaged = self._average.network if self._average is not None and epoch else None
        if self.objective.validate is None:
            self.kept, self.best = epoch, checkpoint.weights_of(averaged or self.network)
            return None
        self.learner.eval()
        with torch.no_grad(), self.accelerator.autocast():
            scores = {name: float(value) for name, value in self.objective.validate(averaged or self.learner).items()}
        loss = scores[self.objective.decides]
        if not math.isfinite(loss):
            raise NotFiniteError(f"the validation loss was {loss} after epoch {epoch}")
        if loss < self.best_loss or self.settings.last:
            self.best_loss, self.kept, self.best = loss, epoch, checkpoint.weights_of(averaged or self.network)
            if self.settings.last and epoch == 0:
                self.given = self.best
        return scores

    def _report(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._reported_at < SAY_EVERY_S:
            return
        self._reported_at = now
        left = (now - self._began_at) / (self.step - self._began) * (self._total - self.step)
        said = f"epoch {row['epoch']}/{self.settings.epochs}: {_scores(row)}; at most {format_seconds(left)} left"
        self.execution.progress.say(f"{self.execution.name}  {said}")

    def _save(self) -> None:
        """Replace the checkpoint by a whole new one."""
        self._saved_at = time.monotonic()
        if self.execution.checkpoint is None or not self.accelerator.is_main_process:
            return
        state = {
            "weights": checkpoint.weights_of(self.network),
            "optimizer": self._optimizer.state_dict(),
            "generator": checkpoint.generators(),
            "average": None if self._average is None else self._average.state(),
            **{name: getattr(self, name) for name in STATE},
        }
        checkpoint.write(self.execution.checkpoint, {**state, **FINISHED} if self.stopped else state)

    def _restore(self) -> None:
        """Resume from the checkpoint where there is one that can be read."""
        state = checkpoint.read(self.execution.checkpoint, self.execution.progress, (*FINISHED, *STATE))
        if state is None:
            return
        self.mode(self.learner)  # before the weights: it may touch the statistics, which are as they were at the kill
        checkpoint.put_weights(self.network, state["weights"])
        for name in STATE:
            setattr(self, name, state[name])
        if not self.stopped:
            self._optimizer.load_state_dict(state["optimizer"])
            checkpoint.set_generators(state["generator"])
            if self._average is not None:
                self._average.restore(state["average"])
            self.execution.progress.say(f"{self.execution.name}  goes on at step {self.step} of {self._total}")


def _rescued(loop: Loop, reason: str) -> str:
    """Keep the best weights so far after a NaN; raises Diverged when no epoch was whole."""
    name = loop.execution.name
    advice = _advice(loop.settings.learning_rate)
    if not loop.history:
        raise Diverged(f"{name} stopped: {reason}, before one epoch was whole. To go on, {advice}")
    loop.execution.progress.warn(f"{name} stopped: {reason}. The weights of epoch {loop.kept} are kept; {advice}")
    return reason


def _scores(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row.items() if name != "epoch")


def _advice(rate: float) -> str:
    return (
        f"try a lower learning rate ({rate / 10:g} instead of {rate:g}), a longer warm-up, and look for odd values in"
        " the data"
    )


class NotFiniteError(Exception):
    """NaN or infinity, and where."""


def _decayed(groups: Sequence[Group], settings: Settings) -> list[dict[str, Any]]:
    """AdamW's groups: each of ours in two, with and without weight decay."""
    return [
        {"params": chosen, "factor": factor, "weight_decay": settings.weight_decay if decays else 0.0}
        for parameters, factor in groups
        for decays in (True, False)
        if (chosen := [each for each in parameters if each.requires_grad and (each.ndim > 1) == decays])
    ]
