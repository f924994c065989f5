"""Operators that compute each number by itself, or from the numbers in its place in other tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from .step import Operator, Step, Value, number, tensor

TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float32,  # as everything here is computed
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
SIXTH = 1 / 6


def _one(function: Callable[[Tensor], Tensor]) -> Operator:
    def operator(_: Step, x: Tensor) -> Tensor:
        return function(x)

    return operator


def _two(function: Callable[[Any, Any], Any]) -> Operator:
    def operator(_: Step, a: Value, b: Value) -> Any:
        like = a if isinstance(a, Tensor) else tensor(b)
        a, b = number(a, like), number(b, like)
        if not isinstance(a, Tensor):  # torch's functions want a tensor first
            a = torch.as_tensor(a, dtype=like.dtype, device=like.device)
        return function(a, b)

    return operator


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(_: Step, *values: Value) -> Tensor:
        return reduce(function, [tensor(value) for value in values])

    return operator


def _div(a: Tensor, b: Any) -> Tensor:
    if a.dtype.is_floating_point or (isinstance(b, Tensor) and b.dtype.is_floating_point):
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def _mean(_: Step, *values: Value) -> Tensor:
    return reduce(torch.add, [tensor(value) for value in values]) / len(values)


def _clip(step: Step, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    ends: list[Any] = [number(end, x) for end in (low, high)]
    if "min" in step.attributes or "max" in step.attributes:
        ends = [step.get("min"), step.get("max")]
    if ends == [None, None]:
        return x
    return torch.clamp(x, ends[0], ends[1])


def _cast(step: Step, x: Tensor) -> Tensor:
    return x.to(TYPES[step.get("to")])


def _hard_sigmoid(step: Step, x: Tensor) -> Tensor:
    alpha, beta = step.get("alpha", 0.2), step.get("beta", 0.5)
    if abs(alpha - SIXTH) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _prelu(_: Step, x: Tensor, slope: Value) -> Tensor:
    return torch.where(x >= 0, x, x * number(slope, x))


def _gelu(step: Step, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=step.get("approximate", "none"))


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def operator(step: Step, x: Tensor) -> Tensor:
        if step.opset >= 13:
            return function(x, dim=step.get("axis", -1))
        axis = step.get("axis", 1) % x.ndim  # all axes from this one on are one
        return function(x.flatten(axis), dim=axis).reshape(x.shape)

    return operator


def _where(_: Step, condition: Value, a: Value, b: Value) -> Tensor:
    return torch.where(tensor(condition).bool(), tensor(a), tensor(b))


def _dropout(step: Step, x: Tensor, *_: Value) -> Any:
    """As when it serves; a mask, where one is asked for, is all true."""
    return x if len(step.outputs) == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def _shrunk(step: Step, x: Tensor) -> Tensor:
    return torch.where(x > step.get("alpha", 1.0), x, torch.zeros((), dtype=x.dtype))


def _swish(step: Step, x: Tensor) -> Tensor:
    result: Tensor = x * torch.sigmoid(step.get("alpha", 1.0) * x)
    return result


def _pow(a: Tensor, b: Any) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _celu(step: Step, x: Tensor) -> Tensor:
    return functional.celu(x, step.get("alpha", 1.0))


def _selu(step: Step, x: Tensor) -> Tensor:
    alpha, gamma = step.get("alpha", 1.67326319217681884765625), step.get("gamma", 1.05070102214813232421875)
    result: Tensor = gamma * functional.elu(x, alpha)
    return result


OPERATORS: dict[str, Operator] = {
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "And": _two(torch.logical_and),
    "Cast": _cast,
    "CastLike": lambda _, x, like: x.to(tensor(like).dtype),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _one(torch.cos),
    "Div": _two(_div),
    "Dropout": _dropout,
    "Elu": lambda step, x: functional.elu(x, step.get("alpha", 1.0)),
    "Equal": _two(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Gelu": _gelu,
    "Greater": _two(torch.gt),
    "GreaterOrEqual": _two(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(functional.hardswish),
    "Identity": _one(lambda x: x),
    "LeakyRelu": lambda step, x: functional.leaky_relu(x, step.get("alpha", 0.01)),
    "Less": _two(torch.lt),
    "LessOrEqual": _two(torch.le),
    "Log": _one(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _many(torch.maximum),
    "Mean": _mean,
    "Min": _many(torch.minimum),
    "Mish": _one(functional.mish),
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "Or": _two(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _two(_pow),
    "QuickGelu": lambda step, x: x * torch.sigmoid(step.get("alpha", 1.702) * x),
    "Reciprocal": _one(torch.reciprocal),
    "Relu": _one(torch.relu),
    "Selu": _selu,
    "Sigmoid": _one(torch.sigmoid),
    "Sin": _one(torch.sin),
    "Softmax": _softmax(torch.softmax),
    "Softplus": _one(functional.softplus),
    "Softsign": _one(functional.softsign),
    "Sqrt": _one(torch.sqrt),
    "Sub": _two(torch.sub),
    "Sum": _many(torch.add),
    "Swish": _swish,
    "Tanh": _one(torch.tanh),
    "ThresholdedRelu": _shrunk,
    "Where": _where,
    "Xor": _two(torch.logical_xor),
}
