"""Answers: where the reference and the shipped model differ, example by example, the most useful to look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics import softmax

Rows = list[int]


@dataclass(frozen=True)
class Answers:
    """Two models' probabilities for the same examples, each (examples, classes)."""

    reference: NDArray[np.float64]
    small: NDArray[np.float64]

    @classmethod
    def from_logits(cls, reference: NDArray[np.float32], small: NDArray[np.float32]) -> Answers:
        """Softmax of both. logits: (examples, classes)."""
        return cls(softmax(reference), softmax(small))

    @property
    def disagree(self) -> NDArray[np.bool_]:
        """(examples,): whether the two predict different classes."""
        different: NDArray[np.bool_] = self.reference.argmax(axis=1) != self.small.argmax(axis=1)
        return different


@dataclass(frozen=True)
class Groups:
    """Row numbers of labelled examples by which of the two models is right; the most useful to look at first."""

    regressions: Rows  # the reference is right, the small model is wrong; by lost probability of the true label
    gains: Rows  # the other way round, by gained probability
    both_wrong: Rows  # by the confidence of both: a wrong label looks like this
    both_right: Rows  # the closest calls first


def group(answers: Answers, labels: NDArray[np.intp]) -> Groups:
    """The labelled examples in four groups. labels: class indices, (examples,)."""
    rows = np.arange(len(labels))
    reference_right = answers.reference.argmax(axis=1) == labels
    small_right = answers.small.argmax(axis=1) == labels
    lost = answers.reference[rows, labels] - answers.small[rows, labels]
    confidence = least_confidence(answers)
    return Groups(
        regressions=_ranked(reference_right & ~small_right, lost),
        gains=_ranked(~reference_right & small_right, -lost),
        both_wrong=_ranked(~reference_right & ~small_right, confidence),
        both_right=_ranked(reference_right & small_right, -answers.small[rows, labels]),
    )


def to_label(answers: Answers) -> Rows:
    """Rows on which the two disagree, the most confident first: one of two confident answers is certainly wrong."""
    return _ranked(answers.disagree, least_confidence(answers))


def least_confidence(answers: Answers) -> NDArray[np.float64]:
    """The probability that the less confident of the two gives to its own answer, (examples,)."""
    least: NDArray[np.float64] = np.minimum(answers.reference.max(axis=1), answers.small.max(axis=1))
    return least


def _ranked(chosen: NDArray[np.bool_], score: NDArray[np.float64]) -> Rows:
    """The chosen rows, highest score first; equal scores in their order."""
    order = np.argsort(-score, kind="stable")
    return [int(row) for row in order if chosen[row]]
