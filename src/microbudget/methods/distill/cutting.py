"""Cutting: a student with fewer blocks and channels, which begins with a part of the model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ...errors import InvalidOption, UnsupportedModel, what_it_said
from ...runtimes.hf.widths import special
from ...training.classifiers import block_lists

CHANNELS = 8  # widths are multiples of it, as kernels like them
INNER = ("intermediate_size", "hidden_dim")  # how transformers calls a block's inner width; the latter in DistilBERT
SHARED = "num_hidden_groups"  # in ALBERT: sets of weights, each of which several blocks have
AS_WIDE = ("embedding_size", "pooler_hidden_size")  # in ELECTRA and DeBERTa, where they are as wide as the blocks


def check_ordinary(state: Mapping[str, Any]) -> None:
    """Raises InvalidOption for a model that its configuration does not describe. state: of its record."""
    if special(state):
        raise InvalidOption(
            "distill: the model was pruned to widths or blocks that its configuration does not express, and width and"
            " depth cut by the configuration: leave them out to train it as it is, or put distill before prune"
        )


def pruned_state(sources: Mapping[str, str], state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a student that was cut: which of its tensors have zeros that stay. sources: as of `inherit`."""
    pruned = set(state.get("zeros", ()))
    zeros = [name for name, source in sources.items() if source in pruned]
    return {"zeros": zeros} if zeros else {}


def check_cut(whole: Any, depth: float, width: float) -> None:
    """Each of the two must reduce the parameters: some configurations have a setting that their network ignores.

    Fewer blocks of a network whose blocks share their weights, as ALBERT's, save time alone.
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
        shared = name == "depth" and hasattr(config, SHARED)
        if not shared and _parameters(type(whole), smaller) >= _parameters(type(whole), config):
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
    changed = {**_fewer_blocks(config, depth), **_fewer_channels(config, width)}
    smaller = copy.deepcopy(config)
    for name, value in changed.items():
        setattr(smaller, name, value)
    return smaller


def _fewer_blocks(config: Any, depth: float) -> dict[str, Any]:
    if depth == 1.0:
        return {}
    if isinstance(depths := getattr(config, "depths", None), list):
        return {"depths": [max(1, round(count * depth)) for count in depths]}
    if isinstance(layers := getattr(config, "num_hidden_layers", None), int):
        return {"num_hidden_layers": max(1, round(layers * depth)), **_kinds_of_layers(config, layers, depth)}
    raise _cannot_express(config.model_type, "blocks")


def _kinds_of_layers(config: Any, layers: int, depth: float) -> dict[str, Any]:
    """What the configuration lists for each layer, such as local or global attention, of those that stay."""
    kept = spread(layers, max(1, round(layers * depth)))
    return {
        name: [value[place] for place in kept]
        for name, value in vars(config).items()
        if isinstance(value, list) and len(value) == layers > 1 and all(isinstance(each, str) for each in value)
    }


def _fewer_channels(config: Any, width: float) -> dict[str, Any]:
    if width == 1.0:
        return {}
    if hasattr(config, "depth_multiplier"):
        return {"depth_multiplier": config.depth_multiplier * width}
    if hasattr(config, "width_coefficient"):
        coefficient = config.width_coefficient * width
        return {"width_coefficient": coefficient, "hidden_dim": _last_of_efficientnet(config, coefficient)}
    if isinstance(sizes := getattr(config, "hidden_sizes", None), list):
        changed: dict[str, Any] = {"hidden_sizes": [_channels(count * width) for count in sizes]}
        if isinstance(getattr(config, "embedding_size", None), int):
            changed["embedding_size"] = _channels(config.embedding_size * width)
        return changed
    return _fewer_heads(config, width)


def _fewer_heads(config: Any, width: float) -> dict[str, Any]:
    """Of a transformer: whole heads, and everything that is as wide as they are together."""
    heads, hidden = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    if not isinstance(heads, int) or not isinstance(hidden, int):
        raise _cannot_express(config.model_type, "channels")
    kept = max(1, round(heads * width))
    narrow = kept * (hidden // heads)
    inner = next((name for name in INNER if isinstance(getattr(config, name, None), int)), INNER[0])
    alike = [name for name in AS_WIDE if getattr(config, name, None) == hidden]
    return {
        "num_attention_heads": kept,
        "hidden_size": narrow,
        inner: _channels((getattr(config, inner, None) or 4 * hidden) * kept / heads),
        **dict.fromkeys(alike, narrow),
    }


def _last_of_efficientnet(config: Any, coefficient: float) -> int:
    """Width of its last convolution, which its configuration repeats: 1280 rounded as transformers rounds it."""
    divisor, exact = config.depth_divisor, 1280 * coefficient
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
            found[name] = spread(len(module), len(blocks[name]))
    return found


def spread(blocks: int, kept: int) -> list[int]:
    """The places of so many blocks, evenly spaced: the first and the last, others between."""
    return [round(place * (blocks - 1) / max(kept - 1, 1)) for place in range(kept)]


def _source_name(name: str, places: Mapping[str, list[int]]) -> str:
    parts = name.split(".")
    for index in range(1, len(parts)):
        blocks = places.get(".".join(name.split(".")[:index]))
        if blocks is not None:
            parts[index] = str(blocks[int(parts[index])])
    return ".".join(parts)
