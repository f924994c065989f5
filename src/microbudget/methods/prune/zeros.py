"""zeros: single weights set to zero, by magnitude or by what they multiply (Wanda), and what that saves."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedModel
from .target import PruningTarget


def prunable(network: Any) -> Iterator[tuple[str, Any]]:
    """The weights of linear layers, convolutions and GPT-2's matrices, by name.

    Not the last linear layer, which names the classes or, tied to the embeddings, the words. Layers that share a weight
    give it the name that the first of them has.
    """
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds) or _turned(module)]
    last = found[-1][1].weight if found and isinstance(found[-1][1], torch.nn.Linear) else None
    first: dict[int, str] = {}
    for name, module in found:
        if module.weight is not last:
            yield first.setdefault(id(module.weight), f"{name}.weight"), module


def _turned(module: Any) -> bool:
    """Whether it is GPT-2's matrix, whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def prune(target: PruningTarget, sparsity: float, score: str) -> list[str]:
    """Set this share of each layer's weights to zero, in place; the names of the tensors.

    magnitude: the smallest |W| of the layer. wanda: in each row the smallest |W| * ||X||, X what the input feature is
    over all examples (Sun et al. 2024, arXiv:2306.11695); a layer that no example reaches has no X and stays whole.
    Raises UnsupportedModel.
    """
    layers = dict(prunable(target.network))
    norms = _input_norms(target) if score == "wanda" else {}
    names = [name for name in layers if score != "wanda" or name in norms]
    if not names:
        raise UnsupportedModel(
            f"{type(target.network).__name__} has no linear layer or convolution that it calls, except its last layer:"
            " no weights to set to zero"
        )
    for name in names:
        weight = layers[name].weight.detach()
        if score == "wanda":
            rows = _rows(layers[name], weight)
            mask = _smallest_in_rows(rows.abs().flatten(1) * norms[name], sparsity).reshape(rows.shape)
            weight.masked_fill_(_rows(layers[name], mask), 0.0)
        else:
            weight.masked_fill_(_smallest(weight.abs().flatten(), sparsity).reshape(weight.shape), 0.0)
    return names


def _rows(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """The weight with a row for each output, (outputs, inputs / groups, ...), for any layer; twice is back.

    GPT-2's matrix is (inputs, outputs), a transposed convolution's weight (inputs, outputs / groups, ...).
    """
    if _turned(module):
        return weight.T
    if not getattr(module, "transposed", False):
        return weight
    by_group = weight.reshape(module.groups, -1, *weight.shape[1:])  # (groups, inputs / groups, outputs / groups, ...)
    return by_group.transpose(1, 2).flatten(0, 1)


def _smallest(values: torch.Tensor, share: float) -> torch.Tensor:
    """True for the smallest `share` of the values, (n,)."""
    mask = torch.zeros(values.shape, dtype=torch.bool)
    mask[values.argsort(stable=True)[: int(share * len(values))]] = True
    return mask


def _smallest_in_rows(values: torch.Tensor, share: float) -> torch.Tensor:
    """True for the smallest `share` of each row, (rows, n)."""
    count = int(share * values.shape[1])
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(1, values.argsort(dim=1, stable=True)[:, :count], True)


def _input_norms(target: PruningTarget) -> dict[str, torch.Tensor]:
    """||X||_2 of each input of each layer over all examples: (rows or 1, inputs of a weight's row)."""
    squares: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(_adding(squares, name, module)) for name, module in prunable(target.network)
    ]
    try:
        target.logits()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total.sqrt() for name, total in squares.items()}


def _adding(squares: dict[str, torch.Tensor], name: str, module: Any) -> Any:
    def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        total = _squares(module, inputs[0].detach())
        squares[name] = squares[name] + total if name in squares else total

    return add


def _squares(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Sums of squares of the inputs in the order of a weight's row.

    A convolution's kernel sees each input channel at every place, so all places of the kernel share its sum.
    """
    if isinstance(module, torch.nn.Linear) or _turned(module):
        return x.reshape(-1, x.shape[-1]).double().square().sum(dim=0)[None]
    channels = x.double().square().sum(dim=tuple(place for place in range(x.ndim) if place != 1))
    kernel = int(np.prod(module.kernel_size))
    by_group = channels.reshape(module.groups, -1).repeat_interleave(kernel, dim=1)
    return by_group.repeat_interleave(module.out_channels // module.groups, dim=0)


def savings(network: Any, names: list[str]) -> dict[str, float]:
    """Shares of zeros in the pruned tensors and in all, and what the weights take on disk once compressed.

    A tensor that layers share counts once, as in the file. compressed: bytes by zlib of all tensors, as a share of
    their bytes.
    """
    state = network.state_dict(keep_vars=True)
    chosen = [state[name] for name in names]
    stored = [tensor.detach() for tensor in {id(tensor): tensor for tensor in state.values()}.values()]
    zeros = sum(int((tensor == 0).sum()) for tensor in chosen)
    raw = b"".join(tensor.contiguous().numpy().tobytes() for tensor in stored)
    return {
        "zeros_of_pruned": zeros / sum(tensor.numel() for tensor in chosen),
        "zeros_of_all": zeros / sum(tensor.numel() for tensor in stored),
        "compressed_share": len(zlib.compress(raw, 6)) / len(raw),
    }
