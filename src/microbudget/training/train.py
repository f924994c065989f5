"""The training loop, one for every method: AdamW, cosine schedule, early stopping, exact resume after a kill.

accelerate chooses the device and its precision: a GPU where there is one, in bfloat16 where it can, else float32; a CPU
stays in float32. Several processes (`accelerate launch`) share each batch. The same seed gives the same weights on the
same machine, whether it ran through or was killed and went on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Diverged, MissingExtra, OutOfTime
from ..machine.files import explain_full_disk, open_whole
from ..progress import SILENT, Progress
from ..units import format_seconds
from .deadline import Clock
from .order import Order, schedule
from .order import Rows as Rows

try:
    import torch
    from accelerate import Accelerator
    from torch import Tensor
    from torch.nn import Module, Parameter
except ImportError as error:
    raise MissingExtra("training needs torch and accelerate: pip install 'microbudget[train]'") from error

CHECKPOINT_EVERY_S = 20.0  # a kill costs at most this much work, and the writing less than 1 % of the time
SAY_EVERY_S = 10.0
Batch = Mapping[str, Tensor]
Scores = dict[str, float]
Group = tuple[Sequence[Parameter], float]  # parameters, and their share of the learning rate


@dataclass(frozen=True)
class Settings:
    """How a network is trained: AdamW (Loshchilov & Hutter 2019), linear warm-up, cosine to zero."""

    epochs: int
    learning_rate: float = 1e-3  # at the end of the warm-up
    batch_size: int = 32  # at most: an epoch is cut into batches of equal size, so that none has a single example
    weight_decay: float = 0.01  # on matrices and kernels; not on biases and norms
    warmup: float = 0.05  # share of all steps
    patience: int | None = 5  # epochs without a better validation loss before it stops; None: never before the end
    clip: float = 1.0  # the gradient's norm at most; 0: not clipped
    parts: int = 1  # a batch goes through in so many parts: less memory, the same step


@dataclass(frozen=True)
class Lesson:
    """What is learnt. A row is the number of an example, from 0.

    batch: rows and epoch (from 0) -> the tensors of a batch, on the CPU. loss: network and batch -> the mean loss of
    its rows, a scalar. judge: network -> scores on validation, of which `decides` is read; None where there
    is no validation: all epochs run and the last weights are kept. weight: what a batch counts for where a step's batch
    goes through in parts; by default its rows. decides: the score by which an epoch is kept, lower is better.
    """

    examples: int
    batch: Callable[[Rows, int], Batch]
    loss: Callable[[Any, Batch], Tensor]
    judge: Callable[[Any], Scores] | None = None
    weight: Callable[[Batch], float] | None = None
    decides: str = "loss"


@dataclass(frozen=True)
class Trained:
    """What the training reported; the network itself holds the weights that were kept."""

    epochs: list[dict[str, Any]] = field(default_factory=list)  # epoch, train_loss, validation_loss, validation_...
    before: Scores | None = None  # on validation, of the network as it was given
    kept: int | None = None  # number of the epoch that was kept, from 1; 0: none was better than the network as given
    stopped: str = ""  # why it ended

    def as_dict(self) -> dict[str, Any]:
        """For a record's history: what the report draws."""
        return {"epochs": self.epochs, "before": self.before, "kept": self.kept, "stopped": self.stopped}


def train(
    network: Module,
    lesson: Lesson,
    settings: Settings,
    *,
    groups: Sequence[Group] | None = None,
    mode: Callable[[Any], object] = Module.train,
    after_step: Callable[[], object] | None = None,
    seed: int = 0,
    threads: int = 0,
    checkpoint: Path | None = None,
    deadline: float | None = None,
    what: str = "training",
    progress: Progress = SILENT,
) -> Trained:
    """Train the network in place and leave it in eval mode on the CPU, with the weights of its best epoch.

    The network as it was given counts as epoch 0: training never makes the validation loss worse.

    groups: what is trained, by default all that requires a gradient. mode: puts the network into training mode at the
    start of each epoch (see `frozen_norms`, `fresh_norms`). after_step: for what must hold of the weights, such as
    zeros that stay. checkpoint: a file that survives a kill; the same call goes on from it, or returns at once if it
    was finished. deadline: of `time.monotonic`.
    Raises Diverged, DiskFull, OutOfTime; none loses the checkpoint that stands.
    """
    if threads:
        torch.set_num_threads(threads)
    accelerator = Accelerator(mixed_precision=_precision())
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _repeatable(bool(devices)):
        torch.manual_seed(seed)
        loop = _Loop(network, lesson, settings, groups, mode, after_step, seed, checkpoint, what, progress, accelerator)
        loop.clock = Clock(deadline, what)
        trained = loop.run()
    accelerator.unwrap_model(loop.learner, keep_fp32_wrapper=False)
    network.zero_grad(set_to_none=True)
    network.to("cpu").eval()
    return trained


def frozen_norms(network: Any) -> None:
    """Training mode, but batch norm keeps its statistics: those of a few photos are worse than the pretrained ones."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def fresh_norms(network: Any) -> None:
    """Training mode, and the statistics of batch norm are the means over the epoch's own batches.

    For a network that was cut, whose old statistics are wrong: with a momentum they would need more steps than an epoch
    of few photos has, and lag behind the weights.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None


def zeros_stay(parameters: Iterable[Parameter]) -> Callable[[], None]:
    """For `after_step`: what is zero now in these parameters (pruned weights) is set to zero again after each step."""
    pruned = [(parameter, parameter.detach() == 0) for parameter in parameters]
    pruned = [(parameter, zero) for parameter, zero in pruned if bool(zero.any())]

    def clear() -> None:
        with torch.no_grad():
            for parameter, zero in pruned:
                parameter.masked_fill_(zero.to(parameter.device), 0.0)

    return clear


def _repeatable(cuda: bool) -> AbstractContextManager[None]:
    """Kernels of cuDNN that give the same result each time; a CPU has no others."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True) if cuda else nullcontext()


def _precision() -> str:
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


@dataclass
class _Loop:
    """One training. Everything below the dashes goes into its checkpoint."""

    network: Module
    lesson: Lesson
    settings: Settings
    groups: Sequence[Group] | None
    mode: Callable[[Any], object]
    after_step: Callable[[], object] | None
    seed: int
    checkpoint: Path | None
    what: str
    progress: Progress
    accelerator: Accelerator
    clock: Clock = field(init=False)
    # ---
    step: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of this epoch: sum over its rows, how many rows
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_loss: float = math.inf
    before: Scores | None = None
    kept: int | None = None
    stopped: str = ""

    def __post_init__(self) -> None:
        self.network.to(self.accelerator.device)
        chosen = self.groups or [(list(self.network.parameters()), 1.0)]
        optimizer = torch.optim.AdamW(_decayed(chosen, self.settings), lr=self.settings.learning_rate, fused=True)
        self._shares = [group["share"] for group in optimizer.param_groups]
        self.learner, self._optimizer = self.accelerator.prepare(self.network, optimizer)
        self._order = Order(self.lesson.examples, self.settings.batch_size, self.seed)
        self._total = self.settings.epochs * self._order.batches
        self._saved_at = self._said_at = time.monotonic()

    def run(self) -> Trained:
        """Train, or take over what a finished training left."""
        self._restore()
        self._began_at, self._began = time.monotonic(), self.step
        if not self.stopped:
            try:
                self.stopped = self._train()
            except _NotFiniteError as error:
                self.stopped = self._rescue(str(error))
            if self.best is not None:
                _put(self.network, self.best)
            self._save()
        return Trained(self.history, self.before, self.kept, self.stopped)

    def _train(self) -> str:
        """All steps that are left; why they ended."""
        first = self.step
        if first == 0:
            self.before = self._judge(0)
        for step in self.progress.track(range(first, self._total), f"{self.what}, step"):
            epoch, place = divmod(step, self._order.batches)
            if place == 0:
                self.mode(self.learner)
            self._learn(self._order.rows(epoch)[place], epoch, step)
            self.step = step + 1
            if place == self._order.batches - 1 and self._end_epoch(epoch):
                told = self.lesson.decides.replace("_", " ")
                return f"no better validation {told} for {self.settings.patience} epochs"
            self._keep_time()
            if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY_S:
                self._save()
        return "all epochs"

    def _keep_time(self) -> None:
        """Raises OutOfTime when all epochs do not fit in; the checkpoint has what is learnt."""
        late: OutOfTime | None = None
        try:
            self.clock.tick(self._total - self.step)
        except OutOfTime as error:
            late = error
        if self._any(late is not None):
            self._save()
            raise late or OutOfTime(f"the time is up for another process of {self.what}")

    def _learn(self, rows: Rows, epoch: int, step: int) -> None:
        """One step of the optimizer. Raises _NotFiniteError, before the weights are touched."""
        self._set_rates(step)
        parts = [part for part in np.array_split(self._share(rows), self.settings.parts) if len(part)]
        batches = [self.lesson.batch(part, epoch) for part in parts]
        of = self.lesson.weight
        weights = [len(part) if of is None else of(batch) for part, batch in zip(parts, batches, strict=True)]
        for given, weight in zip(batches, weights, strict=True):
            batch = {name: tensor.to(self.accelerator.device) for name, tensor in given.items()}
            with self.accelerator.autocast():
                loss = self.lesson.loss(self.learner, batch)
            value = self._mean(loss)
            if not math.isfinite(value):
                raise _NotFiniteError(f"the loss was {value} in epoch {epoch + 1}, step {step + 1}")
            self.accelerator.backward(loss * (weight / (sum(weights) or 1)))
            self.losses[0] += value * weight
            self.losses[1] += weight
        self._clip(epoch, step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.after_step is not None:
            self.after_step()

    def _share(self, rows: Rows) -> Rows:
        """What this process takes of a batch; a batch that does not go round is taken by all."""
        count = self.accelerator.num_processes
        return rows if len(rows) < count else np.array_split(rows, count)[self.accelerator.process_index]

    def _any(self, here: bool) -> bool:
        """Whether it is so in one of the processes: all of them stop at the same step, or none does."""
        if self.accelerator.num_processes == 1 or not self.clock.limited:
            return here
        return self._mean(torch.tensor(float(here), device=self.accelerator.device)) > 0

    def _mean(self, loss: Tensor) -> float:
        """Over the processes, so that all of them see a NaN."""
        alone = self.accelerator.num_processes == 1
        return float(loss.detach() if alone else self.accelerator.reduce(loss.detach(), "mean"))

    def _clip(self, epoch: int, step: int) -> None:
        if not self.settings.clip:
            return
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if not bool(torch.isfinite(norm)):
            raise _NotFiniteError(f"the gradient was {float(norm)} in epoch {epoch + 1}, step {step + 1}")

    def _set_rates(self, step: int) -> None:
        rate = self.settings.learning_rate * schedule(step, self._total, self.settings.warmup)
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rate * share

    def _end_epoch(self, epoch: int) -> bool:
        """Judge the epoch, note it, keep it when it is the best so far; whether it is time to stop."""
        row: dict[str, Any] = {"epoch": epoch + 1, "train_loss": self.losses[0] / (self.losses[1] or 1)}
        self.losses = [0.0, 0.0]
        scores = self._judge(epoch + 1)
        row |= {f"validation_{name}": value for name, value in (scores or {}).items()}
        self.history.append(row)
        self._tell(row)
        patience = self.settings.patience
        return scores is not None and patience is not None and epoch + 1 - (self.kept or 0) >= patience

    def _judge(self, epoch: int) -> Scores | None:
        """Scores on validation; keeps the weights when they are the best so far, or when there is no validation."""
        if self.lesson.judge is None:
            self.kept, self.best = epoch, _taken(self.network)
            return None
        self.learner.eval()
        with torch.no_grad(), self.accelerator.autocast():
            scores = {name: float(value) for name, value in self.lesson.judge(self.learner).items()}
        loss = scores[self.lesson.decides]
        if not math.isfinite(loss):
            raise _NotFiniteError(f"the validation loss was {loss} after epoch {epoch}")
        if loss < self.best_loss:
            self.best_loss, self.kept, self.best = loss, epoch, _taken(self.network)
        return scores

    def _tell(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._said_at < SAY_EVERY_S:
            return
        self._said_at = now
        told = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in row.items() if name != "epoch")
        left = (now - self._began_at) / (self.step - self._began) * (self._total - self.step)
        self.progress.say(
            f"{self.what}  epoch {row['epoch']}/{self.settings.epochs}: {told}; at most {format_seconds(left)} left"
        )

    def _rescue(self, reason: str) -> str:
        """Keep the best weights so far after a NaN; raises Diverged when no epoch was whole."""
        advice = (
            f"try a lower learning rate ({self.settings.learning_rate / 10:g} instead of"
            f" {self.settings.learning_rate:g}), a longer warm-up, and look for odd values in the data"
        )
        if not self.history:
            raise Diverged(f"{self.what} stopped: {reason}, before one epoch was whole. To go on, {advice}")
        self.progress.warn(f"{self.what} stopped: {reason}. The weights of epoch {self.kept} are kept; {advice}")
        return reason

    def _save(self) -> None:
        """Replace the checkpoint by a whole new one."""
        self._saved_at = time.monotonic()
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        state = {
            "weights": _taken(self.network),
            "optimizer": self._optimizer.state_dict(),
            "generator": _generators(),
            "step": self.step,
            "losses": self.losses,
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "before": self.before,
            "kept": self.kept,
            "stopped": self.stopped,
        }
        _write(self.checkpoint, state if not self.stopped else {**state, "optimizer": None, "best": None})

    def _restore(self) -> None:
        """Go on from the checkpoint where there is one that can be read."""
        state = _read(self.checkpoint, self.progress)
        if state is None:
            return
        self.mode(self.learner)  # before the weights: it may touch the statistics, which are as they were at the kill
        _put(self.network, state["weights"])
        self.step, self.losses, self.history = state["step"], state["losses"], state["history"]
        self.best, self.best_loss, self.kept = state["best"], state["best_loss"], state["kept"]
        self.before, self.stopped = state["before"], state["stopped"]
        if not self.stopped:
            self._optimizer.load_state_dict(state["optimizer"])
            _set_generators(state["generator"])
            self.progress.say(f"{self.what}  goes on at step {self.step} of {self._total}")


class _NotFiniteError(Exception):
    """NaN or infinity, and where."""


def _decayed(groups: Sequence[Group], settings: Settings) -> list[dict[str, Any]]:
    """AdamW's groups: each of ours in two, with and without weight decay."""
    return [
        {"params": chosen, "share": share, "weight_decay": settings.weight_decay if decays else 0.0}
        for parameters, share in groups
        for decays in (True, False)
        if (chosen := [each for each in parameters if each.requires_grad and (each.ndim > 1) == decays])
    ]


def _changing(network: Module) -> dict[str, Tensor]:
    """The tensors that training changes, by name: what is trained, and the running statistics."""
    trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    return {**trained, **dict(network.named_buffers())}


def _taken(network: Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _changing(network).items()}


def _put(network: Module, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in _changing(network).items():
            tensor.copy_(weights[name])


def _generators() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_generators(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(states[1:]))


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint as a whole. Raises DiskFull, and the one before stays."""
    full = (
        f"no space left for the checkpoint {path}: free some and give the same command again, it goes on from"
        " the checkpoint before"
    )
    with explain_full_disk(full), open_whole(path, durable=True) as stream:
        torch.save(state, stream)


def _read(path: Path | None, progress: Progress) -> dict[str, Any] | None:
    """The checkpoint, or None; nothing in it is ever run. One that a power cut damaged is told and left aside."""
    if path is None or not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # torch raises several kinds of its own
        progress.warn(f"the checkpoint {path} cannot be read ({error}): the training begins anew")
        return None
