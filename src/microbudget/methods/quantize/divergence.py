"""How far a model's answers are from the float model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .activations import Calibration, watch


def kl_divergence(logits: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """KL(softmax(logits) || softmax(other)) in nats, for every example. (examples, ..., classes) -> (examples, ...)"""
    p, q = _log_softmax(logits), _log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def mean_kl(
    float_model: onnx.ModelProto,
    models: list[onnx.ModelProto],
    calibration: Calibration,
    *,
    threads: int = 0,
    fused: bool = False,
) -> list[float]:
    """The mean KL divergence of each model's first output from the float model's, in nats per answer.

    fused: with the runtime's integer kernels, else as the Q/DQ nodes are written.
    """
    totals, counts = [0.0] * len(models), [0] * len(models)

    def see(_: int, values: list[NDArray[Any]]) -> None:
        for i, value in enumerate(values[1:]):
            kl = kl_divergence(values[0], value)
            totals[i] += float(kl.sum())
            counts[i] += kl.size

    named = [(model, [model.graph.output[0].name]) for model in (float_model, *models)]
    watch(named, calibration, see, threads=threads, fused=fused)
    return [total / max(count, 1) for total, count in zip(totals, counts, strict=True)]
