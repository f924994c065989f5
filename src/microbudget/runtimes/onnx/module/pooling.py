"""Operators that reduce: pools over windows, means and sums over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .shaping import padded
from .step import Operator, Step, Value, axes_of

MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def pads_of(step: Step, kernel: tuple[int, ...], space: tuple[int, ...]) -> list[tuple[int, int]]:
    """What is put before and after each axis of space (`space`: their sizes) before a kernel moves over it."""
    n = len(kernel)
    strides, dilations = step.get("strides", (1,) * n), step.get("dilations", (1,) * n)
    mode = step.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(space, kernel, strides, dilations, strict=True)
        ]
        halves = [(t // 2, t - t // 2) for t in total]
        return halves if mode == "SAME_UPPER" else [(after, before) for before, after in halves]
    pads = step.get("pads", (0,) * 2 * n) if mode != "VALID" else (0,) * 2 * n
    return list(zip(pads[:n], pads[n:], strict=True))


def _window(step: Step, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]], bool]:
    """Kernel, strides, pads, and whether torch's own padding can have them."""
    kernel = tuple(step.get("kernel_shape"))
    pads = pads_of(step, kernel, tuple(x.shape[2:]))
    own = all(a == b and 2 * a <= k for (a, b), k in zip(pads, kernel, strict=True))
    return kernel, tuple(step.get("strides", (1,) * len(kernel))), pads, own


def _max_pool(step: Step, x: Tensor) -> Tensor:
    kernel, strides, pads, own = _window(step, x)
    if not own:
        x = padded(x, [(0, 0), (0, 0), *pads], fill=float("-inf"))
    dilations, ceil = tuple(step.get("dilations", (1,) * len(kernel))), bool(step.get("ceil_mode", 0))
    inside = tuple(before if own else 0 for before, _ in pads)
    result: Tensor = MAX_POOLS[len(kernel)](x, kernel, strides, inside, dilations, ceil)
    return result


def _average_pool(step: Step, x: Tensor) -> Tensor:
    kernel, strides, pads, own = _window(step, x)
    if any(each != 1 for each in step.get("dilations", ())):
        raise NotImplementedError("with dilations")
    pool, ceil = AVERAGE_POOLS[len(kernel)], bool(step.get("ceil_mode", 0))
    counted = bool(step.get("count_include_pad", 0))
    if own:
        inside = tuple(before for before, _ in pads)
        result: Tensor = pool(x, kernel, strides, inside, ceil_mode=ceil, count_include_pad=counted)
        return result
    widths = [(0, 0), (0, 0), *pads]
    sums: Tensor = pool(padded(x, widths), kernel, strides, 0, ceil_mode=ceil)
    if counted:
        return sums
    inside_share: Tensor = pool(padded(torch.ones_like(x[:1, :1]), widths), kernel, strides, 0, ceil_mode=ceil)
    return sums / inside_share


def _global(function: Callable[..., Tensor]) -> Operator:
    def operator(_: Step, x: Tensor) -> Tensor:
        return function(x, dim=tuple(range(2, x.ndim)), keepdim=True)

    return operator


def _reduction(function: Callable[..., Tensor]) -> Operator:
    def operator(step: Step, x: Tensor, axes: Value = None) -> Tensor:
        places = axes_of(step, axes)
        if not places:
            if step.get("noop_with_empty_axes", 0):
                return x
            places = list(range(x.ndim))
        return function(x, dim=tuple(places), keepdim=bool(step.get("keepdims", 1)))

    return operator


def _product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for place in sorted((place % x.ndim for place in dim), reverse=True):
        x = x.prod(dim=place, keepdim=keepdim)
    return x


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "MaxPool": _max_pool,
    "ReduceL1": _reduction(lambda x, dim, keepdim: x.abs().sum(dim, keepdim)),
    "ReduceL2": _reduction(lambda x, dim, keepdim: x.square().sum(dim, keepdim).sqrt()),
    "ReduceLogSum": _reduction(lambda x, dim, keepdim: x.sum(dim, keepdim).log()),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(torch.sum),
    "ReduceSumSquare": _reduction(lambda x, dim, keepdim: x.square().sum(dim, keepdim)),
}
