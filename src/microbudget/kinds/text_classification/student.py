"""Students of text classification that are networks: cut from the model, the model itself, or named."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import InvalidOption, UnsupportedModel, what_it_said
from ...methods.distill import Distill, named
from ...methods.distill.cutting import check_cut, check_ordinary, inherit, pruned_state, smaller_config
from ...model import Model, Record
from ...runtimes.hf.heads import name_classes, set_classes
from ...runtimes.hf.text_classifier import PooledClassifier, Pooling, load_network
from ...runtimes.labels import known_outputs
from ...runtimes.text.encoding import MAX_LENGTH, TOKENIZER, TextEncoder
from .network import CLASSIFIER, KIND, reading_of
from .teaching import reading

FUSED = ("Wqkv", "Wi")  # ModernBERT: matrices of which the leading rows are no part of each of the fused ones


@dataclass(frozen=True)
class Student:
    """A network that answers the data's labels in their order, and the model whose tokenizer and reading it has."""

    network: Any
    model: Model
    trained: bool  # whether all of its encoder's weights have learnt to work together
    state: dict[str, Any] = field(default_factory=dict)
    seen: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Kind and size, for the history."""
        body = body_of(self.network)
        return {
            "student": type(body).__name__,
            "parameters": sum(tensor.numel() for tensor in self.network.parameters()),
            "layers": getattr(body.config, "num_hidden_layers", None),
        }


def student_of(step: Distill, model: Model, labels: tuple[str, ...], seed: int) -> Student:
    """The student that a step names, or that it cuts from its model. Raises InvalidOption, UnsupportedModel."""
    if step.student is None:
        return _cut(step, model, labels, seed)
    if step.depth != 1.0 or step.width != 1.0:
        raise InvalidOption("distill: a named student is taken as it is; depth and width cut the given model")
    folder = named.config_alone(step.student)
    if folder is not None:
        return _initialized(folder, model, labels, seed)
    own = named.open_named(step.student)
    if own.task != KIND:
        raise UnsupportedModel(f"the student {step.student} is for {own.task}, and these data are for {KIND}")
    network = _with_labels(load_network(own.path), own, labels, seed)
    return Student(network, own.with_record(preprocessing=reading(own)), True, own.record.state, own.record.seen)


def forget_classes(network: Any, labels: tuple[str, ...], seed: int) -> None:
    """Give the network a new head, initialized by the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        set_classes(network, labels, None)


def fingerprint(name: str) -> str:
    """Of a named student: what its files hold."""
    tokenizer = Path(named.folder_of(name)) / TOKENIZER
    held = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else None
    return named.fingerprint(name, {TOKENIZER: held})


def body_of(network: Any) -> Any:
    """The network of transformers, whose configuration can be cut: the encoder below a head of our own."""
    return network.encoder if isinstance(network, PooledClassifier) else network


def _cut(step: Distill, model: Model, labels: tuple[str, ...], seed: int) -> Student:
    whole = _with_labels(load_network(model.path), model, labels, seed)
    own = model.with_record(preprocessing=reading(model))
    if step.depth == step.width == 1.0:
        return Student(whole, own, True, model.record.state)
    check_ordinary(model.record.state)
    body = body_of(whole)
    if step.width < 1.0 and any(name.endswith(FUSED) for name, _ in body.named_modules()):
        raise UnsupportedModel(
            f"distill: the matrices of {body.config.model_type} are fused, and no part of them begins a narrower one:"
            " use depth, name a student, or prune() before distill()"
        )
    check_cut(body, step.depth, step.width)
    config = smaller_config(body.config, step.depth, step.width)
    smaller = _network(config, getattr(whole, "pooling", None), labels, seed)
    state = pruned_state(inherit(smaller, whole), model.record.state)
    return Student(smaller, own, step.width == 1.0, state)


def _initialized(folder: Path, given: Model, labels: tuple[str, ...], seed: int) -> Student:
    """Of a config.json without weights. It reads by the tokenizer next to it, else by the given model's."""
    config = named.read_config(folder)
    if not all(isinstance(getattr(config, name, None), int) for name in ("vocab_size", "hidden_size")):
        raise UnsupportedModel(
            f"distill: the student {folder / 'config.json'} is of a {config.model_type}, which is no encoder of texts"
        )
    described = config.to_dict()
    own = reading_of(folder, described)
    if own is None:
        own = reading_of(given.folder, described) or {}
        own[MAX_LENGTH] = min(own[MAX_LENGTH], int(reading(given)[MAX_LENGTH]))
        folder = given.folder
    model = Model(folder, "hf", Record(KIND, preprocessing=own))
    tokens = TextEncoder.of(model).ids
    if tokens > config.vocab_size:
        raise InvalidOption(
            f"distill: the student's config.json has a vocab_size of {config.vocab_size:,}, and its tokenizer"
            f" {model.folder / TOKENIZER} has {tokens:,} tokens: write that number, or put the student's own"
            f" {TOKENIZER} next to it"
        )
    whole = any(str(name).endswith(CLASSIFIER) for name in config.architectures or ())
    return Student(_network(config, None if whole else Pooling(), labels, seed), model, False)


def _network(config: Any, pooling: Pooling | None, labels: tuple[str, ...], seed: int) -> Any:
    """A randomly initialized network, the same for the same seed. pooling: of an encoder with a head of our own."""
    config = copy.deepcopy(config)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    auto = transformers.AutoModelForSequenceClassification if pooling is None else transformers.AutoModel
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            network = auto.from_config(config, dtype=torch.float32)
        except (ValueError, KeyError, RuntimeError) as error:
            raise UnsupportedModel(
                f"transformers makes no text classifier of the student's config.json ({config.model_type}):"
                f" {what_it_said(error)}"
            ) from error
        if pooling is not None:
            network.pooler = None
            network = PooledClassifier(network, pooling, torch.nn.Linear(config.hidden_size, len(labels)))
            name_classes(network, labels)
    return network.eval()


def _with_labels(network: Any, model: Model, labels: tuple[str, ...], seed: int) -> Any:
    """The network for the data's labels: the rows of its head for those that it knows, else a new head."""
    headless = isinstance(network, PooledClassifier) and not isinstance(network.head, torch.nn.Linear)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if headless:
            network.head = torch.nn.Linear(network.config.hidden_size, len(labels))
            name_classes(network, labels)
        else:
            set_classes(network, labels, known_outputs(model, labels, network.config.num_labels))
    return network
