"""Round the layers one stage after another, each for the input that the quantized model before it really gives it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...machine.journal import Journal
from ...progress import SILENT, Progress
from . import rounded_stage
from .bias import corrected_bias
from .calibration import Samples
from .corrections import need_data
from .graph import Graph, Layer
from .input_moments import input_moments
from .integer import scale_with_room
from .mapping import integer_range
from .moments import Moments, output_error
from .plan import Plan, WeightFormat, Weights
from .rounding import best_rounding, compensating_weights
from .scales import group_scales, least_squares_scale, min_max_scale, rounded
from .symptoms import Symptoms, depthwise_step, symptoms

STAGES = 16  # at most: each runs the float model and the quantized model up to its layers

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rounding:
    """How the weights of one layer were rounded, as seen at its output: lost variance over variance."""

    error_before: float  # round to nearest at min/max scales
    error: float
    symptoms: Symptoms


@dataclass(frozen=True)
class Steps:
    """The steps of a rounding: into how many stages layers are divided at most, where they are reported and kept."""

    stages: int = STAGES
    progress: Progress = SILENT
    journal: Journal | None = None  # has the stages that were rounded before a kill


ONCE = Steps()


def round_layers(
    graph: Graph,
    plan: Plan,
    formats: Mapping[str, WeightFormat],
    corrections: Collection[str],
    samples: Samples | None = None,
    steps: Steps = ONCE,
) -> dict[str, Rounding]:
    """Fill in `plan.weights` and `plan.biases` of the layers in `formats`. Returns how well that went, by layer.

    corrections: scales, gptq and bias, or some of them. samples: for gptq and bias. Raises BrokenModel where weights or
    inputs are NaN or infinite.
    """
    layers = [layer for layer in graph.layers if layer.name in formats]
    rounder, compensates = LayerRounder(graph, plan, corrections), "gptq" in corrections
    found: dict[str, Rounding] = {}

    def made(stage: Sequence[Layer]) -> dict[str, Rounding]:
        moments: dict[str, Moments] = {}
        if samples is not None and need_data(corrections):
            # without gptq the means are enough for the bias, and the squares for the report
            moments = input_moments(graph, plan, stage, samples, diagonal=not compensates)
        return {layer.name: rounder.round(layer, formats[layer.name], moments.pop(layer.name, None)) for layer in stage}

    divided = _stages(layers, steps.stages if compensates else 1)
    for number, stage in enumerate(steps.progress.track(divided, "rounding", None)):
        name = rounded_stage.key(number, formats)
        found |= made(stage) if steps.journal is None else _kept(steps.journal, name, plan, stage, made)
    return found


def _kept(
    journal: Journal,
    name: str,
    plan: Plan,
    stage: Sequence[Layer],
    make: Callable[[Sequence[Layer]], dict[str, Rounding]],
) -> dict[str, Rounding]:
    """The stage as the journal has it, else made now and kept."""
    if not journal.lasts:
        return make(stage)
    found: dict[str, Rounding] = {}

    def find() -> dict[str, Any]:
        found.update(make(stage))
        how = {layer: asdict(rounding) for layer, rounding in found.items()}
        return {"layers": rounded_stage.packed(plan, list(found)), "how": how}

    value = journal.value(name, find)
    if not found:
        rounded_stage.unpack(value["layers"], plan)
        for layer, how in value["how"].items():
            found[layer] = Rounding(how["error_before"], how["error"], Symptoms(**how["symptoms"]))
    return found


def _stages(layers: list[Layer], count: int) -> list[list[Layer]]:
    """Runs of layers, as even as can be; layers with one input stay together."""
    step = max(1, -(-len(layers) // count))
    stages: list[list[Layer]] = []
    for layer in layers:
        if stages and (len(stages[-1]) < step or stages[-1][-1].input == layer.input):
            stages[-1].append(layer)
        else:
            stages.append([layer])
    return stages


class LayerRounder:
    """Rounds single layers into a plan."""

    def __init__(self, graph: Graph, plan: Plan, corrections: Collection[str]) -> None:
        self.graph, self.plan, self.corrections = graph, plan, corrections

    def round(self, layer: Layer, form: WeightFormat, moments: Moments | None) -> Rounding:
        """Give the plan the layer's integers, scales and bias. moments: of its input, None where there are no samples.

        Raises BrokenModel where weights are NaN or infinite.
        """
        W = layer.matrix(self.graph.constants[layer.weight])
        if not np.isfinite(W).all():
            raise BrokenModel(f"the weights of {layer.name!r} hold NaN or infinity: did the training diverge?")
        H = None if moments is None else moments.own
        twin, target = self._twin(layer, form), W
        if twin is not None:
            self.plan.weights[layer.name] = self.plan.weights[twin.name]
        else:
            target, Q, S = self._integers(layer, W, H, moments, form)
            self.plan.weights[layer.name] = self._stored(layer, W, Q, S, form)
        W_q = real_matrix(layer, self.plan.weights[layer.name])
        self._set_bias(layer, W, W_q, moments if "bias" in self.corrections else None)
        fitted = "gptq" in self.corrections and not self.graph.shares_weights(layer)
        signs = symptoms(W, moments, depthwise_step(self.graph, self.plan, layer), fitted=fitted)
        return _compared(W, target, W_q, H, form.bits, signs)

    def _twin(self, layer: Layer, form: WeightFormat) -> Layer | None:
        """A rounded layer whose integers and scales serve this one too: of the same weights, with their outputs along
        the same axis, in the same kernel, and with scales at which this layer's own bias fits into int32.

        Layers that read shared weights otherwise are rounded separately, and the file holds the weights once for each.
        """
        plan = self.plan
        for other in self.graph.layers:
            known = plan.weights.get(other.name)
            if known is None or other.weight != layer.weight or other.outputs_axis != layer.outputs_axis:
                continue
            if plan.schemes[other.name] == plan.schemes[layer.name] and known.format == form:
                S = known.S.astype(np.float64)
                if form.group is not None or bool(np.all(self._needed_scale(layer, S) <= S)):
                    return other
        return None

    def _integers(
        self, layer: Layer, W: Array, H: Array | None, moments: Moments | None, form: WeightFormat
    ) -> tuple[Array, Array, Array]:
        """The weights aimed at, (groups, outputs, K), their integers, and the scales (groups, outputs)."""
        bits, group = form.bits, form.group
        shared = self.graph.shares_weights(layer)
        if H is not None and moments is not None and "gptq" in self.corrections and not shared:
            target = compensating_weights(W, H, moments.cross, moments.float_variance)
            return target, *best_rounding(target, H, bits, group=group, rounds=2 if bits <= 4 else 0)
        if group is not None:
            S = group_scales(W, bits, group)
            wide = np.repeat(S, group, axis=-1)[..., : W.shape[-1]]
            return W, np.clip(np.rint(W / wide), *integer_range(bits)), S
        S = least_squares_scale(W, bits) if "scales" in self.corrections else min_max_scale(W, bits)
        return W, rounded(W, S, bits), S

    def _stored(self, layer: Layer, W: Array, Q: Array, S: Array, form: WeightFormat) -> Weights:
        """Integers and scales in the shapes of the file; coarser for outputs whose bias would not fit into int32 (dead
        channels that have a bias).
        """
        if form.group is None:
            room = self._needed_scale(layer, S)
            Q, S = np.where((room > S)[..., None], rounded(W, room, form.bits), Q), np.maximum(S, room)
        q = layer.shaped(Q.astype(np.int8), self.graph.constants[layer.weight].shape)
        S = S.reshape(-1) if form.group is None else S.reshape(-1, S.shape[-1])
        return Weights(q, S.astype(np.float32), form.bits, form.group)

    def _needed_scale(self, layer: Layer, S: Array) -> Array:
        """S, enlarged where the layer's bias, as int32, needs it. As S, any shape with one scale for each output."""
        b = self._bias(layer)
        if self.plan.schemes[layer.name] != "static" or b is None:
            return S
        S_x = self.plan.activations[layer.input].S
        return scale_with_room(S.reshape(-1).astype(np.float32), S_x, 2 * b).reshape(S.shape).astype(np.float64)

    def _set_bias(self, layer: Layer, W: Array, W_q: Array, moments: Moments | None) -> None:
        """Correct the bias where there are moments and a place for it; a Conv or Gemm without a bias gets one."""
        b = self._bias(layer)
        if moments is not None and (b is not None or layer.op != "MatMul"):
            before = np.zeros(W.shape[:2]) if b is None else b.reshape(W.shape[:2])
            b = _corrected(before, W, W_q, moments).reshape(-1)
        if b is not None:
            self.plan.biases[layer.name] = b.astype(np.float32)

    def _bias(self, layer: Layer) -> Array | None:
        return None if layer.bias is None else self.graph.constants[layer.bias].astype(np.float64).reshape(-1)


def real_matrix(layer: Layer, weights: Weights) -> Array:
    """The real weights of these integers, (groups, outputs / groups, K)."""
    Q, S = layer.matrix(weights.q), weights.S.astype(np.float64)
    if weights.group is None:
        return Q * S.reshape(*Q.shape[:2], 1)
    return Q * np.repeat(S, weights.group, axis=1)[:, : Q.shape[2]]


def _corrected(b: Array, W: Array, W_q: Array, moments: Moments) -> Array:
    """`corrected_bias`, group by group: (groups, outputs)."""
    means = zip(moments.float_mean, moments.mean, strict=True)
    return np.stack([corrected_bias(b[g], W[g], W_q[g], x, y) for g, (x, y) in enumerate(means)])


def _compared(W: Array, target: Array, W_q: Array, H: Array | None, bits: int, signs: Symptoms) -> Rounding:
    """The errors of the rounded weights W_q, against those of rounding to nearest at min/max scales."""
    S = min_max_scale(W, bits)
    power = float(output_error(np.zeros_like(W), W, H).sum()) or 1.0
    before = float(output_error(W, rounded(W, S, bits) * S[..., None], H).sum())
    after = float(output_error(target, W_q, H).sum())
    return Rounding(before / power, after / power, signs)
