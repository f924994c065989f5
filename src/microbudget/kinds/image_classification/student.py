"""Students of image classification: named, cut from a model, or the model itself."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import InvalidOption, ModelNotFound, UnsupportedModel, what_it_said
from ...model import Model, Record
from ...runtimes.hf.heads import set_classes
from ...runtimes.hf.image_classifier import load_network
from ...runtimes.hf.widths import special
from ...runtimes.labels import known_outputs
from ...runtimes.loading import load, read_preprocessing, refuse_pickles
from ...training.classifiers import block_lists
from .network import image_preprocessing

CHANNELS = 8  # widths are multiples of it, as kernels like them
WEIGHTS = (".safetensors", ".onnx", ".gguf")  # next to a config.json: the student is not randomly initialized


def named(name: str, labels: tuple[str, ...], seed: int) -> tuple[Any, Record]:
    """The network of a folder, hub id or config.json; its record: preprocessing where it has one, state and seen."""
    folder = config_alone(name)
    if folder is not None:
        config = _read_config(folder)
        preprocessing = image_preprocessing(folder, config.model_type)
        return initialized(config, labels, seed), Record(preprocessing=preprocessing)
    model = load(_folder(name))
    if model.format != "hf":
        raise UnsupportedModel(f"a student must be a Hugging Face folder, and {name} is {model.format}")
    network = load_network(model.path)
    return with_labels(network, model, labels, seed), model.record


def fingerprint(name: str) -> str:
    """Of a named student: what its files hold."""
    folder = config_alone(name)
    if folder is None:
        return load(_folder(name)).fingerprint
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update(json.dumps(read_preprocessing(folder), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _folder(name: str) -> str:
    """What is named: for a config.json the folder that it lies in."""
    path = Path(name)
    return str(path.parent) if path.name == "config.json" else name


def config_alone(name: str) -> Path | None:
    """The folder of a config.json without weights next to it: the student is randomly initialized. None: anything else.

    Raises ModelNotFound, and UnsafeModel where the weights next to it may be a pickle.
    """
    folder = Path(_folder(name))
    if not (folder / "config.json").is_file():
        if Path(name).suffix == ".json":
            raise ModelNotFound(f"the student {name} does not exist: give a folder with a config.json")
        return None
    if any(file.suffix.lower() in WEIGHTS for file in folder.iterdir()):
        return None
    refuse_pickles(folder)
    return folder


def _read_config(folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedModel(f"transformers cannot read the student's {folder / 'config.json'}: {reason}") from error


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
    if special(model.record.state):
        raise InvalidOption(
            "distill: the model was pruned to widths or blocks that its configuration does not express, and width and"
            " depth cut by the configuration: leave them out to train it as it is, or put distill before prune"
        )
    check_cut(whole, depth, width)
    smaller = initialized(smaller_config(whole.config, depth, width), labels, seed)
    sources, pruned = inherit(smaller, whole), set(model.record.state.get("zeros", ()))
    zeros = [name for name, source in sources.items() if source in pruned]
    return smaller, {"zeros": zeros} if zeros else {}


def check_cut(whole: Any, depth: float, width: float) -> None:
    """Each of the two must reduce the parameters: some configurations have a setting that their network ignores.

    Raises InvalidOption where the fraction leaves all, UnsupportedModel where the configuration cannot express less.
    """
    config = whole.config
    for name, parts, share in (("depth", "blocks", depth), ("width", "channels", width)):
        if share == 1.0:
            continue
        smaller = smaller_config(config, depth if name == "depth" else 1.0, width if name == "width" else 1.0)
        if smaller.to_dict() == config.to_dict():
            raise InvalidOption(
                f"distill: {name}={share:g} leaves all {parts} that the model has: give a smaller fraction, or leave"
                f" {name} out"
            )
        if _parameters(type(whole), smaller) >= _parameters(type(whole), config):
            raise _cannot_express(config.model_type, parts)


def _parameters(kind: Any, config: Any) -> int:
    """How many a network of this configuration has; none are initialized."""
    try:
        with torch.device("meta"):
            return sum(tensor.numel() for tensor in kind(copy.deepcopy(config)).parameters())
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UnsupportedModel(
            f"transformers makes no {config.model_type} of the smaller configuration: {what_it_said(error)}. Name a"
            " student, or prune() before distill()"
        ) from error


def _cannot_express(kind: Any, parts: str) -> UnsupportedModel:
    """parts: "blocks" or "channels"."""
    instead = {
        "blocks": 'use width, or prune(structure="layers") before distill()',
        "channels": "use depth, name a student, or prune() before distill()",
    }
    return UnsupportedModel(f"the configuration of {kind} cannot express fewer {parts}: {instead[parts]}")


def smaller_config(config: Any, depth: float, width: float) -> Any:
    """The configuration with fewer blocks and channels. Raises UnsupportedModel where it cannot express that."""
    values = config.to_dict()
    changed = {**_fewer_blocks(values, depth), **_fewer_channels(values, width)}
    smaller = copy.deepcopy(config)
    for name, value in changed.items():
        setattr(smaller, name, value)
    return smaller


def _fewer_blocks(values: Mapping[str, Any], depth: float) -> dict[str, Any]:
    if depth == 1.0:
        return {}
    if isinstance(values.get("depths"), list):
        return {"depths": [max(1, round(count * depth)) for count in values["depths"]]}
    if isinstance(values.get("num_hidden_layers"), int):
        return {"num_hidden_layers": max(1, round(values["num_hidden_layers"] * depth))}
    raise _cannot_express(values.get("model_type"), "blocks")


def _fewer_channels(values: Mapping[str, Any], width: float) -> dict[str, Any]:
    if width == 1.0:
        return {}
    if "depth_multiplier" in values:
        return {"depth_multiplier": values["depth_multiplier"] * width}
    if "width_coefficient" in values:
        coefficient = values["width_coefficient"] * width
        return {"width_coefficient": coefficient, "hidden_dim": _last_of_efficientnet(values, coefficient)}
    if isinstance(values.get("hidden_sizes"), list):
        changed: dict[str, Any] = {"hidden_sizes": [_channels(count * width) for count in values["hidden_sizes"]]}
        if isinstance(values.get("embedding_size"), int):
            changed["embedding_size"] = _channels(values["embedding_size"] * width)
        return changed
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int):
        kept = max(1, round(heads * width))
        inner = values.get("intermediate_size", 4 * hidden)
        return {
            "num_attention_heads": kept,
            "hidden_size": kept * (hidden // heads),
            "intermediate_size": _channels(inner * kept / heads),
        }
    raise _cannot_express(values.get("model_type"), "channels")


def _last_of_efficientnet(values: Mapping[str, Any], coefficient: float) -> int:
    """Width of its last convolution, which its configuration repeats: 1280 rounded as transformers rounds it."""
    divisor, exact = values["depth_divisor"], 1280 * coefficient
    count = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return int(count + divisor if count < 0.9 * exact else count)


def _channels(count: float) -> int:
    return max(CHANNELS, round(count / CHANNELS) * CHANNELS)


def inherit(smaller: Any, whole: Any) -> dict[str, str]:
    """Give the smaller network the leading part of every tensor of the whole one, of blocks spread over its depth.

    Leading channels fit together over the whole network, since each tensor's neighbours are cut alike. Returns for each
    tensor that was given the name that it has in the whole one.
    Raises UnsupportedModel when the whole one is narrower somewhere.
    """
    sources, places = whole.state_dict(), _places(smaller, whole)
    found: dict[str, str] = {}
    with torch.no_grad():
        for name, tensor in smaller.state_dict().items():
            source_name = _source_name(name, places)
            source = sources.get(source_name)
            if source is None:
                continue  # a layer that only the smaller network has stays as it was initialized
            found[name] = source_name
            if source.ndim != tensor.ndim or any(a > b for a, b in zip(tensor.shape, source.shape, strict=True)):
                raise UnsupportedModel(
                    f"{name} would grow from {tuple(source.shape)} to {tuple(tensor.shape)}: this model is narrower"
                    " than its configuration (was it pruned?): leave depth and width out to train it as it is"
                )
            tensor.copy_(source[tuple(slice(0, size) for size in tensor.shape)])
    return found


def _places(smaller: Any, whole: Any) -> dict[str, list[int]]:
    """For each list of blocks that is shorter now, which block of the whole each is: first and last, others between."""
    found, blocks = {}, block_lists(smaller)
    for name, module in block_lists(whole).items():
        if name in blocks and len(blocks[name]) < len(module):
            last, count = len(module) - 1, len(blocks[name])
            found[name] = [round(index * last / max(count - 1, 1)) for index in range(count)]
    return found


def _source_name(name: str, places: Mapping[str, list[int]]) -> str:
    parts = name.split(".")
    for index in range(1, len(parts)):
        blocks = places.get(".".join(name.split(".")[:index]))
        if blocks is not None:
            parts[index] = str(blocks[int(parts[index])])
    return ".".join(parts)


def describe(network: Any) -> dict[str, Any]:
    """Kind and size, for the history."""
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return {"student": type(network).__name__, "parameters": parameters}
