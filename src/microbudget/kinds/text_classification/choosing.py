"""What a text encoder is worth before it is trained: its frozen pooled features, with all of its tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...methods import Context, Method
from ...model import Model
from ...runtimes.text.encoding import INPUTS, MAX_LENGTH
from ...search.frozen import Frozen
from ...task import Task
from ...training.features import FeatureStore
from ...training.head import Head
from ...training.head_data import Features
from .backbone import Backbone
from .finetune import write_onnx
from .teaching import copy_tokenizer, in_tokens, reading

EXAMPLES = "texts"


def smaller(given: Model, task: Task) -> tuple[Method, ...]:
    """None: what a text takes follows from its length, and not from the window of the network."""
    return ()


def size_of(model: Model) -> str:
    """How much of a text it reads at most."""
    return f"{reading(model)[MAX_LENGTH]} tokens"


def frozen(model: Model, context: Context) -> Frozen:
    """The encoder, or a classifier without its last layer. Raises UnsupportedModel where that is not a linear one."""
    backbone = Backbone.of(model)
    names = {"inputs": list(reading(model)[INPUTS])}
    store = FeatureStore(backbone.graph, names, context.cache / "features", context.threads)
    own, labels = backbone.head, context.task.labels

    def with_head(head: Head, out: Path) -> Model:
        return _written(backbone, list(head.layers), labels, model, out)

    def as_it_is(out: Path) -> Model:
        assert own is not None
        return _written(backbone, [own], model.labels or labels, model, out)

    def own_logits(features: Features) -> Any:
        assert own is not None
        weight, bias = own
        return features @ weight.T + bias

    return Frozen(store, in_tokens(model, context).task, own_logits, with_head, as_it_is)


def _written(backbone: Backbone, layers: list[Any], labels: tuple[str, ...], model: Model, out: Path) -> Model:
    write_onnx(backbone, layers, labels, model, out)
    copy_tokenizer(model, out)
    record = replace(model.record, labels=labels, output=None, preprocessing=reading(model), fingerprint=None)
    return Model(out, "onnx", record)
