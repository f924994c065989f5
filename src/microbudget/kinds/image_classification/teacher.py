"""The teacher of an image classifier: its answers to every view of every photo, each computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import InvalidOption, LabelsDisagree, UnsupportedModel
from ...images.geometry import Geometry
from ...images.preprocess import Preprocessing
from ...machine import files
from ...methods import Context
from ...model import Model
from ...runtimes.labels import match_labels
from ...runtimes.onnx.interface import as_logits, scale_of_model
from ...task import Example, Task
from ...training.features import FeatureStore
from .backbone import open_backbone

SAME_CROP = 0.03  # by how much the crops of teacher and student may differ: rounding of a smaller input


@dataclass(frozen=True)
class DistillationData:
    """The examples that the student learns from, labelled ones first, as the student sees them."""

    task: Task
    preprocessing: dict[str, Any]
    examples: tuple[Example, ...]
    labelled: int  # how many of them come first


@dataclass(frozen=True)
class TeacherAnswers:
    """The teacher's answers, view by view: logits (examples, classes), and features (examples, width) on request.

    passes: pictures that went through the teacher for this step; those known from the cache are not counted.
    """

    logits: tuple[NDArray[np.float32], ...]
    features: tuple[NDArray[np.float32], ...] | None
    passes: int = 0

    @property
    def width(self) -> int:
        """Of the features; 0 without them."""
        return self.features[0].shape[1] if self.features else 0


def check_preprocessing(teacher: Model, student: dict[str, Any], method: str = "distill") -> None:
    """Both must see the same part of a photo in the same colours; the sizes may differ. Raises InvalidOption."""
    if teacher.record.preprocessing is None:
        raise UnsupportedModel(f"the teacher {teacher.path} has no preprocessing config")
    theirs, ours = Preprocessing.parse(teacher.record.preprocessing), Preprocessing.parse(student)
    reasons = []
    if theirs.flipped != ours.flipped or not np.allclose(theirs.table, ours.table, atol=1e-6):
        reasons.append("the scale of the colours (image_mean, image_std, rescale_factor)")
    if not _same_part(theirs.geometry, ours.geometry):
        reasons.append("resize and crop")
    if reasons:
        raise InvalidOption(
            f"{method}: teacher and student differ in {' and in '.join(reasons)}, so that they would not see the same"
            " picture (another size alone is fine): give both the same preprocessor_config.json but for the size"
        )


def _same_part(one: Geometry, other: Geometry) -> bool:
    kinds = [(type(each.resize), len(each.crops), each.resample) for each in (one, other)]
    return kinds[0] == kinds[1] and abs(_zoom(one) - _zoom(other)) <= SAME_CROP


def _zoom(geometry: Geometry) -> float:
    """The fraction of the resized photo's side that is left after the crop."""
    edge = getattr(geometry.resize, "edge", None) or getattr(geometry.resize, "height", None)
    size = geometry.output
    return size[0] / edge if edge and size else 1.0


@dataclass(frozen=True)
class Teacher:
    """A model that answers the data's labels, and the graph that computes its answers, or the features before them."""

    model: Model
    columns: tuple[int, ...]  # of its outputs, those of the data's labels
    graph: bytes
    logits_of: Callable[[NDArray[Any]], NDArray[Any]]  # from what the graph computes
    features: bool  # whether the graph's output is learnt too

    @classmethod
    def open(cls, model: Model, labels: tuple[str, ...], *, features: bool) -> Teacher:
        """Raises LabelsDisagree where it does not know the labels, UnsupportedModel for its format."""
        try:
            columns = match_labels(model, labels)
        except LabelsDisagree as error:
            raise LabelsDisagree(f"the teacher cannot teach these classes: {error}") from error
        return cls(model, tuple(columns), *_graph(model, features=features), features)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Its own: the size may differ from the student's."""
        return self.model.record.preprocessing or {}

    def logits(self, rows: NDArray[Any], labels: tuple[str, ...]) -> NDArray[np.float32]:
        """What the graph computed -> (examples, labels). Raises LabelsDisagree where the outputs cannot be theirs."""
        found = self.logits_of(rows)
        _check_outputs(self.model, found.shape[1], self.columns, labels)
        return found[:, list(self.columns)].astype(np.float32)


def teacher_answers(teacher: Teacher, data: DistillationData, context: Context, *, views: int) -> TeacherAnswers:
    """The teacher's answers to every view, from the cache where they are known."""
    task, preprocessing = data.task, teacher.preprocessing
    prepare = getattr(task, "prepare", None)
    if prepare:
        prepare([preprocessing, data.preprocessing], views, context.progress)
    store = FeatureStore(teacher.graph, preprocessing, context.cache / "features", context.threads)
    needed = _needed([view for view in range(views) if not store.known(data.examples, view, context.seed)], context)
    earlier = [view for view in needed if store.known(data.examples, view, context.seed)]
    rows, logits = [], []
    for view in range(views):
        rows.append(store.rows(task, data.examples, view, context.seed, context.progress))
        logits.append(teacher.logits(rows[-1], task.labels))
    passes = store.answered + len(earlier) * len(data.examples)
    return TeacherAnswers(tuple(logits), tuple(rows) if teacher.features else None, passes)


def _check_outputs(teacher: Model, outputs: int, columns: Sequence[int], labels: tuple[str, ...]) -> None:
    """Raises LabelsDisagree: a teacher that names no labels must have as many outputs as the data have, no more."""
    if outputs <= max(columns) or (teacher.labels is None and outputs != len(labels)):
        raise LabelsDisagree(
            f"the teacher has {outputs} outputs, the data have {len(labels)} labels: name its labels in its"
            " config.json (id2label) or its ONNX metadata, or take another teacher"
        )


def _needed(missing: list[int], context: Context) -> list[int]:
    """The views that the step needed from the teacher when it began, so that a killed step reports the same number."""
    if context.checkpoints is None:
        return missing
    path = context.checkpoints / "needed_views.json"
    if path.is_file():
        found: list[int] = json.loads(path.read_text(encoding="utf-8"))
        return found
    files.write_text(path, json.dumps(missing))
    return missing


def _graph(teacher: Model, *, features: bool) -> tuple[bytes, Callable[[NDArray[Any]], NDArray[Any]]]:
    """The graph to run, and what turns its output into logits. Quantized teachers have no linear layer to cut at."""
    if teacher.format not in ("hf", "onnx"):
        raise UnsupportedModel(f"a teacher of images is hf or onnx, and {teacher.path} is {teacher.format}")
    try:
        backbone = open_backbone(teacher)
    except UnsupportedModel:
        if features or teacher.format != "onnx":
            raise
        scale, proto = scale_of_model(teacher), onnx.load(str(teacher.weights))
        for value in [value for value in proto.graph.output if teacher.record.output not in (None, value.name)]:
            proto.graph.output.remove(value)
        return proto.SerializeToString(), lambda rows: as_logits(rows, scale)
    return backbone.graph, backbone.logits
