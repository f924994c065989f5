"""Surgery: take the channels out of the tensors, so that an ordinary smaller network is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...errors import Failed
from .axes import Ids
from .graph import Dependencies
from .subject import Batch, Subject, answer, divergence

TOLERANCE = 1e-3  # of the spread of the logits
MOST = 128  # examples that moments are taken over, in one pass
SILENT_VARIANCE = 1e-8  # a channel below it says nothing
WIDEST = 10.0  # times that a variance may change


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


def match_moments(subject: Subject, network: Any, graph: Dependencies, removed: Ids) -> bool:
    """Let each channel of the cut network have the mean and deviation that it had, if that brings its answers nearer.

    The layers behind removed channels see another mean than they were trained with. Batch norm takes it up: its
    statistics are changed, layer by layer in the order of the network, so that what it puts out has the given network's
    moments over the examples. Returns whether it was done.
    """
    before = {name: (module, _statistics(module)) for name, module in norms(network)}
    if not before:
        return False
    reference = subject.logits()
    loss = divergence(reference, subject.logits(network))
    batch = {name: torch.cat([one[name] for one in subject.batches])[:MOST] for name in subject.batches[0]}
    wanted = _input_moments(subject.network, batch)
    kept = graph.kept(removed)
    hooks = []
    for name, (module, _) in before.items():
        places = kept.get(f"{name}.weight", (None,))[0]
        chosen = slice(None) if places is None else torch.from_numpy(places)
        hooks.append(module.register_forward_pre_hook(_matching(*(each[chosen] for each in wanted[name]))))
    try:
        with torch.no_grad():
            answer(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if divergence(reference, subject.logits(network)) < loss:
        return True
    for module, (mean, variance) in before.values():
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
    return False


def norms(network: Any) -> list[tuple[str, Any]]:
    """The batch norms with statistics, by name."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    return [(name, module) for name, module in found if module.running_mean is not None]


def _statistics(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return module.running_mean.clone(), module.running_var.clone()


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel: x (batch, channels, ...) -> two of (channels,)."""
    flat = x.transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1)


def _input_moments(network: Any, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def noting(name: str) -> Any:
        return lambda _, inputs: found.__setitem__(name, _moments(inputs[0]))

    hooks = [module.register_forward_pre_hook(noting(name)) for name, module in norms(network)]
    try:
        with torch.no_grad():
            answer(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _matching(mean: torch.Tensor, variance: torch.Tensor) -> Any:
    """Before the norm runs: change its statistics so that its output has the moments that it had for this input's."""

    def match(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        now, spread = _moments(inputs[0])
        ratio = (spread / variance.clamp(min=SILENT_VARIANCE)).clamp(1 / WIDEST, WIDEST)
        ratio = torch.where(variance > SILENT_VARIANCE, ratio, torch.ones(()))
        module.running_mean.copy_(now - (mean - module.running_mean) * ratio.sqrt())
        module.running_var.copy_(((module.running_var + module.eps) * ratio - module.eps).clamp(min=0))

    return match


def kept_share(before: Any, after: Any) -> float:
    """Parameters that are left, as a share."""
    numbers = [sum(int(np.prod(one.shape)) for one in network.parameters()) for network in (before, after)]
    return numbers[1] / numbers[0]
