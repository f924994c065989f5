"""Answer: what a model answers to a question, how likely it finds that, and whether it is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import metrics
from ....errors import BrokenModel
from .question import Question

Outputs = NDArray[Any]  # (examples,) JSON texts, of a session


@dataclass(frozen=True)
class Answer:
    """One answer.

    probability: of it among the choices, which are normalized by their bytes as the answer is chosen; of a written
    text, all of its tokens. of_right: the same of the right choice; 1 or 0 of a text. unnormalized: whether the choice
    of the largest likelihood, whatever its length, is right. chat: whether it was asked through a chat template.
    """

    text: str
    right: bool
    probability: float
    of_right: float
    unnormalized: bool
    chat: bool = False


def read_answers(questions: Iterable[Question], outputs: Outputs) -> list[Answer]:
    """The answers in a session's outputs, (examples,) JSON texts. Raises BrokenModel where one is not finite."""
    return [_read(question, json.loads(str(output))) for question, output in zip(questions, outputs, strict=True)]


def divergence(reference: Outputs, candidate: Outputs) -> float | None:
    """The candidate's probabilities of the choices from the reference's, mean nats a question with choices.

    As the models give them, without normalization by length. None where no question has choices.
    """
    pairs = [(json.loads(str(a)), json.loads(str(b))) for a, b in zip(reference, candidate, strict=True)]
    found = [
        float(metrics.kl_divergence(*(np.array(each["log_likelihoods"])[None] for each in pair))[0])
        for pair in pairs
        if "log_likelihoods" in pair[0]
    ]
    return float(np.mean(found)) if found else None


def _read(question: Question, output: dict[str, Any]) -> Answer:
    if not question.choices:
        likelihood = _finite(question, [output["log_likelihood"]])[0]
        right = question.is_right(output["text"])
        return Answer(output["text"].strip(), right, math.exp(likelihood), float(right), right, output["chat"])
    likelihoods = np.array(_finite(question, output["log_likelihoods"]))
    lengths = np.array([len(choice.encode()) for choice in question.choices])
    # As acc_norm of lm-evaluation-harness: nats per byte, without the space before a choice.
    per_byte = likelihoods / lengths
    chosen, answer = int(per_byte.argmax()), question.answer
    odds = metrics.softmax(per_byte * float(lengths.mean()))
    assert answer is not None
    return Answer(
        question.choices[chosen],
        chosen == answer,
        float(odds[chosen]),
        float(odds[answer]),
        int(likelihoods.argmax()) == answer,
    )


def _finite(question: Question, values: list[float]) -> list[float]:
    if not all(map(math.isfinite, values)):
        raise BrokenModel(f"the likelihoods of the answers to {question.text[:60]!r} are NaN or infinite")
    return values
