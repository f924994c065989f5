"""lora of an image classifier: the head first, on features, then the adapters and the head together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...methods import Context
from ...methods.lora import Lora
from ...methods.lora.training import Learner, adapted_record, has_validation, train_adapters
from ...model import Model, Record
from ...runtimes.hf.heads import head_of, put_head, set_classes
from ...runtimes.hf.image_classifier import load_network
from ...runtimes.labels import known_outputs
from ...training import classifiers, objectives
from ...training.features import FeatureStore
from ...training.head import HeadSettings
from ...training.head_data import HeadData, check_classes, one_thread
from ...training.modes import frozen_norms
from .backbone import open_backbone
from .teaching import preprocessing_of

RATE = 5e-4


def apply(step: Lora, model: Model, context: Context, out: Path) -> Record:
    """The head first: a randomly initialized one would teach the adapters nonsense. Then the adapters with it."""
    preprocessing = preprocessing_of(model)
    check_classes(context.task)
    has_validation(context)
    network = _with_head(model, preprocessing, context)
    learner = Learner(
        classifiers.for_training(network),
        head=head_of(network)[0],
        head_factor=classifiers.head_factor(network),
        alpha=float(step.rank),
        rate=RATE,
        mode=frozen_norms,
    )
    objective = objectives.labelled(context.task, preprocessing)
    report = train_adapters(step, learner, objective, model, context, out)
    return replace(adapted_record(model, context, report), labels=tuple(context.task.labels) or model.record.labels)


def _with_head(model: Model, preprocessing: dict[str, Any], context: Context) -> Any:
    """The network with a head for the data's labels: its own rows where it knows all, else one fitted on features."""
    labels = tuple(context.task.labels)
    network = load_network(model.path)
    rows = known_outputs(model, labels, network.config.num_labels)
    if rows is not None:
        set_classes(network, labels, rows)
        return network
    backbone = open_backbone(model)
    store = FeatureStore(backbone.graph, preprocessing, context.cache / "features", context.threads)
    with one_thread():
        head = HeadData.of(store, context.task, 1, context.seed, context.progress).fit(
            len(labels), HeadSettings(), context.seed
        )
    put_head(backbone.network, backbone.weight, head.layers[0], labels)
    return backbone.network
