"""Importance: how much each channel matters within its layer. Higher is more; only the order counts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...errors import InvalidOption
from .axes import Ids
from .graph import Dependencies
from .target import PruningTarget

Scores = NDArray[np.float64]  # of each bundle
IMPORTANCES = ("magnitude", "taylor", "batchnorm")


def importance(measure: str, target: PruningTarget, graph: Dependencies) -> Scores:
    """The score of each bundle, (bundles,). measure: one of IMPORTANCES. Raises InvalidOption without a batch norm."""
    if measure == "taylor":
        return taylor(target, graph)
    if measure == "batchnorm" and not graph.norms:
        raise InvalidOption(
            f"prune: importance='batchnorm' reads the scales of batch norms, and {type(target.network).__name__} has"
            " none after its layers: use 'magnitude' or 'taylor'"
        )
    scores = magnitude(target, graph)
    return batch_norm_scale(target, graph, scores) if measure == "batchnorm" else scores


def magnitude(target: PruningTarget, graph: Dependencies) -> Scores:
    """Mean over all layers that make or read a channel of its weights' L2 norm, in units of that layer's mean norm.

    A convolution with batch norm after it counts as if the norm were folded in: alone its scale means nothing.
    Li et al. 2017 (arXiv:1608.08710) with the coupled layers of Fang et al. 2023 (arXiv:2301.12900).
    """
    state = target.network.state_dict()
    total, count = np.zeros(graph.count), np.zeros(graph.count)
    for one in graph.contractions:
        weight = _folded(state, graph, one.weight, one.out_axis)
        for axis in (one.out_axis, one.in_axis):
            ids = graph.axes[one.weight][axis]
            others = tuple(place for place in range(weight.ndim) if place != axis)
            norms = np.sqrt(np.square(weight).sum(axis=others))
            _add(total, count, ids, norms / max(float(norms.mean()), 1e-12))
    return total / np.maximum(count, 1)


def _folded(state: dict[str, torch.Tensor], graph: Dependencies, name: str, out_axis: int) -> NDArray[np.float64]:
    weight: NDArray[np.float64] = state[name].double().numpy()
    if name not in graph.norms:
        return weight
    scale = graph.norms[name]
    spread = state[scale.removesuffix("weight") + "running_var"].double().numpy()
    factor = np.abs(state[scale].double().numpy()) / np.sqrt(spread + 1e-5)
    folded: NDArray[np.float64] = weight * factor.reshape(
        [-1 if axis == out_axis else 1 for axis in range(weight.ndim)]
    )
    return folded


def batch_norm_scale(target: PruningTarget, graph: Dependencies, otherwise: Scores) -> Scores:
    """Mean |scale| of a channel's batch norms (Liu et al. 2017, arXiv:1708.06519); `otherwise` where it has none."""
    state = target.network.state_dict()
    total, count = np.zeros(graph.count), np.zeros(graph.count)
    for name in dict.fromkeys(graph.norms.values()):
        scale = np.abs(state[name].double().numpy())
        _add(total, count, graph.axes[name][0], scale / max(float(scale.mean()), 1e-12))
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)


def taylor(target: PruningTarget, graph: Dependencies) -> Scores:
    """(sum of weight * gradient over a channel's weights) squared, summed over the examples' batches.

    What the loss would change, to the first order, without the channel: Molchanov et al. 2019 (arXiv:1906.10771).
    """
    network = target.network
    parameters = dict(network.named_parameters())
    names = [name for name in graph.axes if name in parameters]
    scores = np.zeros(graph.count)
    for batch, classes in target.labelled():
        network.zero_grad(set_to_none=True)
        functional.cross_entropy(target.answer(network, batch), classes).backward()  # type: ignore[no-untyped-call]
        change = np.zeros(graph.count)
        for name in names:
            parameter = parameters[name]
            if parameter.grad is not None:
                product = (parameter.detach() * parameter.grad).double().numpy()
                _add_axes(change, graph.axes[name], product)
        scores += np.square(change)
    network.zero_grad(set_to_none=True)
    return scores


def _add_axes(total: Scores, axes: Iterable[Ids], values: NDArray[np.float64]) -> None:
    """Add the values of each position to its bundle, along each axis."""
    for axis, ids in enumerate(axes):
        if (ids >= 0).any():
            sums = values.sum(axis=tuple(place for place in range(values.ndim) if place != axis))
            _add(total, np.zeros_like(total), ids, sums)


def _add(total: Scores, count: Scores, ids: Ids, values: NDArray[np.float64]) -> None:
    live = ids >= 0
    np.add.at(total, ids[live], values[live])
    np.add.at(count, ids[live], 1)
