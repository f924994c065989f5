"""qat of an image classifier: the simulated file learns the original's answers to fresh views of photos."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ...errors import BadData, InvalidOption, LabelsDisagree
from ...methods import Context
from ...methods.distill.loss import soft_label_loss
from ...methods.qat import Qat
from ...methods.qat.simulation import Simulation, own_scales
from ...methods.qat.writing import written
from ...model import ONNX_NAME, Model, Record
from ...runtimes.loading import load
from ...runtimes.onnx.interface import signature_of
from ...runtimes.onnx.session import OnnxSession, write_metadata
from ...task import Example
from ...training import objectives
from ...training.head_data import check_validation
from ...training.modes import frozen_norms
from ...training.objective import Batch, Objective, Scores, Trained
from ...training.order import Rows
from ...training.settings import Settings
from ...training.train import train
from .teacher import DistillationData, Teacher, check_preprocessing
from .teaching import preprocessing_of
from .views import TEACHER_LOGITS, FreshViews

SCALES_FACTOR = 10.0  # on the learning rate, of the logarithms of scales
AT_ONCE = 32


def extra_inputs(step: Qat, context: Context) -> dict[str, str]:
    """What decides the result in addition to the given model: the teacher."""
    teacher = _named_or_reference(step, context)
    return {} if teacher is None else {"teacher": teacher.fingerprint}


def _named_or_reference(step: Qat, context: Context) -> Model | None:
    return load(step.teacher) if step.teacher else context.reference


def apply(step: Qat, model: Model, context: Context, out: Path) -> Record:
    """Train the simulation of the file, and write the file with other numbers."""
    step.check(model)
    check_validation(context.task)
    preprocessing = preprocessing_of(model)
    teacher = _teacher(step, model, context)
    check_preprocessing(teacher.model, preprocessing, step.name())
    data = _data(context, preprocessing)
    file = onnx.load(str(model.weights))
    simulation = Simulation(own_scales(file), signature_of(file).scores(_classes(model), model.record.output).name)
    trained = _train(step, simulation, data, teacher, context)
    if trained.kept:
        proto = written(simulation)
        write_metadata(proto, model.labels, model.record.preprocessing)
        onnx.save(proto, str(out / ONNX_NAME))
    else:  # nothing was nearer to the original than the file as it is
        shutil.copyfile(model.weights, out / ONNX_NAME)
    history = _history(step, model, data, teacher, trained)
    _say(history, context)
    seen = [example.key for example in (*data.examples, *context.task.examples("validation"))]
    return model.record.with_seen((*seen, *teacher.model.record.seen)).with_report("qat", history)


def _classes(model: Model) -> int | None:
    return len(model.labels or ()) or None


def _teacher(step: Qat, model: Model, context: Context) -> Teacher:
    """The original, with all of the outputs that the file has, in its order. Raises InvalidOption, LabelsDisagree."""
    named = _named_or_reference(step, context)
    if named is None:
        raise InvalidOption("qat learns from the original model, and there is no reference: name it, qat(teacher=...)")
    if "quantize" in named.record.history:
        raise InvalidOption(
            f"qat learns from the original, and {named.path} is quantized too: start the run from the float model, or"
            " name that, qat(teacher=...)"
        )
    names = model.labels or named.labels or tuple(context.task.labels)
    try:
        return Teacher.open(named, names, features=False)
    except LabelsDisagree as error:
        raise LabelsDisagree(f"qat: the original has other classes than the file: {error}") from error


def _data(context: Context, preprocessing: dict[str, Any]) -> DistillationData:
    """Train and unlabelled photos. Raises BadData where there are none."""
    labelled, unlabelled = context.task.examples("train"), context.task.examples("unlabelled")
    if not labelled and not unlabelled:
        raise BadData("qat: there are no photos to learn from: add some, labels are not needed (a folder `unlabelled`)")
    return DistillationData(context.task, preprocessing, (*labelled, *unlabelled), len(labelled))


def _train(step: Qat, simulation: Simulation, data: DistillationData, teacher: Teacher, context: Context) -> Trained:
    return train(
        simulation,
        objective(data, teacher, context),
        Settings(step.epochs, step.learning_rate, step.batch_size, weight_decay=0.0, patience=step.patience),
        context.execution("qat"),
        groups=[(simulation.others(), 1.0), (simulation.scales(), SCALES_FACTOR)],
        mode=frozen_norms,
    )


def objective(data: DistillationData, teacher: Teacher, context: Context) -> Objective:
    """KL divergence from the teacher, at temperature 1; a fresh view of each photo in each epoch."""
    views = FreshViews(data, teacher, context.seed, context.threads)
    validation = context.task.examples("validation")
    wanted: list[Tensor] = []  # asked for once, and not before the training begins

    def batch(rows: Rows, epoch: int) -> Batch:
        return views.batch(rows, epoch, taught=True)

    def loss(network: Any, given: Batch) -> Tensor:
        inputs = {name: tensor for name, tensor in given.items() if name != TEACHER_LOGITS}
        return divergence(network(**inputs).logits, given[TEACHER_LOGITS]).mean()

    def validate(network: Any) -> Scores:
        if not wanted:
            wanted.extend(_answers(teacher, context, validation))
        answers = torch.from_numpy(objectives.answers(network, context.task, data.preprocessing, validation))
        expected = torch.cat(wanted)
        same = (answers.argmax(1) == expected.argmax(1)).double().mean()
        return {"loss": float(divergence(answers, expected).mean()), "same_top1": float(same)}

    return Objective(len(data.examples), batch, loss, validate)


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL of the answers from the teacher's, in nats, (examples,): both logits (examples, classes)."""
    return soft_label_loss(logits, teacher, 1.0)


def _answers(teacher: Teacher, context: Context, examples: Sequence[Example]) -> list[Tensor]:
    """The teacher's logits of the plain photos."""
    session = OnnxSession(teacher.graph, context.threads)
    found = []
    for start in range(0, len(examples), AT_ONCE):
        inputs = context.task.collate(examples[start : start + AT_ONCE], teacher.preprocessing)
        answered = session.answer(dict(inputs))
        rows = teacher.logits(np.asarray(answered).reshape(len(answered), -1), context.task.labels)
        found.append(torch.from_numpy(rows))
    session.close()
    return found


def _history(step: Qat, model: Model, data: DistillationData, teacher: Teacher, trained: Trained) -> dict[str, Any]:
    report = trained.as_dict()
    before = (trained.before or {}).get("loss")
    after = before if not trained.kept else trained.epochs[trained.kept - 1]["validation_loss"]
    return {
        "bits": model.record.history["quantize"]["bits"],
        "teacher": teacher.model.record.recipe or teacher.model.record.source or str(teacher.model.path),
        "photos": len(data.examples),
        "unlabelled": len(data.examples) - data.labelled,
        "batch_size": step.batch_size,
        "kl_before": before,
        "kl": after,
        **report,
    }


def _say(history: dict[str, Any], context: Context) -> None:
    context.progress.detail(
        f"qat       the answers to validation photos diverge by {history['kl']:.3g} nats from the original's, before"
        f" {history['kl_before']:.3g}; epoch {history['kept']} kept"
    )
