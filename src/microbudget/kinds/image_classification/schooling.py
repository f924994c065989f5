"""How long and from which views a student learns: as the step says, else by the time that is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from ...errors import OutOfTime
from ...machine import files
from ...methods import Context
from ...methods.distill import AUTO, FIXED, FIXED_VIEWS, FRESH, PATIENT, Distill, Learning
from ...training.trial import Trial
from ...units import format_seconds

LEARNING_SHARE, LATEST_SHARE = 0.7, 0.8  # of the time that is left: planned for the training, and its end at the latest
FEWEST = 20  # epochs of fresh views: with fewer, fixed ones are as good and take less time
AVERAGED = 0.05  # of the steps, with fresh views
CAREFUL = 1e-3  # the learning rate of networks that the usual one of PATIENT damages, see `with_views`
NEAR = 0.25  # of the entropy of a guess: a student whose answers are as near to the teacher's has little to unlearn


@dataclass(frozen=True)
class Schooling:
    """What was decided. views: a number of fixed ones, or FRESH.

    latest_s: the training may be cut, and ends so long after its start at the latest; None: it is as long as it says.
    """

    views: int | str
    learning: Learning
    latest_s: float | None = None

    @property
    def cut(self) -> bool:
        """See `Settings.cut`."""
        return self.latest_s is not None

    @property
    def fresh(self) -> bool:
        """Whether each epoch has views of its own."""
        return self.views == FRESH

    @property
    def average(self) -> float:
        """See `Settings.average`."""
        return AVERAGED if self.fresh else 0.0

    def deadline(self, context: Context) -> float | None:
        """Of the training, as a time of `time.monotonic`."""
        if self.latest_s is None or context.deadline is None:
            return context.deadline
        return min(context.deadline, time.monotonic() + self.latest_s)


def with_views(
    step: Distill, views: int | str, network: torch.nn.Module, distance: Callable[[], float] | None = None
) -> Schooling:
    """The step's options with these views, and the defaults for them.

    distance: () -> the divergence of the student's answers from the teacher's before the training, as a share of a
    guess's entropy. Fresh views: networks without batch normalization, and those that are near, learn with less.
    """
    if views != FRESH:
        return Schooling(views, step.learning(FIXED))
    normalized = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
    careful = step.learning_rate is None and (not normalized or (distance is not None and distance() < NEAR))
    return Schooling(FRESH, step.learning(replace(PATIENT, learning_rate=CAREFUL) if careful else PATIENT))


def decided(
    step: Distill,
    network: torch.nn.Module,
    context: Context,
    timed: Callable[[], Trial],
    distance: Callable[[], float] | None = None,
) -> Schooling:
    """The views and the number of epochs: what the step leaves open is decided by the time that is left.

    timed: () -> the Trial of a training with fresh views, called only where there is a deadline. distance: as of
    `with_views`. What the time decided is kept with the step's checkpoints: a training that resumes is the same one.
    Raises OutOfTime where not one epoch fits.
    """
    if step.views not in (FRESH, AUTO):
        return with_views(step, step.views, network)
    kept = None if context.checkpoints is None else context.checkpoints / "schooling.json"
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return Schooling(**{**found, "learning": Learning(**found["learning"])})
    fresh = with_views(step, FRESH, network, distance)
    if context.deadline is None or fresh.learning.epochs == 0 or (step.epochs is not None and step.views == FRESH):
        return fresh
    chosen = _fitting(step, network, context, fresh, timed())
    if kept is not None:
        files.write_text(kept, json.dumps(asdict(chosen)))
    return chosen


def _fitting(step: Distill, network: torch.nn.Module, context: Context, fresh: Schooling, trial: Trial) -> Schooling:
    assert context.deadline is not None
    left = context.deadline - time.monotonic()
    fit = int(LEARNING_SHARE * left / trial.epoch_s)
    wanted = fresh.learning.epochs
    if step.views == AUTO and fit < min(wanted, FEWEST):
        context.progress.detail(
            f"distill   {FIXED_VIEWS} fixed views: of fresh ones an epoch takes {format_seconds(trial.epoch_s)}, and"
            f" {format_seconds(left)} are left"
        )
        return _in_time(step, with_views(step, FIXED_VIEWS, network), fit, LATEST_SHARE * left)
    if fit < 1:
        raise OutOfTime(
            f"distill: one epoch takes {format_seconds(trial.epoch_s)}, and {format_seconds(left)} are left: give more"
            " --minutes, or views=1"
        )
    if step.epochs is None and fit < wanted:
        context.progress.detail(
            f"distill   {fit} of {wanted} epochs fit: one takes {format_seconds(trial.epoch_s)}, and"
            f" {format_seconds(left)} are left"
        )
    return _in_time(step, fresh, fit, LATEST_SHARE * left)


def _in_time(step: Distill, schooling: Schooling, fit: int, latest_s: float) -> Schooling:
    """With as many epochs as fit, at least one, where the step leaves them open; it then ends in time at the latest.

    An epoch of fixed views takes no longer than one of fresh ones, by which `fit` was found.
    """
    if step.epochs is not None:
        return schooling
    epochs = max(1, min(schooling.learning.epochs, fit))
    return replace(schooling, learning=replace(schooling.learning, epochs=epochs), latest_s=latest_s)
