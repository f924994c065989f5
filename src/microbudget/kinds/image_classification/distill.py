"""distill for image classifiers: what the teacher says of every view, once, and a student that learns it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InvalidOption, LabelsDisagree, UnsupportedModel, first_line
from ...images.geometry import Geometry
from ...images.preprocess import Preprocessing
from ...machine import files
from ...methods import Context
from ...methods.distill.loss import feature_loss, mixed_loss
from ...metrics import classification_report
from ...model import Model, Record
from ...runtimes.hf.torch import save_network
from ...runtimes.loading import load, match_labels
from ...task import Example, Task
from ...training import lessons
from ...training.classifiers import for_training, head_of, pruned_weights
from ...training.learning_curve import stratified
from ...training.train import Batch, Lesson, Rows, Settings, Trained, fresh_norms, train, zeros_stay
from . import student as students
from .backbone import take_apart
from .features import FeatureStore
from .transfer import check_classes, check_validation

if TYPE_CHECKING:
    from ...methods.distill import Distill

SOFT, HINT = "teacher_logits", "teacher_features"  # beside inputs and label, in a batch
UNLABELLED = -1
SHARES = (1.0, 0.3, 0.1)  # of the labels, for the curve
SAME_CROP = 0.03  # by how much the crops of teacher and student may differ: rounding of a smaller input


@dataclass(frozen=True)
class Teaching:
    """What the teacher said, view by view: logits (examples, classes), and features (examples, width) where asked.

    passes: pictures that it was shown for this step; those that were in the cache before are not among them.
    """

    logits: tuple[NDArray[np.float32], ...]
    features: tuple[NDArray[np.float32], ...] | None
    passes: int = 0

    @property
    def width(self) -> int:
        """Of the features; 0 without them."""
        return self.features[0].shape[1] if self.features else 0


@dataclass(frozen=True)
class Pupils:
    """The examples that are learnt from, labelled ones first, and the data they come from."""

    task: Task
    preprocessing: dict[str, Any]
    examples: tuple[Example, ...]
    labelled: int  # how many of them come first


def extra_inputs(step: Distill, context: Context) -> dict[str, str]:
    """What decides the result beside the given model: the teacher and a named student."""
    teacher = _teacher(step, context)
    found = {} if teacher is None else {"teacher": teacher.fingerprint}
    return found | ({"student": students.fingerprint(step.student)} if step.student else {})


def distilled(step: Distill, model: Model, context: Context, out: Path) -> Record:
    """Teach the student and write it as a Hugging Face folder."""
    task = context.task
    teacher = _teacher(step, context) or model
    network, own = _student(step, model, context)
    if step.student and students.config_alone(step.student):
        context.progress.say(f"distill   {step.student} has a config.json without weights: it is drawn at random")
    preprocessing: dict[str, Any] = own.preprocessing or {}
    check_preprocessing(teacher, preprocessing)
    pupils = _pupils(task, preprocessing)
    check_input(network, pupils, step)
    teaching = _taught(step, teacher, pupils, context)
    trained = _train(step, network, pupils, teaching, context, state=own.state)
    save_network(network, preprocessing, out)
    history = {
        **students.describe(network),
        "teacher": teacher.record.recipe or teacher.record.source or str(teacher.path),
        "teacher_fingerprint": teacher.fingerprint,
        "photos": len(pupils.examples),
        "unlabelled": len(pupils.examples) - pupils.labelled,
        "views": step.views,
        "teacher_answers": len(pupils.examples) * step.views,
        "teacher_passes": teaching.passes,
        **trained.as_dict(),
        "validation": _report(network, pupils),
    }
    if step.curve:
        history["with_and_without"] = _curve(step, model, pupils, teaching, context)
    _say(history, context)
    seen = {example.key for example in (*pupils.examples, *task.examples("validation"))}
    for record in (model.record, own, teacher.record):  # what taught the teacher is in its answers
        seen |= set(record.seen)
    return replace(
        model.record,
        task=task.kind,
        labels=task.labels,
        preprocessing=preprocessing,
        seen=tuple(sorted(seen)),
        state=own.state,
        history={**model.record.history, "distill": history},
    )


def _say(history: dict[str, Any], context: Context) -> None:
    context.progress.say(
        f"distill   {history['parameters']:,} parameters, validation accuracy {history['validation']['accuracy']:.3f};"
        f" {history['teacher_answers']:,} answers of the teacher, {history['teacher_passes']:,} of them new"
    )


def _teacher(step: Distill, context: Context) -> Model | None:
    """The named one, else the run's reference; None: the model that the step is given."""
    return load(step.teacher) if step.teacher else context.reference


def _student(step: Distill, model: Model, context: Context) -> tuple[Any, Record]:
    """The network to train, which answers the data's labels in their order; its preprocessing, state and seen."""
    preprocessing = model.record.preprocessing
    if preprocessing is None:
        raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
    labels = context.task.labels
    if step.student is not None:
        if step.depth != 1.0 or step.width != 1.0:
            raise InvalidOption("distill: a named student is taken as it is; depth and width cut the given model")
        network, own = students.named(step.student, labels, context.seed)
        return network, replace(own, preprocessing=own.preprocessing or preprocessing)
    network, state = students.cut(model, step.depth, step.width, labels, context.seed)
    return network, replace(model.record, state=state)


def check_preprocessing(teacher: Model, student: dict[str, Any]) -> None:
    """Both must see the same part of a photo in the same colours; the sizes may differ. Raises InvalidOption."""
    if teacher.record.preprocessing is None:
        raise UnsupportedModel(f"the teacher {teacher.path} says nothing of its preprocessing")
    theirs, ours = Preprocessing.parse(teacher.record.preprocessing), Preprocessing.parse(student)
    reasons = []
    if theirs.flipped != ours.flipped or not np.allclose(theirs.table, ours.table, atol=1e-6):
        reasons.append("the scale of the colours (image_mean, image_std, rescale_factor)")
    if not _same_part(theirs.geometry, ours.geometry):
        reasons.append("resize and crop")
    if reasons:
        raise InvalidOption(
            f"distill: teacher and student differ in {' and in '.join(reasons)}, so that they would not see the same"
            " picture (another size alone is fine): give both the same preprocessor_config.json but for the size"
        )


def _same_part(one: Geometry, other: Geometry) -> bool:
    kinds = [(type(each.resize), len(each.crops), each.resample) for each in (one, other)]
    return kinds[0] == kinds[1] and abs(_zoom(one) - _zoom(other)) <= SAME_CROP


def _zoom(geometry: Geometry) -> float:
    """Share of the resized photo's side that is left after the crop."""
    edge = getattr(geometry.resize, "edge", None) or getattr(geometry.resize, "height", None)
    size = geometry.output
    return size[0] / edge if edge and size else 1.0


def _pupils(task: Task, preprocessing: dict[str, Any]) -> Pupils:
    """Train and unlabelled examples. Raises BadData where a class is missing or there is nothing to stop on."""
    check_classes(task)
    check_validation(task)
    labelled = task.examples("train")
    return Pupils(task, preprocessing, (*labelled, *task.examples("unlabelled")), len(labelled))


def check_input(network: Any, pupils: Pupils, step: Distill) -> None:
    """Two photos go through the student before the teacher is asked for all of them.

    Raises InvalidOption for a named student that does not take them, UnsupportedModel for one that was cut.
    """
    inputs = lessons.inputs(pupils.task, pupils.examples[:2], pupils.preprocessing)
    try:
        with torch.no_grad():
            network(**inputs)
    except (ValueError, RuntimeError, IndexError) as error:
        reason = first_line(error)
        if step.student is None:
            raise UnsupportedModel(
                f"distill: the student that depth={step.depth:g} and width={step.width:g} leave does not run"
                f" ({reason}): its configuration cannot say it; name a student, or prune() before distill()"
            ) from error
        size = " x ".join(str(side) for side in next(iter(inputs.values())).shape[2:])
        raise InvalidOption(
            f"distill: the student {step.student} does not take photos of {size} pixels ({reason}): write that size as"
            " image_size into its config.json if it is drawn at random, or put the preprocessor_config.json of its own"
            " size beside it, or resize(pixels=...) the model first"
        ) from error


def _taught(step: Distill, teacher: Model, pupils: Pupils, context: Context) -> Teaching:
    """The teacher's answers to every view, from the cache where they stand: it sees each picture once."""
    task, preprocessing = pupils.task, teacher.record.preprocessing or {}
    try:
        columns = match_labels(teacher, task.labels)
    except LabelsDisagree as error:
        raise LabelsDisagree(f"the teacher cannot teach these classes: {error}") from error
    prepare = getattr(task, "prepare", None)
    if prepare:
        prepare([preprocessing, pupils.preprocessing], step.views, context.progress)
    graph, logits_of = _answering(teacher, features=step.features > 0)
    store = FeatureStore(graph, preprocessing, context.cache / "features", context.threads)
    asked = _asked(
        [view for view in range(step.views) if not store.stands(pupils.examples, view, context.seed)], context
    )
    earlier = [view for view in asked if store.stands(pupils.examples, view, context.seed)]
    rows = []
    for view in range(step.views):
        rows.append(store.rows(task, pupils.examples, view, context.seed, context.progress))
        if view == 0:
            _check_outputs(teacher, logits_of(rows[0]).shape[1], columns, task.labels)
    logits = [logits_of(view) for view in rows]
    chosen = tuple(view[:, list(columns)].astype(np.float32) for view in logits)
    passes = store.answered + len(earlier) * len(pupils.examples)
    return Teaching(chosen, tuple(rows) if step.features > 0 else None, passes)


def _check_outputs(teacher: Model, outputs: int, columns: Sequence[int], labels: tuple[str, ...]) -> None:
    """Raises LabelsDisagree: a teacher that names no labels must have as many outputs as the data have, no more."""
    if outputs <= max(columns) or (teacher.labels is None and outputs != len(labels)):
        raise LabelsDisagree(
            f"the teacher has {outputs} outputs, the data have {len(labels)} labels: name its labels in its"
            " config.json (id2label) or its ONNX metadata, or take another teacher"
        )


def _asked(missing: list[int], context: Context) -> list[int]:
    """The views that the step needed from the teacher when it began: after a kill it tells the same in the end."""
    if context.checkpoints is None:
        return missing
    path = context.checkpoints / "asked.json"
    if path.is_file():
        found: list[int] = json.loads(path.read_text(encoding="utf-8"))
        return found
    files.write_text(path, json.dumps(missing))
    return missing


def _answering(teacher: Model, *, features: bool) -> tuple[bytes, Callable[[NDArray[Any]], NDArray[Any]]]:
    """The graph to run, and what makes logits of its output. Quantized teachers have no linear layer to cut at."""
    if teacher.format not in ("hf", "onnx"):
        raise UnsupportedModel(f"a teacher of images is hf or onnx, and {teacher.path} is {teacher.format}")
    try:
        apart = take_apart(teacher)
    except UnsupportedModel:
        if features or teacher.format != "onnx":
            raise
        return teacher.weights.read_bytes(), lambda rows: rows
    return apart.graph, apart.logits


class _Student(torch.nn.Module):
    """The network, and beside its logits its features in the teacher's width (0: none)."""

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


def _train(
    step: Distill,
    network: Any,
    pupils: Pupils,
    teaching: Teaching | None,
    context: Context,
    share: float = 1.0,
    name: str = "distill",
    state: Mapping[str, Any] = MappingProxyType({}),
) -> Trained:
    """Train the network in place; share: of the labels that it is shown, the photos are shown all the same.

    state: of the student's record, whose pruned zeros stay.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(context.seed)
        learner = _Student(for_training(network), teaching.width if teaching else 0)
    settings = Settings(step.epochs, step.learning_rate, step.batch_size, patience=step.patience)
    trained = train(
        learner,
        _lesson(step, pupils, teaching, share, context.seed),
        settings,
        mode=fresh_norms,
        after_step=zeros_stay(pruned_weights(network, state)),
        seed=context.seed,
        threads=context.threads,
        checkpoint=context.checkpoint(name),
        deadline=context.deadline,
        what=name,
        progress=context.progress,
    )
    learner.end()
    return trained


def _lesson(step: Distill, pupils: Pupils, teaching: Teaching | None, share: float, seed: int) -> Lesson:
    """With a teacher: all photos, and the labels of a share of them. Without: those with a label, as many steps."""
    targets = np.array([UNLABELLED if each.label is None else each.label for each in pupils.examples])
    shown = stratified(targets[: pupils.labelled], share, np.random.default_rng([seed, 1]))
    known = np.full_like(targets, UNLABELLED)
    known[shown] = targets[shown]
    width = teaching is not None and teaching.features is not None

    def batch(rows: Rows, epoch: int) -> Batch:
        view = epoch % step.views
        rows = rows if teaching is not None else shown[rows % len(shown)]
        examples = [pupils.examples[row] for row in rows]
        tensors = {
            **lessons.inputs(pupils.task, examples, pupils.preprocessing, view),
            lessons.LABEL: torch.from_numpy(known[rows]),
        }
        if teaching is not None:
            tensors[SOFT] = torch.from_numpy(teaching.logits[view][rows])
            if teaching.features is not None:
                tensors[HINT] = torch.from_numpy(teaching.features[view][rows])
        return tensors

    def loss(learner: Any, batch: Batch) -> torch.Tensor:
        answer = learner(**{name: tensor for name, tensor in batch.items() if name not in (lessons.LABEL, SOFT, HINT)})
        if teaching is None:
            return torch.nn.functional.cross_entropy(answer.logits, batch[lessons.LABEL])
        total = mixed_loss(answer.logits, batch[SOFT], batch[lessons.LABEL], step.temperature, step.hard)
        return total + step.features * feature_loss(answer.features, batch[HINT]) if width else total

    judge = lessons.judge(pupils.task, pupils.preprocessing)
    return Lesson(len(pupils.examples), batch, loss, judge, decides=lessons.CALIBRATED)


def _curve(step: Distill, model: Model, pupils: Pupils, teaching: Teaching, context: Context) -> list[dict[str, Any]]:
    """The same student with and without the teacher, the same steps, at several shares of the labels.

    Its head is new in every cell, the same everywhere: the one that it would take from the model knows all the labels.
    Quality is on validation, which has also chosen the epoch. The teacher itself has learnt from all the labels.
    """
    rows = []
    for share in SHARES:
        row: dict[str, Any] = {"labels_share": share}
        for name, teacher in (("with_teacher", teaching), ("without_teacher", None)):
            network, own = _student(step, model, context)
            students.forget_classes(network, context.task.labels, context.seed)
            row[f"quality_{name}"] = _kept_quality(
                _train(step, network, pupils, teacher, context, share, f"{name}_{share:g}", own.state)
            )
        rows.append({**row, "gain_by_teacher": row["quality_with_teacher"] - row["quality_without_teacher"]})
    return rows


def _kept_quality(trained: Trained) -> float:
    """The task's metric on validation, of the epoch that was kept."""
    scores = trained.epochs[trained.kept - 1] if trained.kept else trained.before or {}
    return next(float(value) for name, value in scores.items() if name != "epoch" and not name.endswith("loss"))


def _report(network: Any, pupils: Pupils) -> dict[str, float]:
    validation: Sequence[Example] = pupils.task.examples("validation")
    answers = lessons.answers(network, pupils.task, pupils.preprocessing, validation).argmax(1)
    targets = np.array([example.label for example in validation])
    return classification_report(answers, targets, len(pupils.task.labels))
