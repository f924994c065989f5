"""Flipped: the validation questions that only one of reference and shipped model has right, with both answers."""

from __future__ import annotations

from dataclasses import replace

from ....report.data import reopened
from ....report.gallery import Gallery, Group, Prediction, Sample
from ....report.outcome import Outcome
from ....report.part import Words
from ....task import Example
from .answer import Answer
from .question import Question
from .task import METRIC, QuestionTask

MOST = 50  # of each direction; the pages stay readable, and more tell nothing else
WORDS = Words(example="question", examples="questions")


def flipped(outcome: Outcome) -> Gallery | None:
    """Questions that were lost and won, those that changed most first; None where no questions were asked."""
    if outcome.metric != METRIC and "questions" not in outcome.settings:
        return None
    if outcome.smaller is None:
        return Gallery(WORDS, "no other model than the reference ships")
    with reopened(outcome) as (task, missing):
        if isinstance(task, QuestionTask):
            return _gallery(outcome, task)
        secondary = getattr(task, "secondary", None)
        if not isinstance(secondary, QuestionTask):
            return Gallery(WORDS, missing)
        return _gallery(replace(outcome, run=outcome.run.apart(secondary.fingerprint)), secondary)


def _gallery(outcome: Outcome, task: QuestionTask) -> Gallery:
    assert outcome.smaller is not None
    found = [outcome.logits(one, "validation") for one in (outcome.reference, outcome.smaller)]
    if any(outputs is None for outputs in found):
        return Gallery(WORDS, "the run does not hold both models' answers to the validation questions")
    known = [outputs for outputs in found if outputs is not None]
    both = min(map(len, known))
    examples = outcome.read(task.examples("validation"))[:both]
    answers = [task.answers(outputs[:both], examples) for outputs in known]
    rows = [(each, *pair) for each, *pair in zip(examples, *answers, strict=True) if pair[0].right != pair[1].right]
    rows.sort(key=lambda row: -abs(row[1].of_right - row[2].of_right))
    groups = tuple(
        _group(task, name, [row for row in rows if row[1].right == before])
        for name, before in (("regressions", True), ("gains", False))
    )
    return Gallery(WORDS, "", len(examples), groups)


def _group(task: QuestionTask, name: str, rows: list[tuple[Example, Answer, Answer]]) -> Group:
    samples = (_sample(example, task.question(example), before, after) for example, before, after in rows[:MOST])
    return Group(name, len(rows), tuple(samples))


def _sample(example: Example, question: Question, reference: Answer, small: Answer) -> Sample:
    return Sample(
        name=example.name,
        shown=question.text,
        truth=question.right,
        truth_odds=(reference.of_right, small.of_right) if question.choices else None,
        reference=Prediction(reference.text, reference.probability, reference.right),
        small=Prediction(small.text, small.probability, small.right),
    )
