"""Modes: how a network is put into training mode, and what is restored after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import Parameter


def frozen_norms(network: Any) -> None:
    """Training mode, but batch norm keeps its statistics: those of a few photos are worse than the pretrained ones."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def fresh_norms(network: Any) -> None:
    """Training mode, and the statistics of batch norm are the means over the epoch's own batches.

    For a network that was cut, whose old statistics are wrong: with a momentum they would need more steps than an epoch
    of few photos has, and lag behind the weights.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None


def zeros_stay(parameters: Iterable[Parameter]) -> Callable[[], None]:
    """For `after_step`: what is zero now in these parameters (pruned weights) is set to zero again after each step."""
    pruned = [(parameter, parameter.detach() == 0) for parameter in parameters]
    pruned = [(parameter, zero) for parameter, zero in pruned if bool(zero.any())]

    def clear() -> None:
        with torch.no_grad():
            for parameter, zero in pruned:
                parameter.masked_fill_(zero.to(parameter.device), 0.0)

    return clear
