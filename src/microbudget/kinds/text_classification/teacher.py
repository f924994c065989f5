"""The teacher of a text classifier: which model it is, and its answers to texts, each computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...data.kept_rows import KeptRows
from ...errors import InvalidOption, LabelsDisagree, UnsupportedModel
from ...methods import Context
from ...methods.distill import Distill, Learning
from ...methods.distill.loss import mixed_loss
from ...methods.prompt import Prompt
from ...model import Model
from ...runtimes import open_session
from ...runtimes.labels import for_labels, match_labels
from ...runtimes.loading import load
from ...runtimes.text.encoding import MAX_LENGTH
from ...task import Example
from ...training import objectives
from ...training.head_data import labels_of
from ...training.learning_curve import stratified
from .network import KIND, has_head
from .prompt import FORMATS as PROMPTED
from .prompt import with_prompt
from .teaching import answer_batches, by_length, reading, texts_of

Logits = NDArray[np.float32]  # (texts, classes), in the order of the data's labels

UNLABELLED = -1
TEACHER = "teacher_logits"  # in a batch, next to inputs and label


@dataclass(frozen=True)
class Lesson:
    """What a student learns: texts with their labels, and a teacher's answers to them and to validation."""

    examples: tuple[Example, ...]  # of train, then unlabelled ones where there is a teacher
    labels: NDArray[np.intp]  # UNLABELLED: none
    validation: Sequence[Example]
    teacher: Model | None = None
    answers: Logits | None = None  # NaN where the teacher was not asked
    held_out: Logits | None = None  # the teacher's answers to validation

    @classmethod
    def of(cls, teacher: Model | None, context: Context, most: int | None = None) -> Lesson:
        """most: texts that the teacher answers, unlabelled ones first; None: all.

        Raises LabelsDisagree, UnsupportedModel for a teacher that cannot teach, OutOfTime.
        """
        train, unlabelled, validation = (context.task.examples(name) for name in ("train", "unlabelled", "validation"))
        learnt = (*train, *unlabelled) if teacher else tuple(train)
        labels = np.array([UNLABELLED if each.label is None else each.label for each in learnt], np.intp)
        if teacher is None:
            return cls(learnt, labels, validation)
        places = [*range(len(train), len(learnt)), *range(len(train))][:most]
        asked = [*(learnt[place] for place in places), *validation]
        found = answers_to(teacher, asked, context)
        answers = np.full((len(learnt), found.shape[1]), np.nan, np.float32)
        answers[places] = found[: len(places)]
        return cls(learnt, labels, validation, teacher, answers, found[len(places) :])

    def part(self, fraction: float, seed: int, *, taught: bool) -> Lesson:
        """With a fraction of the labels. taught: all texts; else those of the labels alone, in as many steps."""
        labelled = np.flatnonzero(self.labels != UNLABELLED)
        shown = labelled[stratified(self.labels[labelled], fraction, np.random.default_rng([seed, 1]))]
        if taught:
            known = np.full_like(self.labels, UNLABELLED)
            known[shown] = self.labels[shown]
            return replace(self, labels=known)
        rows = shown[np.arange(len(self.labels)) % len(shown)]
        return Lesson(tuple(self.examples[row] for row in rows), self.labels[rows], self.validation)

    @property
    def seen(self) -> set[str]:
        """The keys of what the student and its teacher have learnt from: the latter is in the answers."""
        own = {example.key for example in (*self.examples, *self.validation)}
        return own | set(self.teacher.record.seen if self.teacher else ())

    def report(self, logits: NDArray[Any]) -> dict[str, Any]:
        """For the history. logits: the student's answers to validation."""
        rows: dict[str, Any] = {
            "teacher": None,
            "texts": len(self.examples),
            "unlabelled": int((self.labels == UNLABELLED).sum()),
            "teacher_answers": 0,
        }
        if self.teacher is None or self.answers is None or self.held_out is None:
            return rows
        theirs = self.held_out.argmax(1)
        return {
            **rows,
            "teacher": self.teacher.record.recipe or self.teacher.record.source or str(self.teacher.path),
            "teacher_fingerprint": self.teacher.fingerprint,
            "teacher_answers": int(np.isfinite(self.answers).all(axis=1).sum()),
            "accuracy_of_teacher": float((theirs == labels_of(self.validation)).mean()),
            "agreement_with_teacher": float((theirs == logits.argmax(1)).mean()),
        }


def teacher_of(step: Distill, context: Context) -> Model | None:
    """The named one, else the run's reference; None: the model that the step is given, where it has a head.

    A language model is one by its prompt. Raises InvalidOption for a prompt without a language model.
    """
    found = load(step.teacher) if step.teacher else None
    if found is not None and found.task != KIND and found.format in PROMPTED:
        return with_prompt(Prompt(model=step.teacher, text=step.prompt or ""), context)
    if step.prompt is not None:
        raise InvalidOption("distill: prompt is what a language model reads: name one with teacher=")
    return for_labels(found, context.task.labels) if found else context.reference


def answers_to(teacher: Model, examples: Sequence[Example], context: Context) -> Logits:
    """The teacher's logits, from the cache where they are known; a kill loses one batch of them.

    Raises LabelsDisagree, UnsupportedModel, OutOfTime.
    """
    labels = context.task.labels
    if not has_head(teacher):
        raise UnsupportedModel(
            f"the teacher {teacher.path} is an encoder without a head of classes: finetune it first, and name the model"
            " that comes out"
        )
    try:
        columns = list(match_labels(teacher, labels))
    except LabelsDisagree as error:
        raise LabelsDisagree(f"the teacher cannot teach these classes: {error}") from error
    texts = texts_of(context.task, examples, int(reading(teacher)[MAX_LENGTH]))
    order = by_length(texts)

    def compute(places: list[int]) -> Iterator[NDArray[Any]]:
        session = open_session(teacher, threads=context.threads)
        try:
            yield from answer_batches(session, [texts[order[place]] for place in places], context)
        finally:
            session.close()

    name = hashlib.sha256(f"{teacher.fingerprint} {teacher.record.preprocessing}".encode()).hexdigest()[:24]
    kept = KeptRows(context.cache / "answers" / name)
    rows = kept.complete_in_parts([examples[place].key for place in order], compute)
    if rows.shape[1] <= max(columns) or (teacher.labels is None and rows.shape[1] != len(labels)):
        raise LabelsDisagree(
            f"the teacher has {rows.shape[1]} outputs, the data have {len(labels)} labels: name its labels in its"
            " config.json (id2label) or its ONNX metadata, or take another teacher"
        )
    found = np.empty((len(examples), len(columns)), np.float32)
    found[order] = rows[:, columns]
    return found


def taught_loss(learning: Learning, logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean over a batch: the teacher's answers and the labels; of texts that it was not asked the labels alone."""
    labels = batch[objectives.LABEL]
    if TEACHER not in batch:
        return functional.cross_entropy(logits, labels)
    teacher = batch[TEACHER]
    asked = teacher.isfinite().all(dim=1)
    soft = mixed_loss(logits[asked], teacher[asked], labels[asked], learning.temperature, learning.hard)
    if bool(asked.all()):
        return soft
    hard = functional.cross_entropy(logits[~asked], labels[~asked], ignore_index=UNLABELLED)
    share = asked.float().mean()
    return share * soft.nan_to_num() + (1 - share) * hard.nan_to_num()
