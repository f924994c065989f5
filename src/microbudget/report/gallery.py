"""Gallery: labelled examples with the answers of the reference and of what ships, those worth a look first.

For every kind whose models answer with classes: a kind chooses how an example is shown, as a picture or as a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtimes.labels import other_labels
from ..task import Example, Split, Task
from .answers import Answers, group, to_label
from .outcome import Outcome
from .part import Words

Show = Callable[[Example], str | None]

MOST = {"regressions": 12, "gains": 8, "both_wrong": 8, "both_right": 4}
TO_LABEL = 20
UNNAMED = "(another class)"


@dataclass(frozen=True)
class Prediction:
    """One model's answer to one example."""

    label: str
    probability: float
    right: bool | None  # None: the true label is not known


@dataclass(frozen=True)
class Sample:
    """One example with both answers. `shown` is what its kind shows of it; None where it cannot be read any more."""

    name: str
    shown: str | None
    truth: str | None
    truth_odds: tuple[float, float] | None  # the true label's probability, by the reference and by what ships
    reference: Prediction
    small: Prediction


@dataclass(frozen=True)
class Group:
    """Examples with one outcome, a field's name of `answers.Groups`; `count` of them there are, the first are shown."""

    name: str
    count: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Gallery:
    """The examples. `missing` is the reason why there are none; "" when there are."""

    words: Words
    missing: str
    examples: int = 0  # of the validation split, which `groups` are from
    groups: tuple[Group, ...] = ()
    to_label: tuple[Sample, ...] = ()
    disagreements: int = 0
    pool: int = 0  # examples that `to_label` was chosen from
    pool_split: Split = "validation"


def gallery(outcome: Outcome, task: Task, words: Words, show: Show) -> Gallery:
    """The examples worth a look. None of the test split: a model that is changed after a look at those has no test.

    show: a text for an example, which the kind's template draws.
    """
    if outcome.smaller is None:
        return Gallery(words, "no other model than the reference ships")
    validation, unlabelled = _answers(outcome, task, "validation"), _answers(outcome, task, "unlabelled")
    if validation is None:
        return Gallery(words, f"the run does not hold both models' answers to the validation {words.examples}")
    split: Split = "validation" if unlabelled is None else "unlabelled"
    pool = validation if unlabelled is None else unlabelled
    examples = outcome.read(task.examples("validation"))[: len(validation.small)]
    rows = to_label(pool)
    labels = np.array([example.label for example in examples], np.intp)
    names = _names(outcome, task)

    def samples(of: Split, answers: Answers, chosen: Sequence[int]) -> tuple[Sample, ...]:
        known = outcome.read(task.examples(of))
        return tuple(_sample(known[row], show, names, answers.reference[row], answers.small[row]) for row in chosen)

    return Gallery(
        words,
        missing="",
        examples=len(examples),
        groups=tuple(
            Group(name, len(chosen), samples("validation", validation, chosen[: MOST[name]]))
            for name, chosen in vars(group(validation, labels)).items()
        ),
        to_label=samples(split, pool, rows[:TO_LABEL]),
        disagreements=len(rows),
        pool=len(pool.small),
        pool_split=split,
    )


def _answers(outcome: Outcome, task: Task, split: Split) -> Answers | None:
    """Both models' answers to what both have read of a split."""
    if outcome.smaller is None:
        return None
    total, classes = len(task.examples(split)), len(task.labels)
    found = [outcome.logits(one, split) for one in (outcome.reference, outcome.smaller)]
    known = [logits for logits in found if logits is not None and logits.ndim == 2 and logits.shape[1] >= classes]
    if len(known) < 2 or not total or any(len(logits) > total for logits in known):
        return None
    both = min(map(len, known))
    known = [logits[:both] for logits in known]
    widest = max(logits.shape[1] for logits in known)  # one of them may answer classes that the other does not have
    padded = [np.pad(each, ((0, 0), (0, widest - each.shape[1])), constant_values=-np.inf) for each in known]
    return Answers.from_logits(*padded)


def _names(outcome: Outcome, task: Task) -> tuple[str, ...]:
    """The data's labels, and behind them the other classes of a model that has more."""
    for candidate in (outcome.reference, outcome.smaller):
        record = None if candidate is None else outcome.record(candidate)
        others = None if record is None else other_labels(record.labels, task.labels)
        if others:
            return (*task.labels, *others)
    return tuple(task.labels)


def _sample(
    example: Example, show: Show, names: Sequence[str], reference: NDArray[np.float64], small: NDArray[np.float64]
) -> Sample:
    """reference, small: probabilities (classes,)."""
    label = example.label
    return Sample(
        name=example.name,
        shown=show(example),
        truth=None if label is None else names[label],
        truth_odds=None if label is None else (float(reference[label]), float(small[label])),
        reference=_prediction(reference, label, names),
        small=_prediction(small, label, names),
    )


def _prediction(probabilities: NDArray[np.float64], label: int | None, names: Sequence[str]) -> Prediction:
    top = int(probabilities.argmax())
    name = names[top] if top < len(names) else UNNAMED
    return Prediction(name, float(probabilities[top]), None if label is None else top == label)
