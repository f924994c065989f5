"""Moments: batch norm makes up for removed channels, so that those that stay keep their mean and deviation.

The layers after removed channels see another mean than they were trained with; without this the losses of several
layers add up to far more than each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .axes import Ids
from .graph import Dependencies
from .target import Batch, PruningTarget, divergence

MOST = 128  # examples that the final moments are taken over, in one pass
CONSTANT_VARIANCE = 1e-8  # a channel below it is constant
WIDEST = 10.0  # times that a variance may change
Moments = tuple[torch.Tensor, torch.Tensor]  # mean and variance of each channel


def norms(network: Any) -> list[tuple[str, Any]]:
    """The batch norms with statistics, by name."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]
    return [(name, module) for name, module in found if module.running_mean is not None]


def moments(x: torch.Tensor) -> Moments:
    """x: (batch, channels, ...) -> two of (channels,). By batch norm's own kernel, ten times as fast as `var_mean`."""
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    return mean, variance


def input_moments(target: PruningTarget, batch: Batch) -> dict[str, Moments]:
    """Of what each batch norm takes in, by its name."""
    found: dict[str, Moments] = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda _, inputs: found.__setitem__(name, moments(inputs[0]))

    with _before_norms(target.network, noting), torch.no_grad():
        target.answer(target.network, batch)
    return found


@contextmanager
def _before_norms(network: Any, hook: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in norms(network)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _ratio(spread: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """How much wider a channel is now than it was; 1 where it was constant."""
    ratio = (spread / variance.clamp(min=CONSTANT_VARIANCE)).clamp(1 / WIDEST, WIDEST)
    return torch.where(variance > CONSTANT_VARIANCE, ratio, torch.ones(()))


def repaired_logits(target: PruningTarget, wanted: Sequence[Mapping[str, Moments]]) -> torch.Tensor:
    """What the network would answer after `match`, as it is now: (rows, classes). wanted: `input_moments` by batch."""
    if not wanted[0]:
        return target.logits()
    current: dict[str, Moments] = {}

    def matching(name: str) -> Callable[..., torch.Tensor]:
        def moved(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
            (now, spread), (mean, variance) = moments(inputs[0]), current[name]
            shape = (1, -1, *(1,) * (inputs[0].ndim - 2))
            scale = _ratio(spread, variance).rsqrt()
            return torch.addcmul((mean - now * scale).reshape(shape), inputs[0], scale.reshape(shape))

        return moved

    parts = []
    with _before_norms(target.network, matching), torch.inference_mode():
        for batch, moments_wanted in zip(target.batches, wanted, strict=True):
            current.update(moments_wanted)
            parts.append(target.answer(target.network, batch))
    return torch.cat(parts)


def match(target: PruningTarget, network: Any, graph: Dependencies, removed: Ids) -> bool:
    """Change the cut network's statistics, norm by norm in its order, if that brings its answers nearer.

    Each norm's output then has the moments over the examples that it had in the given network. Returns whether it was
    done.
    """
    before = {name: (module.running_mean.clone(), module.running_var.clone()) for name, module in norms(network)}
    if not before:
        return False
    reference = target.logits()
    loss = divergence(reference, target.logits(network))
    batch = {name: torch.cat([one[name] for one in target.batches])[:MOST] for name in target.batches[0]}
    wanted, kept = input_moments(target, batch), graph.kept(removed)

    def matching(name: str) -> Callable[..., None]:
        places = kept.get(f"{name}.weight", (None,))[0]
        chosen = slice(None) if places is None else torch.from_numpy(places)
        mean, variance = (each[chosen] for each in wanted[name])
        return lambda module, inputs: _set_statistics(module, inputs[0], mean, variance)

    with _before_norms(network, matching), torch.no_grad():
        target.answer(network, batch)
    if divergence(reference, target.logits(network)) < loss:
        return True
    for name, module in norms(network):
        module.running_mean.copy_(before[name][0])
        module.running_var.copy_(before[name][1])
    return False


def as_measured(target: PruningTarget, network: Any, inputs: Batch) -> None:
    """Give each batch norm the statistics of what it takes in, and scale and shift that leave its output as it is.

    A layer that is fitted by least squares has less variance than the one it replaces. The statistics that the norm
    had are then not those of a batch, and in training mode, which takes the batch's, the network would be another one.
    """

    def measuring(_: str) -> Callable[..., None]:
        return lambda module, taken: _reparametrize(module, taken[0])

    with _before_norms(network, measuring), torch.no_grad():
        target.answer(network, inputs)


def _reparametrize(module: Any, x: torch.Tensor) -> None:
    """In place. Channels that are constant stay as they are, and so does a norm without scale and shift."""
    if module.weight is None or module.bias is None:
        return
    mean, variance = moments(x)
    moving = variance > CONSTANT_VARIANCE
    before, after = (torch.sqrt(each + module.eps) for each in (module.running_var, variance))
    scale = module.weight / before
    module.bias.copy_(torch.where(moving, module.bias + scale * (mean - module.running_mean), module.bias))
    module.weight.copy_(torch.where(moving, scale * after, module.weight))
    module.running_mean.copy_(torch.where(moving, mean, module.running_mean))
    module.running_var.copy_(torch.where(moving, variance, module.running_var))


def _set_statistics(module: Any, x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
    now, spread = moments(x)
    ratio = _ratio(spread, variance)
    module.running_mean.copy_(now - (mean - module.running_mean) * ratio.sqrt())
    module.running_var.copy_(((module.running_var + module.eps) * ratio - module.eps).clamp(min=0))
