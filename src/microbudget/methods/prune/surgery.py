"""Surgery: take the channels out of the tensors, so that an ordinary smaller network is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...errors import Failed
from .axes import Ids
from .graph import Dependencies
from .subject import Subject

TOLERANCE = 1e-3  # of the spread of the logits


def cut(network: Any, graph: Dependencies, removed: Ids) -> None:
    """Remove bundles from the network, in place."""
    groups = {one.weight: one.groups for one in graph.contractions}
    for name, places in graph.kept(removed).items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        before = getattr(module, leaf)
        after = _selected(before.detach(), places)
        if isinstance(before, torch.nn.Parameter):
            setattr(module, leaf, torch.nn.Parameter(after, requires_grad=before.requires_grad))
        else:
            setattr(module, leaf, after)
        if leaf == "weight":
            _describe(module, groups.get(name, 1), before.shape[0])


def _selected(tensor: torch.Tensor, places: tuple[Ids | None, ...]) -> torch.Tensor:
    for axis, kept in enumerate(places):
        if kept is not None:
            tensor = tensor.index_select(axis, torch.from_numpy(kept))
    return tensor.contiguous()


def _describe(module: Any, groups: int, outputs: int) -> None:
    """The module's own numbers, from its weight's new shape. outputs: before."""
    shape = module.weight.shape
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        module.groups = groups * shape[0] // outputs if groups > 1 else 1
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, torch.nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        module.num_features = shape[0]
    elif hasattr(module, "nf"):  # GPT-2's matrix
        module.nx, module.nf = shape


def check(subject: Subject, network: Any, expected: torch.Tensor) -> None:
    """The smaller network must answer as the original does with the removed channels silent. Raises Failed."""
    try:
        found = subject.logits(network)
    except RuntimeError as error:
        raise Failed(
            f"{type(network).__name__} does not run without the removed channels ({str(error).splitlines()[0]}): its"
            " code has their number written down. Use structure='layers' or structure='weights'"
        ) from error
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(float(expected.abs().max()), 1.0):
        raise Failed(
            f"{type(network).__name__} without the removed channels answers differently (by {difference:.3g}) than with"
            " them silent: it cannot be pruned this way. Use structure='layers' or structure='weights'"
        )


def kept_share(before: Any, after: Any) -> float:
    """Parameters that are left, as a share."""
    numbers = [sum(int(np.prod(one.shape)) for one in network.parameters()) for network in (before, after)]
    return numbers[1] / numbers[0]
