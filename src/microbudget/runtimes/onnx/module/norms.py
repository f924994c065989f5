"""Batch norms for a graph whose exporter folded them: unfolded for pruning and training, folded again into the file.

With gamma = sqrt(var + eps) and beta = mean of a convolution's output a norm changes nothing; from there on it keeps
the scale of what comes after in its bounds while the weights change, as it did when the network was first trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from .layers import NORM, BatchNorm
from .network import OnnxNetwork

SMALLEST = 1e-8  # a channel of less variance is constant, and gets no other scale
USUAL_MOMENTUM = 0.1


def add_norms(network: OnnxNetwork, batches: Iterable[Mapping[str, Tensor]]) -> int:
    """Give convolutions with a bias, and without a norm after them, one that changes nothing. How many there are.

    batches: inputs, over which the moments of each convolution's output are taken. Convolutions of a single position
    (a squeeze) get none: its few numbers have no useful moments.
    """
    seen = _Moments(network)
    with torch.no_grad():
        for batch in batches:
            network(**batch)
    found = seen.end()
    for path, (mean, variance) in found.items():
        norm = BatchNorm(len(mean), momentum=USUAL_MOMENTUM)
        spread = torch.where(variance > SMALLEST, variance, torch.ones(()))
        with torch.no_grad():
            norm.weight.copy_((spread + norm.eps).sqrt())
            norm.bias.copy_(mean)
        norm.running_mean, norm.running_var = mean.clone(), spread
        network.get_submodule(path).add_module(NORM, norm.eval())
    return len(found)


def folded_state(network: OnnxNetwork) -> dict[str, Tensor]:
    """The network's tensors by path, with the norms of `add_norms` in the weights and biases of their convolutions."""
    state: dict[str, Tensor] = dict(network.state_dict(keep_vars=True))
    for path, module in network.named_modules():
        norm: Any = module._modules.get(NORM) if isinstance(module, _ConvNd) else None
        if norm is None:
            continue
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight, bias = state[f"{path}.weight"].double(), state[f"{path}.bias"].double()
        state[f"{path}.weight"] = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).float()
        state[f"{path}.bias"] = ((bias - norm.running_mean.double()) * factor + norm.bias.double()).float()
    return state


class _Moments:
    """Sums over what each convolution puts out, until `end`."""

    def __init__(self, network: OnnxNetwork) -> None:
        normed = {step.inputs[0] for step in network.steps if step.op == "BatchNormalization"}
        self._sums: dict[str, list[Tensor]] = {}
        self._hooks = []
        uses = [step.layer for step in network.steps if step.layer]
        for step in network.steps:
            module = network.get_submodule(step.layer) if step.layer else None
            if not isinstance(module, _ConvNd) or module.bias is None or NORM in module._modules:
                continue
            if step.outputs[0] not in normed and uses.count(step.layer) == 1 and not _shared(network, module):
                self._hooks.append(module.register_forward_hook(self._noting(step.layer)))

    def _noting(self, path: str) -> Any:
        def note(_: Any, __: Any, output: Tensor) -> None:
            if output[0, 0].numel() < 2:
                return
            x = output.detach().double().transpose(0, 1).flatten(1)
            sums = [x.sum(1), x.square().sum(1), torch.tensor(float(x.shape[1]))]
            known = self._sums.get(path)
            self._sums[path] = sums if known is None else [a + b for a, b in zip(known, sums, strict=True)]

        return note

    def end(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance of each channel, by the path of the convolution."""
        for hook in self._hooks:
            hook.remove()
        found = {}
        for path, (total, squares, count) in self._sums.items():
            mean = total / count
            found[path] = mean.float(), (squares / count - mean.square()).clamp(min=0).float()
        return found


def _shared(network: OnnxNetwork, module: _ConvNd) -> bool:
    """Whether another layer has the same weights or the same bias."""
    own = {id(module.weight), id(module.bias)}
    others = (each for each in network.modules() if each is not module)
    return any(id(tensor) in own for each in others for tensor in each.parameters(recurse=False))
