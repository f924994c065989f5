"""finetune of a text classifier: a head on the pooled features of the encoder, then on request the encoder with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...errors import InvalidRecipe
from ...methods import Context
from ...methods.finetune import Finetune
from ...model import ONNX_NAME, Model, Record
from ...runtimes.hf.text_classifier import save_network
from ...runtimes.onnx.session import write_metadata
from ...runtimes.onnx.surgery import with_head
from ...training import classifiers, objectives
from ...training.head_data import HeadData, check_classes, check_validation, labels_of, one_thread
from ...training.head_report import answers_report, fit_and_report
from ...training.modes import zeros_stay
from ...training.settings import Settings
from ...training.train import train
from .backbone import Backbone, Features
from .teaching import TokenTask, copy_tokenizer, in_tokens, reading

OPTIONS = (
    "head", "epochs", "patience", "learning_rate", "weight_decay", "unfreeze", "deep_epochs", "deep_patience",
    "deep_rate",
)  # fmt: skip
ADVICE = "a text has one view"
ENCODER_FACTOR = 0.1  # on `deep_rate`: the encoder learns at 1e-4


def apply(step: Finetune, model: Model, context: Context, out: Path) -> Record:
    """Train the head on the train split, stop early on validation, write the model and what it learned."""
    if step.unfreeze and model.format != "hf":
        raise InvalidRecipe(
            f"finetune(unfreeze={step.unfreeze!r}) of a text classifier trains through the network of an hf folder, but"
            f" gets {model.format}: put it before export, or leave unfreeze out"
        )
    check_classes(context.task)
    check_validation(context.task)
    context = in_tokens(model, context)
    features = Features.of(model, context)
    with one_thread():
        data = HeadData.of(features.store, context.task, 1, context.seed, context.progress)
        head, history = fit_and_report(data, step.head_settings(), context.task.labels, context.seed, context.progress)
    if step.output_format(model.format) == "hf":
        network = features.with_head(head, context.task.labels)
        if step.unfreeze:
            history = _train_network(step, network, history, context, model.record.state)
        save_network(network, out)
    else:
        write_onnx(features, list(head.layers), context.task.labels, model, out)
    copy_tokenizer(model, out)
    used = (*context.task.examples("train"), *context.task.examples("validation"))
    record = model.record.with_seen(example.key for example in used).with_report("finetune", history)
    return replace(record, task=context.task.kind, output=None, labels=context.task.labels)


def write_onnx(
    features: Features | Backbone, layers: list[Any], labels: tuple[str, ...], model: Model, out: Path
) -> None:
    """`model.onnx` in the folder: the graph that computes features with a head. layers: weights and biases of it."""
    proto = with_head(features.proto, features.output, layers)
    write_metadata(proto, labels, reading(model))
    onnx.save(proto, str(out / ONNX_NAME))


def _train_network(
    step: Finetune, network: Any, history: dict[str, Any], context: Context, state: dict[str, Any]
) -> dict[str, Any]:
    """Train through the network, beginning with the finished head. The report of both trainings.

    state: of the model's record; weights that were pruned to zero stay zero.
    """
    task = context.task
    assert isinstance(task, TokenTask)
    rate = step.deep_rate * classifiers.head_factor(network)
    settings = Settings(
        step.deep_epochs, rate, batch_size=32, weight_decay=step.weight_decay, patience=step.deep_patience, warmup=0.1
    )
    lengths = np.array(list(map(len, task.tokens(task.examples("train")))))
    trained = train(
        network,
        replace(objectives.labelled(task, {}), sizes=lengths),
        settings,
        context.execution("finetune"),
        groups=classifiers.groups(network, step.unfreeze == "last", ENCODER_FACTOR * step.deep_rate / rate),
        after_step=zeros_stay(classifiers.pruned_weights(network, state)),
    )
    validation = task.examples("validation")
    logits = objectives.answers(network, task, {}, validation)
    report = answers_report(logits, labels_of(validation), len(task.labels))
    context.progress.detail(f"finetune  unfrozen, epoch {trained.kept} kept: accuracy {report['accuracy']:.3f}")
    return {**history, **trained.as_dict(), "head_epochs": history["epochs"], "validation": report}
