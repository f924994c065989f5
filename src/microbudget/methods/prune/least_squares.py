"""Least squares: after a cut each layer is fitted in closed form to what it computed before, one after the other.

The layers after removed channels have fewer inputs than they were trained with, and what is left is correlated with
what is gone. Given the inputs that it has now, x, and the outputs that it had, y, a layer's new weights minimize
|y - W x - b|^2 + a |W - W0|^2 over the examples, W0 being what the cut left: the reconstruction of He, Zhang and Sun
2017 (arXiv:1707.06168, section 3.2; inputs of the network as it is repaired so far, outputs of the given one), with a
ridge that held-out examples choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .axes import Ids
from .graph import Dependencies, first_names
from .target import Batch, PruningTarget

RIDGES = (math.inf, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # in units of the inputs' mean square; infinite: W stays W0
HELD_OUT = 4  # every fourth example chooses the ridge
LEAST_ROWS, ROWS_PER_INPUT, MOST_ROWS = 2048, 6, 32_768  # a layer's equations: examples times positions
WIDEST = 6000  # inputs of a layer: a wider one's equations would take minutes
MOST_OUTPUTS = 20_000  # a wider one is a vocabulary's
MOST_NOTED = 600_000_000  # numbers of the given network's outputs that are kept: 2.4 GB
MOST_NUMBERS = 200_000_000  # in the largest tensor of all examples at once: 800 MB
AT_ONCE = 32  # examples that go through the given network together
FITTED = (torch.nn.Conv2d, torch.nn.Linear)


@dataclass
class _Layer:
    """A layer that is fitted. rows: (examples, positions) of the outputs that are looked at."""

    name: str
    kept: Tensor | None  # of the given layer's outputs
    norm: str | None  # the batch norm that follows, which can take the intercept
    positions: Tensor | None = None  # (examples, count) in the flattened output
    wanted: list[Tensor] = field(default_factory=list)  # (examples, count, kept outputs), batch by batch
    once: bool = True  # the network calls it once


def most_examples(graph: Dependencies) -> int:
    """As many as go through the cut network together, and whose outputs fit into memory, at least 2."""
    layers = [(one, len(graph.axes[one.weight][one.out_axis])) for one in graph.contractions]
    largest = max((one.positions * outputs for one, outputs in layers), default=1)
    examples = max(2, MOST_NUMBERS // max(1, largest))

    def noted() -> int:
        inputs = ((one, outputs, len(graph.axes[one.weight][one.in_axis])) for one, outputs in layers)
        return sum(min(examples * one.positions, _rows(width)) * outputs for one, outputs, width in inputs)

    while examples > 2 and noted() > MOST_NOTED:
        examples = max(2, examples * 3 // 4)
    return examples


def _rows(inputs: int) -> int:
    """Equations of a layer with so many inputs."""
    return min(MOST_ROWS, max(LEAST_ROWS, ROWS_PER_INPUT * inputs))


def refit(target: PruningTarget, network: Any, graph: Dependencies, removed: Ids, inputs: Batch, seed: int = 0) -> int:
    """Fit the layers of the cut network in place; how many were. inputs: examples, all of one shape."""
    layers = _layers(network, graph, removed)
    _note_outputs(target, layers, inputs, seed)
    fitted = 0

    def fitting(layer: _Layer) -> Callable[..., None]:
        def before(module: Any, taken: tuple[Tensor, ...]) -> None:
            nonlocal fitted
            if layer.wanted and layer.once:
                norm = None if layer.norm is None else network.get_submodule(layer.norm)
                fitted += _fit(module, taken[0], torch.cat(layer.wanted), layer.positions, norm)
                layer.wanted = []

        return before

    with _hooks(network, layers, "register_forward_pre_hook", fitting), torch.no_grad():
        target.answer(network, inputs)
    return fitted


def _layers(network: Any, graph: Dependencies, removed: Ids) -> list[_Layer]:
    """Convolutions and linear layers with a weight of their own."""
    kept, found = graph.kept(removed), []
    shared = {first for name, first in first_names(network).items() if name != first}
    for one in graph.contractions:
        name, _, leaf = one.weight.rpartition(".")
        module = network.get_submodule(name)
        if leaf != "weight" or not isinstance(module, FITTED) or one.weight in shared:
            continue
        if module.weight[0].numel() > WIDEST or len(module.weight) > MOST_OUTPUTS:
            continue
        places = kept.get(one.weight, (None,))[0]
        scale = graph.norms.get(one.weight)
        chosen = None if places is None else torch.from_numpy(places)
        found.append(_Layer(name, chosen, None if scale is None else scale.rpartition(".")[0]))
    return found


@contextmanager
def _hooks(
    network: Any, layers: list[_Layer], kind: str, hook: Callable[[_Layer], Callable[..., Any]]
) -> Iterator[None]:
    handles = [getattr(network.get_submodule(layer.name), kind)(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_outputs(target: PruningTarget, layers: list[_Layer], inputs: Batch, seed: int) -> None:
    """What the given network computes at some positions of each layer."""
    examples = len(next(iter(inputs.values())))
    coin = torch.Generator().manual_seed(seed)

    def noting(layer: _Layer) -> Callable[..., None]:
        def after(module: Any, _: tuple[Tensor, ...], output: Tensor) -> None:
            flat = _flat(module, output)
            if layer.positions is None:
                layer.positions = _positions(module, examples, flat.shape[1], coin)
            if len(layer.wanted) * AT_ONCE != start:
                layer.once = False
                return
            chosen = layer.positions[start : start + len(flat)]
            picked = torch.take_along_dim(flat, chosen[:, :, None], 1)
            layer.wanted.append(picked if layer.kept is None else picked[:, :, layer.kept])

        return after

    start = 0
    with _hooks(target.network, layers, "register_forward_hook", noting), torch.no_grad():
        for start in range(0, examples, AT_ONCE):
            target.answer(target.network, {name: tensor[start : start + AT_ONCE] for name, tensor in inputs.items()})


def _flat(module: Any, output: Tensor) -> Tensor:
    """(examples, positions, channels)."""
    if isinstance(module, torch.nn.Conv2d):
        return output.flatten(2).transpose(1, 2)
    return output.reshape(len(output), -1, output.shape[-1])


def _positions(module: Any, examples: int, available: int, coin: torch.Generator) -> Tensor:
    """(examples, count): as many as the equations need, all where there are not more."""
    count = math.ceil(_rows(module.weight[0].numel()) / examples)
    if count >= available:
        return torch.arange(available).expand(examples, available)
    return torch.rand((examples, available), generator=coin).topk(count, dim=1).indices


def _fit(module: Any, x: Tensor, wanted: Tensor, positions: Tensor | None, norm: Any) -> bool:
    """Set the weights of one layer. x: its inputs of all examples, wanted: (examples, count, outputs)."""
    assert positions is not None
    groups = module.groups if isinstance(module, torch.nn.Conv2d) else 1
    rows = _inputs_at(module, x, positions)  # (groups, examples, count, inputs)
    examples, count, outputs = wanted.shape
    y = wanted.reshape(examples, count, groups, outputs // groups).permute(2, 0, 1, 3)
    before = module.weight.detach().reshape(groups, outputs // groups, -1).transpose(1, 2).double()
    free = module.bias is not None or norm is not None
    weight, intercept = _solved(rows, y, before, free)
    if not bool(torch.isfinite(weight).all() and torch.isfinite(intercept).all()):
        return False
    module.weight.copy_(weight.transpose(1, 2).reshape(module.weight.shape))
    if module.bias is not None:
        module.bias.copy_(intercept.flatten())
    elif norm is not None:
        norm.running_mean -= intercept.flatten().to(norm.running_mean.dtype)
    return True


def _inputs_at(module: Any, x: Tensor, positions: Tensor) -> Tensor:
    """What each chosen output is made of: (groups, examples, count, inputs of a group)."""
    if isinstance(module, torch.nn.Linear):
        flat = x.reshape(len(x), -1, x.shape[-1])
        return torch.take_along_dim(flat, positions[:, :, None], 1)[None]
    height, width = module.kernel_size
    padding = module._reversed_padding_repeated_twice if module.padding != (0, 0) else [0, 0, 0, 0]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = torch.nn.functional.pad(x, padding, mode=mode) if any(padding) else x
    across = (x.shape[3] - module.dilation[1] * (width - 1) - 1) // module.stride[1] + 1
    top, left = positions // across * module.stride[0], positions % across * module.stride[1]
    example = torch.arange(len(x))[:, None]
    taps = [
        x[example, :, top + row * module.dilation[0], left + column * module.dilation[1]]
        for row in range(height)
        for column in range(width)
    ]  # each (examples, count, channels)
    found = torch.stack(taps, dim=-1)
    examples, count = positions.shape
    return found.reshape(examples, count, module.groups, -1).permute(2, 0, 1, 3)


def _solved(rows: Tensor, wanted: Tensor, before: Tensor, free: bool) -> tuple[Tensor, Tensor]:
    """Weights (groups, inputs, outputs) and intercepts (groups, outputs). free: whether there may be an intercept."""
    held = torch.arange(rows.shape[1]) % HELD_OUT == HELD_OUT - 1
    fitted = _Equations.of(rows[:, ~held], wanted[:, ~held], before, free)
    x, y = rows[:, held].flatten(1, 2).double(), wanted[:, held].flatten(1, 2).double()

    def error(ridge: float) -> float:
        weight, intercept = fitted.solution(ridge)
        return float((y - torch.baddbmm(intercept[:, None], x, weight)).square().mean())

    best = min(RIDGES, key=error)
    return _Equations.of(rows, wanted, before, free).solution(best)


@dataclass
class _Equations:
    """The normal equations of W - W0, by group."""

    before: Tensor  # (groups, inputs, outputs)
    squares: Tensor  # (groups, inputs, inputs)
    products: Tensor  # (groups, inputs, outputs), of the inputs and what W0 leaves
    means: tuple[Tensor, Tensor]  # of inputs and outputs, (groups, 1, ...)

    @classmethod
    def of(cls, rows: Tensor, wanted: Tensor, before: Tensor, free: bool) -> _Equations:
        x, y = rows.flatten(1, 2).double(), wanted.flatten(1, 2).double()
        means = x.mean(1, keepdim=True) * free, y.mean(1, keepdim=True) * free
        x, y = x - means[0], y - means[1]
        return cls(before, x.mT @ x, x.mT @ (y - x @ before), means)

    def solution(self, ridge: float) -> tuple[Tensor, Tensor]:
        """W and b; NaN where the equations cannot be solved."""
        weight = self.before
        if math.isfinite(ridge):
            scale = self.squares.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
            ridged = (
                self.squares + torch.eye(self.squares.shape[1], dtype=torch.float64) * (ridge * scale)[:, None, None]
            )
            factor, failed = torch.linalg.cholesky_ex(ridged)
            weight = weight + torch.cholesky_solve(self.products, factor)
            weight = torch.where((failed > 0)[:, None, None], torch.nan, weight)
        return weight, (self.means[1] - self.means[0] @ weight)[:, 0]
