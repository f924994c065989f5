"""Adapting: which layers get a low-rank adapter, and the network with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from ...errors import InvalidOption
from ...training.objective import Group

WHOLE = ".modules_to_save."  # in PEFT's names of what is trained whole


def layers(network: Any, head: str | None) -> tuple[str, ...]:
    """The names of the layers that an adapter can be added to and later merged into; without the head.

    Linear layers, GPT-2's matrices, and convolutions in one group. Where there are linear layers in the body (a
    transformer), convolutions are left alone.
    """
    found = _candidates(network, head)
    linear = [name for name, module in found if not isinstance(module, torch.nn.Conv2d)]
    return tuple(linear or [name for name, _ in found])


def _candidates(network: Any, head: str | None) -> list[tuple[str, Any]]:
    """Without the output embedding: often it is the input embedding too, which a merge would change."""
    output = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    named = [(name, module) for name, module in network.named_modules() if name != head and module is not output]
    return [(name, module) for name, module in named if _fits(module)]


def _fits(module: Any) -> bool:
    if isinstance(module, torch.nn.Conv2d):
        return module.groups == 1
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def chosen(network: Any, targets: str | None, head: str | None) -> tuple[str, ...]:
    """The layers that `targets` names, by their whole name or its last parts; all that there are by default.

    Raises InvalidOption with the names there are.
    """
    if targets is None:
        return layers(network, head)
    every = [name for name, _ in _candidates(network, head)]
    found: list[str] = []
    for target in (part.strip() for part in targets.split(",")):
        matched = [name for name in every if name == target or name.endswith(f".{target}")]
        if not matched:
            raise InvalidOption(f"lora: targets={target!r} matches no layer; there are {', '.join(last_parts(every))}")
        found += matched
    return tuple(dict.fromkeys(found))


def last_parts(names: Sequence[str]) -> list[str]:
    """The last part of each name, once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def adapted(network: Any, names: Sequence[str], rank: int, alpha: float, head: str | None, seed: int) -> Any:
    """The network with adapters on the named layers, initialized by the seed; they and the head are trained."""
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(names),
        modules_to_save=[head] if head else None,
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def keep_zeros(learner: Any, zeros: Sequence[str]) -> None:
    """Let the adapters leave the zeros of these weights alone: what is trained and judged is what will be merged.

    zeros: names of weights as the network has them without adapters. Such a layer computes with `W + (W != 0) s B A`,
    so its forward pass holds a second matrix.
    """
    for name, layer in learner.base_model.model.named_modules():
        if f"{name}.weight" in zeros and hasattr(layer, "get_delta_weight"):
            layer.forward = partial(_without_filling, layer, layer.base_layer.weight != 0)


def _without_filling(layer: Any, kept: torch.Tensor, x: torch.Tensor) -> Any:
    (adapter,) = layer.active_adapters
    weight = layer.base_layer.weight + kept.to(x.device) * layer.get_delta_weight(adapter)
    return torch.func.functional_call(layer.base_layer, {"weight": weight}, (x,))


def groups(learner: Any, head_factor: float) -> list[Group]:
    """What `train` takes: the adapters at the learning rate, a whole head at `head_factor` times it."""
    trained = [(name, tensor) for name, tensor in learner.named_parameters() if tensor.requires_grad]
    head = [tensor for name, tensor in trained if WHOLE in name]
    return [([tensor for name, tensor in trained if WHOLE not in name], 1.0), (head, head_factor)]


def parameter_counts(network: Any) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    sizes = [(tensor.numel(), tensor.requires_grad) for tensor in network.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def enable_checkpointing(network: Any) -> None:
    """Let each block be computed again in the backward pass; transformers has two names for it."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})
