"""lora of a text classifier: the head first, on features, then adapters on the encoder's matrices together with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InvalidOption
from ...methods import Context
from ...methods.lora import Lora
from ...methods.lora.training import Learner, adapted_record, has_validation, train_adapters
from ...model import Model, Record
from ...runtimes.hf.heads import head_of, set_classes
from ...runtimes.hf.text_classifier import PooledClassifier, load_network, save_network
from ...runtimes.labels import known_outputs
from ...runtimes.text.prompt import is_prompted
from ...training import classifiers, objectives
from ...training.head import HeadSettings
from ...training.head_data import HeadData, check_classes, one_thread
from . import prompted_lora
from .backbone import Features
from .network import has_head
from .teaching import TokenTask, copy_tokenizer, in_tokens

OPTIONS = (
    "rank", "alpha", "targets", "epochs", "patience", "learning_rate", "batch_size", "checkpointing", "merge",
    "length",
)  # fmt: skip
ADVICE = "a text is as long as it is: window(tokens=...) makes it shorter"
RATE = 1e-3


def apply(step: Lora, model: Model, context: Context, out: Path) -> Record:
    """The head first: a randomly initialized one would teach the adapters nonsense. Then the adapters with it.

    A language model with a prompt has no head: see `prompted_lora.py`.
    """
    check_classes(context.task)
    has_validation(context)
    if is_prompted(model):
        return prompted_lora.apply(step, model, context, out)
    if step.length != Lora.length:
        raise InvalidOption(f"lora: length is for a language model; {ADVICE}")
    context = in_tokens(model, context)
    task = context.task
    assert isinstance(task, TokenTask)
    network = _with_head(model, context)
    if not step.merge and isinstance(network, PooledClassifier):
        raise InvalidOption(
            "lora: merge=False is for a classifier of transformers (...ForSequenceClassification): the head of a"
            " sentence encoder is a layer of its own, which no adapter's folder holds. Use merge=True"
        )
    learner = Learner(
        network,
        head=head_of(network)[0],
        head_factor=classifiers.head_factor(network),
        alpha=2.0 * step.rank,
        rate=RATE,
        mode=torch.nn.Module.train,
        save=save_network,
    )
    lengths = np.array(list(map(len, task.tokens(task.examples("train")))))
    objective = replace(objectives.labelled(task, {}), sizes=lengths)
    report = train_adapters(step, learner, objective, model, context, out)
    copy_tokenizer(model, out)
    return replace(adapted_record(model, context, report), labels=tuple(task.labels), output=None)


def _with_head(model: Model, context: Context) -> Any:
    """The network with a head for the data's labels: its own rows where it knows all, else one fitted on features."""
    labels = tuple(context.task.labels)
    if has_head(model):
        network = load_network(model.path)
        rows = known_outputs(model, labels, network.config.num_labels)
        if rows is not None:
            set_classes(network, labels, rows)
            return network
    features = Features.of(model, context)
    with one_thread():
        data = HeadData.of(features.store, context.task, 1, context.seed, context.progress)
        head = data.fit(len(labels), HeadSettings(), context.seed)
    return features.with_head(head, labels)
