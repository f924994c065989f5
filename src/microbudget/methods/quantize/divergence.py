"""How far a model's answers are from the float model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...metrics import kl_divergence
from ...runtimes.onnx.graph import OnnxGraph, attribute, is_standard
from ...runtimes.onnx.interface import INDEPENDENT, LOGITS, PROBABILITIES, SMALLEST, scale_of
from .calibration import Calibration, broken_tensor, finite, watch

Floats = NDArray[np.float64]

NEAREST = 2.0**-24  # to 0 and to 1, of a sigmoid's float32


def bernoulli_kl(p: NDArray[Any], q: NDArray[Any]) -> Floats:
    """The divergence in nats of independent yes-or-no answers, summed: (examples, ..., labels) -> (examples, ...)"""
    P, Q = (np.clip(np.asarray(value, np.float64), NEAREST, 1 - NEAREST) for value in (p, q))
    return np.asarray((P * np.log(P / Q) + (1 - P) * np.log((1 - P) / (1 - Q))).sum(axis=-1))


@dataclass(frozen=True)
class Answers:
    """What the numbers of a model's first output are."""

    scale: str  # LOGITS, PROBABILITIES or INDEPENDENT
    axis: int = -1  # of the classes

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Answers:
        """As `scale_of` reads the first output; the axis of a Softmax is read through any Identity."""
        output = model.graph.output[0].name
        node = OnnxGraph(model.graph).producer(output, skipping=("Identity",))
        softmax = node is not None and is_standard(node) and node.op_type in ("Softmax", "LogSoftmax")
        return cls(scale_of(model, output), attribute(node, "axis", -1) if softmax else -1)

    def divergence(self, true: NDArray[Any], other: NDArray[Any]) -> Floats:
        """The KL divergence of every answer, in nats: (examples, ..., classes) -> (examples, ...)"""
        if self.scale == INDEPENDENT:
            return bernoulli_kl(true, other)
        true, other = (np.moveaxis(value, self.axis, -1) for value in (true, other))
        if self.scale == PROBABILITIES:
            true, other = (np.log(np.maximum(np.asarray(value, np.float64), SMALLEST)) for value in (true, other))
        return kl_divergence(true, other)

    def single(self, values: NDArray[Any]) -> bool:
        """Whether an answer is one number: a regression, or a single logit."""
        return self.scale == LOGITS and (values.ndim < 2 or values.shape[-1] == 1)


class _Normals:
    """Single numbers as normal distributions with the float answers' variance v: KL = (x - y)^2 / (2 v)."""

    def __init__(self, models: int) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.lost = [0.0] * models

    def add(self, true: NDArray[Any], others: list[NDArray[Any]]) -> None:
        x = np.asarray(true, np.float64)
        if not x.size:
            return
        total, difference = self.count + x.size, float(x.mean()) - self.mean
        self.squares += float(((x - x.mean()) ** 2).sum()) + difference**2 * self.count * x.size / total
        self.mean, self.count = self.mean + difference * x.size / total, total
        for i, other in enumerate(others):
            self.lost[i] += float(((np.asarray(other, np.float64) - x) ** 2).sum())

    def means(self) -> list[float]:
        """The mean KL of each model. Where the float answers never change, their squared mean replaces the variance."""
        spread = self.squares or self.mean**2 * self.count or 1.0
        return [lost / (2 * spread) for lost in self.lost]


def mean_kl(
    float_model: onnx.ModelProto,
    models: list[onnx.ModelProto],
    calibration: Calibration,
    *,
    threads: int = 0,
    fused: bool = False,
) -> list[float]:
    """The mean KL divergence of each model's first output from the float model's, in nats per answer.

    The output of a Softmax is taken as probabilities over its axis, that of a Sigmoid as one yes-or-no answer for each
    number, and any other as logits over the last axis, a regression's several numbers too. Where that axis has one
    number, two normal distributions are compared that have the variance of the float answers.
    fused: with the runtime's integer kernels, else as the Q/DQ nodes are written. Raises BrokenModel when the float
    model's answers are NaN or infinite, and names the tensor where that begins.
    """
    totals, counts = [0.0] * len(models), [0] * len(models)
    answers, normals = Answers.of(float_model), _Normals(len(models))

    def see(_: int, values: list[NDArray[Any]]) -> None:
        if not finite(values[0]):
            name = broken_tensor(float_model, calibration, threads)
            raise BrokenModel(
                f"tensor {name!r} is NaN or infinite on calibration data, and with it the float model's answers: is the"
                " model or an input broken?"
            )
        if answers.single(values[0]):
            normals.add(values[0], values[1:])
        else:
            for i, value in enumerate(values[1:]):
                kl = answers.divergence(values[0], value)
                totals[i] += float(kl.sum())
                counts[i] += kl.size

    named = [(model, [model.graph.output[0].name]) for model in (float_model, *models)]
    watch(named, calibration, see, threads=threads, fused=fused)
    if normals.count:
        return normals.means()
    return [total / max(count, 1) for total, count in zip(totals, counts, strict=True)]
