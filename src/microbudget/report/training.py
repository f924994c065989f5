"""Training: the curve over the epochs, and the learning curve with the expected gain from more examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..model import Record
from ..training.learning_curve import LearningCurve, within_room
from .part import Words

STEP = "finetune"
DRAWN = ("epochs", "head_epochs", "before")  # of a step that trained: shown as curves, not as tables


@dataclass(frozen=True)
class Training:
    """The report of a step that trained; any part may be missing."""

    step: str
    epochs: tuple[Mapping[str, float], ...]
    report: tuple[tuple[str, str], ...]  # of the finished head on validation
    learning_curve: LearningCurve | None
    classes: int
    kept_epoch: int | None = None  # where the step reports it

    @property
    def kept(self) -> int | None:
        """The epoch that was kept, from 1: the one with the lowest validation loss. 0: the network as it was."""
        if self.kept_epoch is not None:
            return self.kept_epoch
        losses = self.series("validation_loss")
        return losses.index(min(losses)) + 1 if losses else None

    def series(self, key: str) -> list[float]:
        """One number per epoch; empty where some epoch lacks it."""
        values = [epoch.get(key) for epoch in self.epochs]
        known = [float(value) for value in values if value is not None]
        return known if len(known) == len(values) else []


def training(record: Record | None) -> Training | None:
    """Of `finetune`, from a model's record; None when it was not trained here."""
    history = record.history.get(STEP) if record is not None else None
    if record is None or not isinstance(history, Mapping):
        return None
    return _training(STEP, history, record)


def further(record: Record | None) -> tuple[Training, ...]:
    """Of the other steps that trained: distill, lora, prune."""
    steps = record.history.items() if record is not None else ()
    return tuple(
        _training(step, history, record)
        for step, history in steps
        if record is not None and step != STEP and isinstance(history, Mapping) and history.get("epochs")
    )


def _training(step: str, history: Mapping[str, Any], record: Record) -> Training:
    validation = history.get("validation")  # of speech models it is the number of recordings
    return Training(
        step=step,
        epochs=tuple(history.get("epochs") or ()),
        report=tuple(_report(validation if isinstance(validation, Mapping) else {})),
        learning_curve=_learning_curve(history.get("learning_curve")),
        classes=len(record.labels or ()),
        kept_epoch=history.get("kept"),
    )


def _report(report: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    numbers = {name: value for name, value in report.items() if isinstance(value, float)}
    return [(name, f"{value * 100:.1f} %" if 0 <= value <= 1 else f"{value:.3g}") for name, value in numbers.items()]


def _learning_curve(row: Mapping[str, Any] | None) -> LearningCurve | None:
    names = [spec.name for spec in fields(LearningCurve)]
    if row is None or not all(name in row for name in names):
        return None
    return within_room(LearningCurve(**{name: row[name] for name in names}))


def advice(trained: Training, words: Words) -> str:
    """The expected gain from more examples, in a sentence; "" where no learning curve was drawn."""
    curve = trained.learning_curve
    if curve is None:
        return ""
    if curve.accuracy[-1] >= 1:
        return f"All validation {words.examples} are right: more of them to train on would show no gain here."
    low, high = curve.gain_low * 100, curve.gain_high * 100
    has = f"{curve.examples[-1] / trained.classes:.0f} each" if trained.classes else f"{curve.examples[-1]} in all"
    return (
        f"Another {curve.more_per_class} {words.examples} per class, in addition to the {has} that it was trained on,"
        f" would change accuracy by {curve.gain * 100:+.1f} pt (95 %: {low:+.1f} to {high:+.1f})."
    )
