"""Answers: where the reference and the small model differ, example by example, in the order that is worth a look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics import softmax

Rows = list[int]


@dataclass(frozen=True)
class Answers:
    """What two models say of the same examples. Probabilities: (examples, classes)."""

    reference: NDArray[np.float64]
    small: NDArray[np.float64]

    @classmethod
    def from_logits(cls, reference: NDArray[np.float32], small: NDArray[np.float32]) -> Answers:
        """Softmax of both. logits: (examples, classes)."""
        return cls(softmax(reference), softmax(small))

    @property
    def disagree(self) -> NDArray[np.bool_]:
        """(examples,): whether the two name different classes."""
        different: NDArray[np.bool_] = self.reference.argmax(axis=1) != self.small.argmax(axis=1)
        return different


@dataclass(frozen=True)
class Judged:
    """Row numbers of labelled examples by what became of them; the most telling first."""

    regressions: Rows  # the reference is right, the small model wrong; by lost probability of the true label
    gains: Rows  # the other way round, by gained probability
    both_wrong: Rows  # by how sure both are: a wrong label looks like this
    both_right: Rows  # the closest calls first


def judge(answers: Answers, labels: NDArray[np.intp]) -> Judged:
    """Sort labelled examples into the four groups. labels: (examples,)."""
    rows = np.arange(len(labels))
    reference_right = answers.reference.argmax(axis=1) == labels
    small_right = answers.small.argmax(axis=1) == labels
    lost = answers.reference[rows, labels] - answers.small[rows, labels]
    sure = sureness(answers)
    return Judged(
        regressions=_ranked(reference_right & ~small_right, lost),
        gains=_ranked(~reference_right & small_right, -lost),
        both_wrong=_ranked(~reference_right & ~small_right, sure),
        both_right=_ranked(reference_right & small_right, -answers.small[rows, labels]),
    )


def to_label(answers: Answers) -> Rows:
    """Examples on which the two disagree, the surest first: one of two sure answers is certainly wrong."""
    return _ranked(answers.disagree, sureness(answers))


def sureness(answers: Answers) -> NDArray[np.float64]:
    """How sure the less sure of the two is of its own answer, (examples,)."""
    least: NDArray[np.float64] = np.minimum(answers.reference.max(axis=1), answers.small.max(axis=1))
    return least


def _ranked(chosen: NDArray[np.bool_], score: NDArray[np.float64]) -> Rows:
    """The chosen rows, highest score first; equal scores in their order."""
    order = np.argsort(-score, kind="stable")
    return [int(row) for row in order if chosen[row]]
