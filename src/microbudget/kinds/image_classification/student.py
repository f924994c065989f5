"""Students of image classification: named, cut from a model, or the model itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import UnsupportedModel
from ...methods.distill import named as named_students
from ...methods.distill.cutting import check_cut, check_ordinary, inherit, pruned_state, smaller_config
from ...methods.distill.named import config_alone, folder_of, open_named, read_config
from ...model import Model, Record
from ...runtimes.hf.heads import set_classes
from ...runtimes.hf.image_classifier import load_network
from ...runtimes.labels import known_outputs
from ...runtimes.loading import read_preprocessing
from .network import image_preprocessing


def named(name: str, labels: tuple[str, ...], seed: int) -> tuple[Any, Record]:
    """The network of a folder, hub id or config.json; its record: preprocessing where it has one, state and seen."""
    folder = config_alone(name)
    if folder is not None:
        config = read_config(folder)
        preprocessing = image_preprocessing(folder, config.model_type)
        return initialized(config, labels, seed), Record(preprocessing=preprocessing)
    model = open_named(name)
    network = load_network(model.path)
    return with_labels(network, model, labels, seed), model.record


def fingerprint(name: str) -> str:
    """Of a named student: what its files hold."""
    return named_students.fingerprint(name, read_preprocessing(Path(folder_of(name))))


def initialized(config: Any, labels: tuple[str, ...], seed: int) -> Any:
    """A randomly initialized network of a configuration, the same for the same seed."""
    config = copy.deepcopy(config)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    _check_architecture(config)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            network = transformers.AutoModelForImageClassification.from_config(config, dtype=torch.float32)
        except (ValueError, KeyError) as error:
            raise UnsupportedModel(f"{config.model_type} is no image classifier of transformers: {error}") from error
    return network.eval()


def _check_architecture(config: Any) -> None:
    """Of kinds with several image classifiers, such as DeiT and LeViT, the configuration must name one."""
    known = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
    if isinstance(known, tuple) and not config.architectures:
        names = [kind.__name__ for kind in known]
        raise UnsupportedModel(
            f"transformers has several image classifiers of the kind {config.model_type}: add"
            f' "architectures": ["{names[0]}"] to the student\'s config.json (there are {", ".join(names)})'
        )


def with_labels(network: Any, model: Model, labels: tuple[str, ...], seed: int) -> Any:
    """The network for the data's labels: the rows of its head for those that it knows, else a new head."""
    rows = known_outputs(model, labels, network.config.num_labels)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        set_classes(network, labels, rows)
    return network


def forget_classes(network: Any, labels: tuple[str, ...], seed: int) -> None:
    """Give the network a new head, initialized by the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        set_classes(network, labels, None)


def cut(model: Model, depth: float, width: float, labels: tuple[str, ...], seed: int) -> tuple[Any, dict[str, Any]]:
    """A smaller network of the model's kind that begins with a part of its weights; its record's state.

    Weights that were pruned to zero are among them and stay zero: the state names their tensors.
    """
    whole = with_labels(load_network(model.path), model, labels, seed)
    if depth == width == 1.0:
        return whole, model.record.state
    check_ordinary(model.record.state)
    check_cut(whole, depth, width)
    smaller = initialized(smaller_config(whole.config, depth, width), labels, seed)
    return smaller, pruned_state(inherit(smaller, whole), model.record.state)


def describe(network: Any) -> dict[str, Any]:
    """Kind and size, for the history."""
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return {"student": type(network).__name__, "parameters": parameters}
