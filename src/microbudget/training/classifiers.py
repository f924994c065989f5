"""Classifiers in training, of Hugging Face or made of a graph: what is trained of them, the last block, batch norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import BatchNorm2d, ModuleList, Parameter, Sequential

from ..errors import UnsupportedModel
from ..runtimes.hf.heads import head_of
from ..runtimes.onnx.module import blocks
from ..runtimes.onnx.module.network import OnnxNetwork
from .objective import Group

USUAL_MOMENTUM = 0.1
STAGE_LISTS = ("layers", "blocks")  # how transformers calls the blocks inside a stage


def head_factor(network: Any) -> float:
    """The factor on a learning rate for narrow features that suits the head in training through the network.

    It reads raw features: a step of AdamW moves every weight by the rate, and so a logit by the rate times their sum.
    At 0.001 and 1,280 features the first steps undid what the head had learnt. See `HeadSettings.rate`.
    """
    return max(0.1, min(1.0, 128 / head_of(network)[1].in_features))


def pruned_weights(network: Any, state: Mapping[str, Any]) -> list[Parameter]:
    """The tensors whose zeros must stay zero (`prune(structure="weights")`), from a record's state."""
    return [network.get_parameter(name) for name in state.get("zeros", ())]


def for_training(network: Any) -> Any:
    """The network with channels last, as `objectives.inputs` gives pixels, and the batch norm that its authors meant.

    The module of a graph stays with channels first.

    transformers gives MobileNet's batch norm TensorFlow's momentum, 0.997, which torch takes for its opposite: the
    running statistics would be those of the last batch.
    """
    for module in network.modules():
        if isinstance(module, BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = USUAL_MOMENTUM
    return network if isinstance(network, OnnxNetwork) else network.to(memory_format=torch.channels_last)


def groups(network: Any, only_last_block: bool, factor: float) -> list[Group]:
    """What `train` takes: the head at the learning rate, the rest (or the last block of it) at `factor` times as much.

    Whatever is in neither is frozen.
    """
    head = list(head_of(network)[1].parameters())
    chosen = last_block(network) if only_last_block else list(network.parameters())
    inside = {id(parameter) for parameter in head}
    body = [parameter for parameter in chosen if id(parameter) not in inside]
    trained = inside | {id(parameter) for parameter in body}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return [(head, 1.0), (body, factor)]


def block_lists(network: Any) -> dict[str, Any]:
    """The lists of blocks, by name: those that transformers calls so, and sequences of modules of one kind."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (ModuleList, Sequential)) and len({type(block) for block in module}) == 1
    }


def last_block(network: Any) -> list[Parameter]:
    """The parameters from the last block on, the head included, in the order in which the network is written.

    The last block is the last item of the list of blocks that holds most parameters; of stages, the last one's last.
    That of a graph is found by its shape.
    """
    if isinstance(network, OnnxNetwork):
        return blocks.last_block(network)
    lists = block_lists(network)
    if not lists:
        raise UnsupportedModel(f"{type(network).__name__} has no list of blocks: use unfreeze='all'")
    name = max(lists, key=lambda name: sum(tensor.numel() for tensor in lists[name].parameters()))
    block = f"{name}.{len(lists[name]) - 1}"
    inner = [f"{block}.{word}" for word in STAGE_LISTS if f"{block}.{word}" in lists]
    if inner:
        block = f"{inner[0]}.{len(lists[inner[0]]) - 1}"
    names = [name for name, _ in network.named_parameters()]
    first = next(index for index, name in enumerate(names) if name.startswith(f"{block}."))
    return [parameter for _, parameter in network.named_parameters()][first:]
