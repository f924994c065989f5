"""Heads: the last linear layer of a Hugging Face classifier, found and replaced, and the names of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import Linear, Parameter

from ...errors import UnsupportedModel
from ..onnx.module.network import OnnxNetwork


def head_of(network: Any) -> tuple[str, Linear]:
    """The last linear layer, with as many outputs as the model has labels, and its name.

    A module that was made of a graph knows its own.
    """
    if isinstance(network, OnnxNetwork):
        return network.last_linear()
    classes = network.config.num_labels
    for name, module in reversed(list(network.named_modules())):
        if isinstance(module, Linear) and module.out_features == classes:
            return name, module
    raise UnsupportedModel(f"{type(network).__name__} has no linear layer of {classes} outputs: it cannot be taught")


def set_classes(network: Any, labels: tuple[str, ...], rows: Sequence[int] | None) -> None:
    """Let the network answer these labels: by the rows of the head it has, or (None) by a randomly initialized one."""
    name, old = head_of(network)
    head = Linear(old.in_features, len(labels))
    with torch.no_grad():
        if rows is not None:
            head.weight.copy_(old.weight[list(rows)])
            head.bias.copy_(old.bias[list(rows)] if old.bias is not None else torch.zeros(len(labels)))
    network.set_submodule(name, head)
    name_classes(network, labels)


def put_head(
    network: Any, old_weight: NDArray[Any], layer: tuple[NDArray[Any], NDArray[Any]], labels: tuple[str, ...]
) -> None:
    """Replace the network's last linear layer, and name its outputs.

    old_weight: (old classes, inputs), by which the layer is found. layer: weight (classes, inputs), bias.
    """
    name = _linear_with(network, old_weight)
    weight, bias = layer
    linear = Linear(weight.shape[1], weight.shape[0])
    linear.weight = Parameter(torch.from_numpy(weight.copy()))
    linear.bias = Parameter(torch.from_numpy(bias.copy()))
    network.set_submodule(name, linear)
    name_classes(network, labels)


def name_classes(network: Any, labels: tuple[str, ...]) -> None:
    """Note the labels of the network's outputs in its configuration."""
    network.num_labels = len(labels)
    network.config.id2label = dict(enumerate(labels))
    network.config.label2id = {label: index for index, label in enumerate(labels)}
    network.config.problem_type = "single_label_classification"


def _linear_with(network: Any, weight: NDArray[Any]) -> str:
    for name, module in network.named_modules():
        same_shape = isinstance(module, Linear) and module.weight.shape == weight.shape
        if same_shape and np.array_equal(module.weight.detach().numpy(), weight):
            return str(name)
    raise UnsupportedModel(
        f"the last linear layer of {type(network).__name__} was not found among its modules: use head='mlp', which"
        " gives an onnx model"
    )
