"""zeros: single weights set to zero, by magnitude or by what they multiply (Wanda), and what that saves."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedModel
from .subject import Subject


def prunable(network: Any) -> Iterator[tuple[str, Any]]:
    """The weights of linear layers, convolutions and GPT-2's matrices, by name.

    Not the last linear layer, which names the classes or, tied to the embeddings, the words.
    """
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds) or _turned(module)]
    last = found[-1][0] if found and isinstance(found[-1][1], torch.nn.Linear) else None
    for name, module in found:
        if name != last:
            yield f"{name}.weight", module


def _turned(module: Any) -> bool:
    """Whether it is GPT-2's matrix, whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def prune(subject: Subject, sparsity: float, score: str) -> list[str]:
    """Set this share of each layer's weights to zero, in place; the names of the tensors.

    magnitude: the smallest |W| of the layer. wanda: in each row the smallest |W| * ||X||, X what the input feature is
    over all examples (Sun et al. 2024, arXiv:2306.11695). Raises UnsupportedModel.
    """
    if not list(prunable(subject.network)):
        raise UnsupportedModel(
            f"{type(subject.network).__name__} has no linear layer or convolution beside its last layer: no weights to"
            " set to zero"
        )
    norms = _input_norms(subject) if score == "wanda" else {}
    names = []
    for name, module in prunable(subject.network):
        weight = module.weight.detach()
        weight = weight.T if _turned(module) else weight
        if score == "wanda":
            mask = _smallest_in_rows(weight.abs().flatten(1) * norms[name], sparsity).reshape(weight.shape)
        else:
            mask = _smallest(weight.abs().flatten(), sparsity).reshape(weight.shape)
        weight.masked_fill_(mask, 0.0)
        names.append(name)
    return names


def _smallest(values: torch.Tensor, share: float) -> torch.Tensor:
    """True for the smallest `share` of the values, (n,)."""
    mask = torch.zeros(values.shape, dtype=torch.bool)
    mask[values.argsort(stable=True)[: int(share * len(values))]] = True
    return mask


def _smallest_in_rows(values: torch.Tensor, share: float) -> torch.Tensor:
    """True for the smallest `share` of each row, (rows, n)."""
    count = int(share * values.shape[1])
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(1, values.argsort(dim=1, stable=True)[:, :count], True)


def _input_norms(subject: Subject) -> dict[str, torch.Tensor]:
    """||X||_2 of each input of each layer over all examples: (rows or 1, inputs of a weight's row)."""
    squares: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(_adding(squares, name, module)) for name, module in prunable(subject.network)
    ]
    try:
        subject.logits()
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

    compressed: bytes by zlib of all tensors, as a share of their bytes, and of what they took with no zero more.
    """
    state = network.state_dict()
    chosen = [state[name] for name in names]
    zeros = sum(int((tensor == 0).sum()) for tensor in chosen)
    raw = b"".join(tensor.contiguous().numpy().tobytes() for tensor in state.values())
    return {
        "zeros_of_pruned": zeros / sum(tensor.numel() for tensor in chosen),
        "zeros_of_all": zeros / sum(tensor.numel() for tensor in state.values()),
        "compressed_share": len(zlib.compress(raw, 6)) / len(raw),
    }
