"""distill for image classifiers: a student learns the teacher's answers to every view of the photos."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InvalidOption, UnsupportedModel, what_it_said
from ...methods import Context
from ...methods.distill import FRESH, Distill, named
from ...methods.distill.loss import feature_loss, mixed_loss, soft_label_loss
from ...methods.distill.worth import worth
from ...metrics import classification_report
from ...model import Model, Record
from ...runtimes.hf.heads import head_of
from ...runtimes.hf.image_classifier import save_network
from ...runtimes.labels import for_labels
from ...runtimes.loading import load
from ...runtimes.onnx.module.network import OnnxNetwork
from ...task import Example
from ...training import objectives
from ...training.classifiers import for_training, pruned_weights
from ...training.head_data import check_classes, check_validation
from ...training.learning_curve import stratified
from ...training.modes import fresh_norms, zeros_stay
from ...training.objective import Batch, Objective, Trained
from ...training.order import Rows
from ...training.settings import Settings
from ...training.train import train
from ...training.trial import Trial, timed
from . import student as students
from .graph import open_student, save_graph
from .schooling import Schooling, decided, with_views
from .teacher import DistillationData, Teacher, check_preprocessing, teacher_answers
from .teaching import preprocessing_of
from .views import TEACHER_FEATURES, TEACHER_LOGITS, FixedViews, FreshViews, Views

OPTIONS = (
    "student", "depth", "width", "teacher", "temperature", "hard", "features", "views", "mix", "epochs", "patience",
    "learning_rate", "batch_size", "curve",
)  # fmt: skip
ADVICE = "an image classifier is cut with depth= and width="
UNLABELLED = -1


def extra_inputs(step: Distill, context: Context) -> dict[str, str]:
    """What decides the result in addition to the given model: the teacher and a named student."""
    teacher = _teacher(step, context)
    found = {} if teacher is None else {"teacher": teacher.fingerprint}
    return found | ({"student": students.fingerprint(step.student)} if step.student else {})


def apply(step: Distill, model: Model, context: Context, out: Path) -> Record:
    """Teach the student and write it: as a Hugging Face folder, or, made of an `.onnx` file, as that graph."""
    task = context.task
    teacher = _teacher(step, context) or model
    network, own = _student(step, model, context)
    if step.student and named.config_alone(step.student):
        context.progress.say(f"distill   {step.student} has a config.json without weights: randomly initialized")
    preprocessing: dict[str, Any] = own.preprocessing or {}
    check_preprocessing(teacher, preprocessing)
    data = distillation_data(context, preprocessing)
    check_input(network, data, step)
    lessons = Lessons.open(step, network, Teacher.open(teacher, task.labels, features=step.features > 0), data, context)
    trained = train_student(step, network, lessons, context, Training(state=own.state))
    if isinstance(network, OnnxNetwork):
        save_graph(network, task.labels, preprocessing, out)
    else:
        save_network(network, preprocessing, out)
    history = {
        **students.describe(network),
        "teacher": teacher.record.recipe or teacher.record.source or str(teacher.path),
        "teacher_fingerprint": teacher.fingerprint,
        "photos": len(data.examples),
        "unlabelled": len(data.examples) - data.labelled,
        **lessons.views.history(len(trained.epochs)),
        **_options(lessons.schooling),
        **trained.as_dict(),
        "validation": _report(network, data),
    }
    if step.curve:
        history["with_and_without"] = _curve(step, model, lessons, context)
    _say(history, context)
    seen = {example.key for example in (*data.examples, *task.examples("validation"))}
    # What the teacher has learnt from is in its answers.
    record = model.record.with_seen((*seen, *own.seen, *teacher.record.seen)).with_report("distill", history)
    record = replace(record, task=task.kind, labels=task.labels, output=None)
    return replace(record, preprocessing=preprocessing, state=own.state)


def _options(schooling: Schooling) -> dict[str, Any]:
    """What was decided of the options that the step left open, for the history."""
    options = asdict(schooling.learning)
    return {"planned_epochs": options.pop("epochs"), **options}


def _say(history: dict[str, Any], context: Context) -> None:
    context.progress.detail(
        f"distill   {history['parameters']:,} parameters, validation accuracy {history['validation']['accuracy']:.3f};"
        f" {history['teacher_answers']:,} answers of the teacher, {history['teacher_passes']:,} of them new"
    )


def _teacher(step: Distill, context: Context) -> Model | None:
    """The named one, else the run's reference; None: the model that the step is given."""
    return for_labels(load(step.teacher), context.task.labels) if step.teacher else context.reference


def _student(step: Distill, model: Model, context: Context) -> tuple[Any, Record]:
    """The network to train, which answers the data's labels in their order; its preprocessing, state and seen."""
    preprocessing = preprocessing_of(model)
    labels = context.task.labels
    if step.student is not None:
        if step.depth != 1.0 or step.width != 1.0:
            raise InvalidOption("distill: a named student is taken as it is; depth and width cut the given model")
        network, own = students.named(step.student, labels, context.seed)
        return network, replace(own, preprocessing=own.preprocessing or preprocessing)
    if model.format == "onnx":
        return open_student(model, step.depth, step.width, context), model.record
    network, state = students.cut(model, step.depth, step.width, labels, context.seed)
    return network, replace(model.record, state=state)


def distillation_data(context: Context, preprocessing: dict[str, Any]) -> DistillationData:
    """Train and unlabelled examples. Raises BadData where a class is missing or there is nothing to stop on."""
    check_classes(context.task)
    check_validation(context.task)
    labelled, unlabelled = context.task.examples("train"), context.task.examples("unlabelled")
    return DistillationData(context.task, preprocessing, (*labelled, *unlabelled), len(labelled))


def check_input(network: Any, data: DistillationData, step: Distill) -> None:
    """Two photos go through the student before all of them go through the teacher.

    Raises InvalidOption for a named student that does not take them, UnsupportedModel for one that was cut.
    """
    inputs = objectives.inputs(data.task, data.examples[:2], data.preprocessing)
    try:
        with torch.no_grad():
            network(**inputs)
    except (ValueError, RuntimeError, IndexError) as error:
        reason = what_it_said(error)
        if step.student is None:
            raise UnsupportedModel(
                f"distill: the student that depth={step.depth:g} and width={step.width:g} leave does not run"
                f" ({reason}): its configuration cannot express it; name a student, or prune() before distill()"
            ) from error
        size = " x ".join(str(side) for side in next(iter(inputs.values())).shape[2:])
        raise InvalidOption(
            f"distill: the student {step.student} does not take photos of {size} pixels ({reason}): write that size as"
            " image_size into its config.json if it is randomly initialized, or put the preprocessor_config.json of its"
            " own size next to it, or resize(pixels=...) the model first"
        ) from error


class _Student(torch.nn.Module):
    """The network, and next to its logits its features in the teacher's width (0: none)."""

    def __init__(self, network: Any, width: int) -> None:
        super().__init__()
        self.network = network
        self._features: torch.Tensor | None = None
        head = head_of(network)[1]
        self.projection = torch.nn.Linear(head.in_features, width) if width else None
        self._hook = head.register_forward_pre_hook(self._note)

    def _note(self, module: torch.nn.Module, taken: tuple[torch.Tensor, ...]) -> None:
        self._features = taken[0]

    def forward(self, **named: torch.Tensor) -> _Answer:
        logits = self.network(**named).logits
        features, self._features = self._features, None
        return _Answer(logits, None if self.projection is None else self.projection(features))

    def end(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()


@dataclass
class _Answer:
    logits: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True)
class Lessons:
    """What a student learns from, and how."""

    data: DistillationData
    views: Views
    schooling: Schooling

    @classmethod
    def open(cls, step: Distill, network: Any, teacher: Teacher, data: DistillationData, context: Context) -> Lessons:
        """Choose the views. Fixed ones are answered now, fresh ones during the training."""

        @cache
        def fresh() -> FreshViews:
            return FreshViews(data, teacher, context.seed, context.threads, step.mix)

        def trial() -> Trial:
            lessons = cls(data, fresh(), with_views(step, FRESH, network))
            learner = _Student(copy.deepcopy(for_training(network)), lessons.views.width)
            return timed(learner, objective(step, lessons, Training(), context.seed), step.batch_size, context.threads)

        def distance() -> float:
            return _distance(
                network, fresh().batch(np.arange(min(step.batch_size, len(data.examples))), 0, taught=True)
            )

        schooling = decided(step, network, context, trial, distance)
        if schooling.fresh:
            return cls(data, fresh(), schooling)
        answers = teacher_answers(teacher, data, context, views=int(schooling.views))
        return cls(data, FixedViews(data, answers), schooling)


def _distance(network: Any, batch: Batch) -> float:
    """The mean divergence of the answers to a batch from the teacher's, as a share of the entropy of a guess."""
    inputs = {name: tensor for name, tensor in batch.items() if name not in (TEACHER_LOGITS, TEACHER_FEATURES)}
    with torch.no_grad():
        logits = network.eval()(**inputs).logits
    nats = float(soft_label_loss(logits, batch[TEACHER_LOGITS], 1.0).mean())
    return nats / math.log(max(2, logits.shape[1]))


@dataclass(frozen=True)
class Training:
    """What differs between the trainings of one step: the main one, and those of the curve."""

    taught: bool = True  # False: without a teacher
    fraction: float = 1.0  # of the labels that are learnt; the photos are all shown all the same
    name: str = "distill"
    state: dict[str, Any] = field(default_factory=dict)  # of the student's record, whose pruned zeros stay


def train_student(step: Distill, network: Any, lessons: Lessons, context: Context, run: Training) -> Trained:
    """Train the network in place."""
    schooling = lessons.schooling
    learning = schooling.learning
    with torch.random.fork_rng([]):
        torch.manual_seed(context.seed)
        learner = _Student(for_training(network), lessons.views.width if run.taught else 0)
    trained = train(
        learner,
        objective(step, lessons, run, context.seed),
        Settings(
            learning.epochs,
            learning.learning_rate,
            step.batch_size,
            patience=learning.patience,
            average=schooling.average,
            cut=schooling.cut,
            last=schooling.fresh,
        ),
        replace(context.execution(run.name), deadline=schooling.deadline(context)),
        mode=torch.nn.Module.train if schooling.fresh else fresh_norms,
        after_step=zeros_stay(pruned_weights(network, run.state)),
    )
    learner.end()
    return trained


def objective(step: Distill, lessons: Lessons, run: Training, seed: int) -> Objective:
    """With a teacher: all photos, and a fraction of the labels. Without: the photos with a label, as many steps."""
    data, learning = lessons.data, lessons.schooling.learning
    targets = np.array([UNLABELLED if each.label is None else each.label for each in data.examples])
    shown = stratified(targets[: data.labelled], run.fraction, np.random.default_rng([seed, 1]))
    known = np.full_like(targets, UNLABELLED)
    if not step.mix:  # what is mixed of two photos has no label
        known[shown] = targets[shown]
    extra = (objectives.LABEL, TEACHER_LOGITS, TEACHER_FEATURES)

    def batch(rows: Rows, epoch: int) -> Batch:
        rows = rows if run.taught else shown[rows % len(shown)]
        return {
            **lessons.views.batch(rows, epoch, taught=run.taught),
            objectives.LABEL: torch.from_numpy(known[rows]),
        }

    def loss(learner: Any, batch: Batch) -> torch.Tensor:
        answer = learner(**{name: tensor for name, tensor in batch.items() if name not in extra})
        labels = batch[objectives.LABEL]
        if not run.taught:
            return torch.nn.functional.cross_entropy(answer.logits, labels)
        total = mixed_loss(answer.logits, batch[TEACHER_LOGITS], labels, learning.temperature, learning.hard)
        if TEACHER_FEATURES not in batch:
            return total
        return total + step.features * feature_loss(answer.features, batch[TEACHER_FEATURES])

    validate = objectives.validator(data.task, data.preprocessing)
    return Objective(len(data.examples), batch, loss, validate, decides=objectives.CALIBRATED)


def _curve(step: Distill, model: Model, lessons: Lessons, context: Context) -> list[dict[str, Any]]:
    """The same student with and without the teacher, the same steps, at several fractions of the labels.

    Its head is new in every cell, the same everywhere: the one that it would take from the model knows all the labels.
    Quality is on validation, which has also chosen the epoch. The teacher itself has learnt from all the labels.
    """

    def train_part(fraction: float, taught: bool, name: str) -> Trained:
        network, own = _student(step, model, context)
        students.forget_classes(network, context.task.labels, context.seed)
        return train_student(step, network, lessons, context, Training(taught, fraction, name, own.state))

    return worth(train_part)


def _report(network: Any, data: DistillationData) -> dict[str, float]:
    validation: Sequence[Example] = data.task.examples("validation")
    answers = objectives.answers(network, data.task, data.preprocessing, validation).argmax(1)
    targets = np.array([example.label for example in validation])
    return classification_report(answers, targets, len(data.task.labels))
