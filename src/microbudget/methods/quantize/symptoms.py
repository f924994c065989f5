"""Symptoms of a layer that quantizes badly: numbers of its weights and inputs from which the cause follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .graph import Graph, Layer
from .moments import Moments, output_error
from .plan import Plan

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Symptoms:
    """What the likeliest cause of a layer's error is found from."""

    channel_outlier: float  # the input's largest channel over its median channel
    weight_outlier: float  # the largest weight over the root mean square, of the worst output
    rows_per_column: float | None  # rows of the input that the data hold over its length; None where none are needed
    depthwise_error: float = 0.0  # of a depthwise layer: what the one scale of its input costs the median channel


def symptoms(W: Array, moments: Moments | None, depthwise_step: float, *, fitted: bool) -> Symptoms:
    """Of weights W, (groups, outputs, K), and the moments of the layer's input, if they are known.

    depthwise_step: see there. fitted: the integers were fitted to the rows seen, which should then be many.
    """
    rms = np.sqrt(np.mean(W**2, axis=-1))
    weight_outlier = float(np.max(np.abs(W).max(axis=-1) / np.where(rms > 0, rms, 1.0)))
    if moments is None:
        return Symptoms(1.0, weight_outlier, None)
    power = np.sqrt(moments.variance + moments.mean**2).ravel()
    middle = float(np.median(power[power > 0])) if power.any() else 1.0
    rows = moments.available / W.shape[2] if fitted else None
    return Symptoms(float(power.max() / middle), weight_outlier, rows, depthwise_error(W, moments, depthwise_step))


def depthwise_step(graph: Graph, plan: Plan, layer: Layer) -> float:
    """The step of a static depthwise layer's input, 0 for other layers."""
    m = plan.activations.get(layer.input)
    depthwise = layer.op == "Conv" and layer.groups > 1 and graph.constants[layer.weight].shape[1] == 1
    return m.S if m is not None and depthwise and plan.schemes[layer.name] == "static" else 0.0


def depthwise_error(W: Array, moments: Moments, step: float) -> float:
    """The median over the outputs of lost power over power, where the input is rounded to steps of this size.

    Every channel is computed separately: what a small one loses by the scale that a large one needs, no other makes up
    for.
    """
    power = output_error(np.zeros_like(W), W, moments.own)
    noise = step**2 / 12 * np.einsum("gok,gok->go", W, W)
    alive = power > 0
    return float(np.median(noise[alive] / power[alive])) if step and alive.any() else 0.0
