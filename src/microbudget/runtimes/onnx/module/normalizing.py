"""Operators that normalize, and matrix products and convolutions whose weights are no submodule's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .pooling import pads_of
from .shaping import padded
from .step import Operator, Step, Value, number, tensor

CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d,
}  # fmt: skip


def _layer_norm(step: Step, x: Tensor, scale: Value, bias: Value = None) -> Tensor:
    shape = tuple(x.shape[step.get("axis", -1) :])
    weight, shift = tensor(scale), None if bias is None else tensor(bias)
    if tuple(weight.shape) != shape:
        weight = weight.expand(shape)
    return functional.layer_norm(x, shape, weight, shift, step.get("epsilon", 1e-5))


def _rms_norm(step: Step, x: Tensor, scale: Value) -> Tensor:
    axes = tuple(range(step.get("axis", -1) % x.ndim, x.ndim))
    mean = x.square().mean(dim=axes, keepdim=True)
    normal: Tensor = x * torch.rsqrt(mean + step.get("epsilon", 1e-5)) * number(scale, x)
    return normal


def _instance_norm(step: Step, x: Tensor, scale: Value, bias: Value) -> Tensor:
    return functional.instance_norm(x, weight=tensor(scale), bias=tensor(bias), eps=step.get("epsilon", 1e-5))


def _group_norm(step: Step, x: Tensor, scale: Value, bias: Value) -> Tensor:
    """The scales are one for each group in opset 18, and one for each channel from 21 on."""
    groups, weight, shift = step.get("num_groups"), tensor(scale), tensor(bias)
    if len(weight) != x.shape[1]:
        weight, shift = (each.repeat_interleave(x.shape[1] // groups) for each in (weight, shift))
    return functional.group_norm(x, groups, weight, shift, step.get("epsilon", 1e-5))


def _batch_norm(step: Step, x: Tensor, *parts: Value) -> Tensor:
    """With statistics that are no constants of the file."""
    if step.get("training_mode", 0):
        raise NotImplementedError("with the statistics of the batch")
    scale, bias, mean, variance = (tensor(part) for part in parts)
    return functional.batch_norm(x, mean, variance, scale, bias, eps=step.get("epsilon", 1e-5))


def _local_response(step: Step, x: Tensor) -> Tensor:
    """Over channels from (size - 1) / 2 before, rounded down, to as many after, rounded up."""
    size = step.get("size")
    before = (size - 1) // 2
    squares = padded(x.square(), [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares.narrow(1, place, x.shape[1]) for place in range(size))
    base: Any = step.get("bias", 1.0) + step.get("alpha", 1e-4) / size * total
    result: Tensor = x / base ** step.get("beta", 0.75)
    return result


def _mean_variance(step: Step, x: Tensor) -> Tensor:
    axes = tuple(step.get("axes", (0, 2, 3)))
    mean = x.mean(dim=axes, keepdim=True)
    spread = ((x * x).mean(dim=axes, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (spread + 1e-9)


def _lp_norm(step: Step, x: Tensor) -> Tensor:
    return functional.normalize(x, p=step.get("p", 2), dim=step.get("axis", -1))


def _matmul(_: Step, a: Value, b: Value) -> Tensor:
    return torch.matmul(tensor(a), tensor(b))


def _gemm(step: Step, a: Value, b: Value, c: Value = None) -> Tensor:
    left, right = tensor(a), tensor(b)
    left = left.T if step.get("transA", 0) else left
    right = right.T if step.get("transB", 0) else right
    product: Tensor = step.get("alpha", 1.0) * (left @ right)
    return product if c is None else product + step.get("beta", 1.0) * tensor(c)


def _conv(step: Step, x: Tensor, weight: Value, bias: Value = None) -> Tensor:
    kernel = tensor(weight)
    n = kernel.ndim - 2
    x = padded(x, [(0, 0), (0, 0), *pads_of(step, tuple(kernel.shape[2:]), tuple(x.shape[2:]))])
    strides, dilations = step.get("strides", (1,) * n), step.get("dilations", (1,) * n)
    shift = None if bias is None else tensor(bias)
    result: Tensor = CONVOLUTIONS[n](x, kernel, shift, strides, 0, dilations, x.shape[1] // kernel.shape[1])
    return result


def _conv_transpose(step: Step, x: Tensor, weight: Value, bias: Value = None) -> Tensor:
    kernel = tensor(weight)
    n = kernel.ndim - 2
    if step.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in step.attributes:
        raise NotImplementedError("its padding follows from its output's shape")
    pads = step.get("pads", (0,) * 2 * n)
    strides, dilations = step.get("strides", (1,) * n), step.get("dilations", (1,) * n)
    more = step.get("output_padding", (0,) * n)
    shift = None if bias is None else tensor(bias)
    whole: Tensor = TRANSPOSED[n](x, kernel, shift, strides, 0, more, step.get("group", 1), dilations)
    cut = [(-before, -after) for before, after in zip(pads[:n], pads[n:], strict=True)]
    return padded(whole, [(0, 0), (0, 0), *cut])


def _einsum(step: Step, *values: Value) -> Tensor:
    return torch.einsum(step.get("equation"), *(tensor(value) for value in values))


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
}
