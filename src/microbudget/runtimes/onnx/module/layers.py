"""Layers: the nodes whose weights are constants of the file become torch's own modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module, Parameter

from .pooling import pads_of
from .shaping import padded
from .step import Step

CONVOLUTIONS: dict[int, Any] = {
    3: torch.nn.Conv1d,
    4: torch.nn.Conv2d,
    5: torch.nn.Conv3d,
}  # by the weight's dimensions
Arrays = dict[str, NDArray[Any]]
NORM = "norm"  # the batch norm of a convolution that was given one again


class BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """Over the channels of a tensor of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any will do."""


@dataclass(frozen=True)
class Part:
    """A tensor of a layer: its name there, the constant that it is, and whether it is that transposed."""

    leaf: str
    constant: str
    transposed: bool = False


@dataclass(frozen=True)
class LayerForm:
    """A layer before it is made: what it is, and which constants it holds."""

    module: str  # conv, linear or norm
    parts: tuple[Part, ...]

    @property
    def weight(self) -> Part:
        """The part that the layer is named after."""
        return self.parts[0]


def form_of(step: Step, constants: Arrays) -> LayerForm | None:
    """What layer a node is; None where its weights are computed, or its form is none of torch's."""
    form = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, "BatchNormalization": _norm}.get(step.op)
    if form is None or step.domain or step.inputs[0] in constants:
        return None
    found = form(step, constants)
    floats = found is not None and all(constants[part.constant].dtype == np.float32 for part in found.parts)
    return found if floats else None


def _given(step: Step, place: int) -> str:
    return step.inputs[place] if len(step.inputs) > place else ""


def _conv(step: Step, constants: Arrays) -> LayerForm | None:
    weight, bias = step.inputs[1], _given(step, 2)
    if weight not in constants or constants[weight].ndim not in CONVOLUTIONS or (bias and bias not in constants):
        return None
    return LayerForm("conv", (Part("weight", weight), *([Part("bias", bias)] if bias else [])))


def _gemm(step: Step, constants: Arrays) -> LayerForm | None:
    weight, bias = step.inputs[1], _given(step, 2)
    plain = not step.get("transA", 0) and step.get("alpha", 1.0) == step.get("beta", 1.0) == 1.0
    if not plain or weight not in constants or (bias and bias not in constants):
        return None
    transposed = not step.get("transB", 0)
    outputs = constants[weight].shape[1 if transposed else 0]
    if bias and (constants[bias].size != outputs or constants[bias].shape[-1:] != (outputs,)):
        return None
    return LayerForm("linear", (Part("weight", weight, transposed), *([Part("bias", bias)] if bias else [])))


def _matmul(step: Step, constants: Arrays) -> LayerForm | None:
    weight = constants.get(step.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    return LayerForm("linear", (Part("weight", step.inputs[1], transposed=True),))


def _norm(step: Step, constants: Arrays) -> LayerForm | None:
    names = step.inputs[1:5]
    if not all(name in constants for name in names) or step.get("training_mode", 0):
        return None
    leaves = ("weight", "bias", "running_mean", "running_var")
    return LayerForm("norm", tuple(Part(leaf, name) for leaf, name in zip(leaves, names, strict=True)))


def module_of(form: LayerForm, step: Step, constants: Arrays) -> Module:
    """The module, without its values, which are put into it afterwards."""
    made: Any = torch.nn.utils.skip_init
    weight = constants[form.weight.constant]
    has_bias = len(form.parts) == 2
    if form.module == "norm":
        return BatchNorm(len(weight), eps=step.get("epsilon", 1e-5))
    if form.module == "linear":
        outputs, inputs = weight.shape[::-1] if form.weight.transposed else weight.shape
        linear: Module = made(torch.nn.Linear, inputs, outputs, bias=has_bias)
        return linear
    groups, n = step.get("group", 1), weight.ndim - 2
    convolution: Module = made(
        CONVOLUTIONS[weight.ndim],
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride=step.get("strides", (1,) * n),
        padding=_own_padding(step, weight.shape[2:]) or 0,
        dilation=step.get("dilations", (1,) * n),
        groups=groups,
        bias=has_bias,
    )
    return convolution


def _own_padding(step: Step, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    """The padding that torch's module does itself: the same before and after each axis."""
    if step.get("auto_pad", "NOTSET").startswith("SAME"):
        return None
    pads = pads_of(step, kernel, ())
    return tuple(before for before, _ in pads) if all(before == after >= 0 for before, after in pads) else None


def run_layer(module: Module, step: Step, x: Tensor) -> Tensor:
    """The layer's output; what torch's convolution cannot pad is padded before."""
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        kernel = tuple(module.kernel_size)
        if _own_padding(step, kernel) is None:
            x = padded(x, [(0, 0), (0, 0), *pads_of(step, kernel, tuple(x.shape[2:]))])
    result: Tensor = module(x)
    norm = module._modules.get(NORM)
    return result if norm is None else norm(result)


def put(module: Module, part: Part, tensor: Tensor) -> None:
    """Give a layer one of its tensors: a Parameter, or a statistic."""
    if isinstance(tensor, Parameter):
        setattr(module, part.leaf, tensor)
    else:
        module.register_buffer(part.leaf, tensor)
