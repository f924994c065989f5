"""distill of text classification: a smaller encoder, or one vector for each token, learns from a teacher's answers.

Which texts the teacher answers, and how, is in `teacher.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...errors import InvalidOption
from ...methods import Context
from ...methods.distill import STATIC, Distill, Learning
from ...methods.distill import named as named_students
from ...methods.distill.worth import kept_quality, worth
from ...model import ONNX_NAME, Model, Record
from ...runtimes.hf.text_classifier import save_network
from ...runtimes.onnx.session import write_metadata
from ...runtimes.text.encoding import MAX_LENGTH, TextEncoder
from ...training import classifiers, objectives
from ...training.head_data import check_classes, check_validation, labels_of
from ...training.head_report import answers_report
from ...training.modes import zeros_stay
from ...training.objective import Batch, Objective, Trained
from ...training.order import Rows
from ...training.settings import Settings
from ...training.train import train
from . import static
from . import student as students
from .network import has_head
from .student import Student
from .teacher import TEACHER, Lesson, taught_loss, teacher_of
from .teaching import TokenTask, copy_tokenizer, reading, texts_of, validation_logits

TAKES = ("hf",)
OPTIONS = (
    "student", "depth", "width", "teacher", "prompt", "temperature", "hard", "epochs", "patience", "learning_rate",
    "batch_size", "dimensions", "curve",
)  # fmt: skip
ADVICE = "a text classifier is cut with depth= and width=, or becomes one vector for each token with student='static'"
ASKED = 20_000  # texts that a teacher of vectors answers: some minutes. They learn the others' labels
TRAINED = (
    0.1  # on `learning_rate`: of an encoder that is trained. Half of its layers learn as well with 0.1 as with 0.3
)
FRESH, WIDE = 0.3, 384  # of one that was narrowed or is new; of a wider one less, as a step moves more weights


def extra_inputs(step: Distill, context: Context) -> dict[str, str]:
    """What decides the result in addition to the given model: the teacher and a named student."""
    teacher = teacher_of(step, context)
    found = {} if teacher is None else {"teacher": teacher.fingerprint}
    named = step.student is not None and step.student != STATIC
    return found | ({"student": students.fingerprint(str(step.student))} if named else {})


def apply(step: Distill, model: Model, context: Context, out: Path) -> Record:
    """Teach the student, and write it with its tokenizer: vectors as a graph, an encoder as a folder."""
    check_classes(context.task)
    check_validation(context.task)
    teacher = teacher_of(step, context) or (model if has_head(model) else None)
    if step.student == STATIC:
        return _vectors(step, model, teacher, context, out)
    if teacher is None:
        raise InvalidOption(
            "distill: there is no teacher: the model is an encoder without a head of classes. Put finetune() before"
            " distill(), or name a classifier with teacher="
        )
    return _encoder(step, model, teacher, context, out)


def _vectors(step: Distill, model: Model, teacher: Model | None, context: Context, out: Path) -> Record:
    """The vectors and a linear layer, as a graph."""
    if step.depth != 1.0 or step.width != 1.0:
        raise InvalidOption("distill: student='static' has no blocks: leave depth and width out")
    task = context.task
    lesson = Lesson.of(teacher, context, ASKED)
    vectors = static.vectors_of(model, step.dimensions, context)
    network, table, trained = static.fit(step, vectors, _bags(model, lesson, context), context)
    proto = static.graph_of(table, network.head, TextEncoder.of(model).special)
    write_metadata(proto, task.labels, static.reading_of(model))
    onnx.save(proto, str(out / ONNX_NAME))
    copy_tokenizer(model, out)
    logits = validation_logits(out, static.reading_of(model), context)

    def train_part(part: Lesson, name: str) -> Trained:
        return static.fit(step, vectors, _bags(model, part, context), context, name)[2]

    history = {
        "tokens": table.shape[0],
        "dimensions": table.shape[1],
        **(_curve(train_part, lesson, context) if step.curve else {}),
        **(_alone(step, model, vectors, context) if step.teacher else {}),
        **_learnt(f"{table.shape[0]:,} tokens x {table.shape[1]} numbers", logits, trained, lesson, context),
    }
    record = model.record.with_seen(lesson.seen).with_report("distill", history)
    return Record(
        task=task.kind,
        labels=task.labels,
        preprocessing=static.reading_of(model),
        source=record.source,
        seen=record.seen,
        history=record.history,
    )


def _alone(step: Distill, model: Model, vectors: static.Vectors, context: Context) -> dict[str, Any]:
    """What the same student learns from the labels alone, for the history: the gain from a named teacher is over it."""
    labels = Lesson.of(None, context)
    _, _, trained = static.fit(step, vectors, _bags(model, labels, context), context, "distill, labels alone")
    accuracy = kept_quality(trained)
    context.progress.detail(f"distill   from the labels alone: validation accuracy {accuracy:.3f}")
    return {"accuracy_from_labels_alone": accuracy}


def _bags(model: Model, lesson: Lesson, context: Context) -> static.Data:
    encoder, length = TextEncoder.of(model), int(reading(model)[MAX_LENGTH])
    bags, held_out = (
        static.bags_of(encoder, texts_of(context.task, examples, length))
        for examples in (lesson.examples, lesson.validation)
    )
    return static.Data(bags, lesson.labels, lesson.answers, held_out)


def _encoder(step: Distill, model: Model, teacher: Model, context: Context, out: Path) -> Record:
    """A network of transformers, as a folder."""
    if step.dimensions != Distill.dimensions:
        raise InvalidOption("distill: dimensions are those of student='static'; an encoder is narrowed with width=")
    task = context.task
    student = students.student_of(step, model, task.labels, context.seed)
    if step.student and named_students.config_alone(step.student):
        context.progress.say(f"distill   {step.student} has a config.json without weights: randomly initialized")
    tokens = TokenTask(task, TextEncoder.of(student.model))
    lesson = Lesson.of(teacher, context)
    trained = _train(step, student, tokens, lesson, context)
    save_network(student.network, out)
    copy_tokenizer(student.model, out)
    logits = objectives.answers(student.network, tokens, {}, lesson.validation)

    def train_part(part: Lesson, name: str) -> Trained:
        other = students.student_of(step, model, task.labels, context.seed)
        students.forget_classes(other.network, task.labels, context.seed)
        return _train(step, other, tokens, part, context, name)

    about = student.describe()
    history = {
        **about,
        **(_curve(train_part, lesson, context) if step.curve else {}),
        **_learnt(f"{about['parameters']:,} parameters", logits, trained, lesson, context),
    }
    record = model.record.with_seen((*lesson.seen, *student.seen)).with_report("distill", history)
    record = replace(record, task=task.kind, labels=task.labels, output=None)
    return replace(record, preprocessing=reading(student.model), state=student.state)


def _curve(train_part: Callable[[Lesson, str], Trained], lesson: Lesson, context: Context) -> dict[str, Any]:
    """The same student with and without its teacher, for the history; each with a new head, since its own knows all."""
    if lesson.teacher is None:
        raise InvalidOption("distill: curve compares trainings with a teacher and without one, and there is none")

    def trained(fraction: float, taught: bool, name: str) -> Trained:
        return train_part(lesson.part(fraction, context.seed, taught=taught), name)

    return {"with_and_without": worth(trained)}


def _train(
    step: Distill, student: Student, tokens: TokenTask, lesson: Lesson, context: Context, name: str = "distill"
) -> Trained:
    """Train the network in place. name: of the training, for its checkpoint."""
    network, learning = student.network, step.learning()
    factor = classifiers.head_factor(network)
    return train(
        network,
        _objective(learning, tokens, lesson),
        Settings(learning.epochs, learning.learning_rate * factor, step.batch_size, patience=learning.patience),
        context.execution(name),
        groups=classifiers.groups(network, False, _encoder_factor(student) / factor),
        after_step=zeros_stay(classifiers.pruned_weights(network, student.state)),
    )


def _encoder_factor(student: Student) -> float:
    return TRAINED if student.trained else max(TRAINED, FRESH * min(1.0, WIDE / student.network.config.hidden_size))


def _objective(learning: Learning, tokens: TokenTask, lesson: Lesson) -> Objective:
    """The teacher's answers to all texts, and the labels of those that have one; in batches of about one length."""
    labels = torch.from_numpy(lesson.labels.astype(np.int64))
    answers = None if lesson.answers is None else torch.from_numpy(lesson.answers)

    def batch(rows: Rows, epoch: int) -> Batch:
        inputs = objectives.inputs(tokens, [lesson.examples[row] for row in rows], {})
        known = {objectives.LABEL: labels[rows]}
        return {**inputs, **known} if answers is None else {**inputs, **known, TEACHER: answers[rows]}

    def loss(network: Any, batch: Batch) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name not in (objectives.LABEL, TEACHER)}
        return taught_loss(learning, network(**inputs).logits, batch)

    validate = objectives.validator(tokens, {})
    sizes = np.array(list(map(len, tokens.tokens(lesson.examples))))
    return Objective(len(labels), batch, loss, validate, decides=objectives.CALIBRATED, sizes=sizes)


def _learnt(what: str, logits: Any, trained: Trained, lesson: Lesson, context: Context) -> dict[str, Any]:
    """Teacher, training and the student's quality, for the history. what: of how much the student is made, to be said.

    logits: the student's answers to validation.
    """
    report, taught = (
        answers_report(logits, labels_of(lesson.validation), len(context.task.labels)),
        lesson.report(logits),
    )
    said = f"distill   {what}, epoch {trained.kept} kept: validation accuracy {report['accuracy']:.3f}"
    if lesson.teacher is not None:
        said += f"; teacher {taught['accuracy_of_teacher']:.3f}, same answers {taught['agreement_with_teacher']:.1%}"
    context.progress.detail(said)
    return {**taught, **trained.as_dict(), "validation": report}
