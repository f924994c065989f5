"""The gallery: photos with both models' answers side by side, chosen for what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...model import LANGUAGE_MODELLING
from ...report.answers import Answers, judge, to_label
from ...report.outcome import Outcome
from ...task import Example, Split
from .report_photos import open_data, thumbnail

if TYPE_CHECKING:
    from .data import ImageTask

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "unlabelled")
MOST = {"regressions": 12, "gains": 8, "both_wrong": 8, "both_right": 4}
TO_LABEL = 20


@dataclass(frozen=True)
class Said:
    """One model's answer to one photo."""

    label: str
    probability: float
    right: bool | None  # None: nobody knows


@dataclass(frozen=True)
class Sample:
    """One photo with both answers. `picture` is a data URI, None where the file cannot be read any more."""

    name: str
    picture: str | None
    truth: str | None
    truth_odds: tuple[float, float] | None  # the true label's probability, by the reference and by the small model
    reference: Said
    small: Said


@dataclass(frozen=True)
class Group:
    """Photos of one kind, a field's name of `answers.Judged`; `count` of them there are, the first are shown."""

    name: str
    count: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Gallery:
    """The photos of the report. `missing` says why there are none; "" when they are there."""

    missing: str
    examples: int = 0  # of the validation split, which `groups` are from
    groups: tuple[Group, ...] = ()
    to_label: tuple[Sample, ...] = ()
    disagreements: int = 0
    pool: int = 0  # photos that `to_label` was chosen from
    pool_split: Split = "validation"
    warnings: tuple[str, ...] = ()  # about the data
    split_sizes: tuple[tuple[str, int], ...] = ()


def gallery(outcome: Outcome) -> Gallery:
    """The photos worth a look. Never the test split's: who changes a model after a look at those has no test left."""
    measured = outcome.reference.measurement
    if measured is not None and measured.task == LANGUAGE_MODELLING:
        return Gallery("the data are texts")
    with ExitStack() as stack:
        cache = outcome.run.cache
        if not cache.is_dir():  # a finished run has none, and the report leaves none behind
            cache = Path(stack.enter_context(TemporaryDirectory()))
        task, missing = open_data(outcome.settings, cache)
        if task is None:
            return Gallery(missing)
        sizes = tuple((split, len(task.examples(split))) for split in SPLITS if task.examples(split))
        known = Gallery("", warnings=tuple(task.warnings), split_sizes=sizes)
        if outcome.smaller is None:
            return replace(known, missing="no other model than the reference ships")
        return _filled(known, outcome, task)


def _filled(known: Gallery, outcome: Outcome, task: ImageTask) -> Gallery:
    validation, unlabelled = _answers(outcome, task, "validation"), _answers(outcome, task, "unlabelled")
    if validation is None:
        return replace(known, missing="the run does not hold both models' answers to the validation photos")
    split: Split = "validation" if unlabelled is None else "unlabelled"
    pool = validation if unlabelled is None else unlabelled
    examples, rows = task.examples("validation"), to_label(pool)
    labels = np.array([example.label for example in examples], np.intp)
    groups = (
        Group(name, len(chosen), _samples(task, examples, validation, chosen[: MOST[name]]))
        for name, chosen in vars(judge(validation, labels)).items()
    )
    return replace(
        known,
        examples=len(examples),
        groups=tuple(groups),
        to_label=_samples(task, task.examples(split), pool, rows[:TO_LABEL]),
        disagreements=len(rows),
        pool=len(pool.small),
        pool_split=split,
    )


def _answers(outcome: Outcome, task: ImageTask, split: Split) -> Answers | None:
    """Both models' answers to a split, where the run has them for exactly its examples."""
    if outcome.smaller is None:
        return None
    expected = (len(task.examples(split)), len(task.labels))
    reference, small = (outcome.logits(one, split) for one in (outcome.reference, outcome.smaller))
    if reference is None or small is None or not reference.shape == small.shape == expected or not expected[0]:
        return None
    return Answers.from_logits(reference, small)


def _samples(task: ImageTask, examples: Sequence[Example], answers: Answers, rows: Sequence[int]) -> tuple[Sample, ...]:
    return tuple(_sample(task, examples[row], answers.reference[row], answers.small[row]) for row in rows)


def _sample(task: ImageTask, example: Example, reference: NDArray[np.float64], small: NDArray[np.float64]) -> Sample:
    """reference, small: probabilities (classes,)."""
    label = example.label
    return Sample(
        name=example.name,
        picture=thumbnail(task.path_of(example)),
        truth=None if label is None else task.labels[label],
        truth_odds=None if label is None else (float(reference[label]), float(small[label])),
        reference=_said(reference, label, task.labels),
        small=_said(small, label, task.labels),
    )


def _said(probabilities: NDArray[np.float64], label: int | None, names: Sequence[str]) -> Said:
    top = int(probabilities.argmax())
    return Said(names[top], float(probabilities[top]), None if label is None else top == label)
