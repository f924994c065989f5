"""Surgery: take the channels out of the tensors, so that an ordinary smaller network is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedModel
from .axes import Ids
from .graph import OTHER_WAYS, Dependencies, first_names
from .target import PruningTarget

TOLERANCE = 1e-3  # of the spread of the logits


def cut(network: Any, graph: Dependencies, removed: Ids) -> None:
    """Remove bundles from the network, in place. What layers share they share afterwards."""
    first, done = first_names(network), dict[str, torch.Tensor]()
    for name, places in graph.kept(removed).items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        before = getattr(module, leaf)
        if first[name] not in done:
            after = _selected(before.detach(), places)
            kept = torch.nn.Parameter(after, before.requires_grad) if isinstance(before, torch.nn.Parameter) else after
            done[first[name]] = kept
        setattr(module, leaf, done[first[name]])
        if leaf == "weight":
            _describe(module, before.shape[0])


def _selected(tensor: torch.Tensor, places: tuple[Ids | None, ...]) -> torch.Tensor:
    for axis, kept in enumerate(places):
        if kept is not None:
            tensor = tensor.index_select(axis, torch.from_numpy(kept))
    return tensor.contiguous()


def _describe(module: Any, outputs: int) -> None:
    """The module's own numbers, from its weight's new shape. outputs: before."""
    shape = module.weight.shape
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        module.groups = module.groups * shape[0] // outputs if module.groups > 1 else 1
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, torch.nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        module.num_features = shape[0]
    elif hasattr(module, "nf"):  # GPT-2's matrix
        module.nx, module.nf = shape


def check(target: PruningTarget, network: Any, expected: torch.Tensor) -> None:
    """The smaller network must answer as the original with the removed channels masked. Raises UnsupportedModel."""
    try:
        found = target.logits(network)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"{type(network).__name__} does not run without the removed channels ({str(error).splitlines()[0]}): its"
            f" code has their number written down. {OTHER_WAYS}"
        ) from error
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(float(expected.abs().max()), 1.0):
        raise UnsupportedModel(
            f"{type(network).__name__} without the removed channels answers differently (by {difference:.3g}) than with"
            f" them masked: it cannot be pruned this way. {OTHER_WAYS}"
        )


def kept_share(before: Any, after: Any) -> float:
    """The fraction of parameters that is left."""
    numbers = [sum(int(np.prod(one.shape)) for one in network.parameters()) for network in (before, after)]
    return numbers[1] / numbers[0]
