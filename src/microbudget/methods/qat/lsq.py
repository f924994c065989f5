"""Fake quantization with a learnable scale: LSQ, Esser et al. 2020 (arXiv:1902.08153), equations 1 to 3.

    y = s * (clamp(round(v / s) + Z, low, high) - Z)

Rounding is half to even, as in the runtimes. Backwards it passes as if it were not there, inside the range:

    dy/dv = 1 inside, 0 outside
    dy/ds = round(v / s) - v / s inside, low - Z below, high - Z above

and the gradient of a scale is divided by sqrt(numbers * (high - Z)), as there are as many contributions to it. The
scale is kept as its logarithm: a step of the optimizer then changes it by a share of itself, and it stays above zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter


class Lsq(torch.autograd.Function):
    """The function and its gradients."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, ends: tuple[int, int], factor: float) -> Tensor:
        """v: any shape. s: broadcasts to it. ends: low - Z and high - Z. factor: on the gradient of s."""
        u = v / s
        q = u.round().clamp_(*ends)
        ctx.save_for_backward(u, q, s)
        ctx.ends, ctx.factor = ends, factor
        return q * s

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Of v and s; none of the rest."""
        (gradient,) = gradients
        u, q, s = ctx.saved_tensors
        low, high = ctx.ends
        inside = (u >= low) & (u <= high)
        of_v = gradient * inside if ctx.needs_input_grad[0] else None
        of_s = None
        if ctx.needs_input_grad[1]:
            change = torch.where(inside, q - u, q).mul_(gradient)
            of_s = change.sum_to_size(s.shape) * ctx.factor
        return of_v, of_s, None, None


class FakeQuantize(Module):
    """Rounds a tensor with a scale that learns and a zero point that stays.

    scale: () of an activation, or of weights (outputs, 1, ...). low, high, zero: integers.
    """

    log_scale: Tensor

    def __init__(self, scale: Tensor, low: int, high: int, zero: int = 0) -> None:
        super().__init__()
        self.log_scale = Parameter(scale.double().log().float())
        self.ends = (low - zero, high - zero)

    @property
    def scale(self) -> Tensor:
        """Of a step."""
        return self.log_scale.exp()

    def forward(self, v: Tensor) -> Tensor:
        """v: any shape, a batch of activations or weights."""
        numbers = v.numel() / self.log_scale.numel()
        factor = (numbers * max(self.ends[1], 1)) ** -0.5
        result: Tensor = Lsq.apply(v, self.scale, self.ends, factor)  # type: ignore[no-untyped-call]
        return result

    def integers(self, v: Tensor) -> Tensor:
        """What `forward` multiplies with the scale."""
        return (v / self.scale).round().clamp(*self.ends)


class BiasRounding(Module):
    """Rounds a bias as it is stored: in units of its weights' scales times its input's, which learn nothing from it."""

    def __init__(self, weights: FakeQuantize, inputs: FakeQuantize) -> None:
        super().__init__()
        self._roundings = (weights, inputs)  # in a tuple: they are no parts of this module

    @property
    def scale(self) -> Tensor:
        """(outputs,), float64."""
        weights, inputs = self._roundings
        return weights.scale.detach().double().reshape(-1) * inputs.scale.detach().double()

    def forward(self, b: Tensor) -> Tensor:
        """b: (outputs,). The gradient passes as if nothing was rounded."""
        rounded = ((b.detach().double() / self.scale).round() * self.scale).float()
        return b + (rounded - b.detach())
