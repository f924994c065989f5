"""Round the layers one stage after another, each against what the quantized model before it really gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...progress import SILENT, Progress
from ...runtimes.onnx.graph import captured
from .activations import Calibration, finite, watch
from .bias import corrected_bias
from .graph import Graph, Layer
from .integer import scale_with_room
from .layer_report import Symptoms
from .mapping import integer_range
from .moments import Moments, output_error
from .plan import Plan, Weights
from .ranges import input_rows, row_count
from .rounding import best_rounding, compensating_weights
from .scales import group_scales, least_squares_scale, min_max_scale, rounded
from .write import write

STAGES = 16  # at most: each runs the float model and the quantized model up to its layers
ROWS_PER_COLUMN, FEWEST_ROWS, MOST_ROWS = 24, 8192, 60_000
ROWS_FOR_MEANS = 4096
ENOUGH_PER_COLUMN = 256  # a depthwise kernel of 9 weights needs no 8192 rows of every channel
ROWS_AT_ONCE_BYTES = 8 * 2**20

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rounding:
    """How the weights of one layer were rounded, as seen at its output: lost variance over variance."""

    error_before: float  # round to nearest at min/max scales
    error: float
    symptoms: Symptoms


def round_layers(
    graph: Graph,
    plan: Plan,
    bits: dict[str, int],
    groups: dict[str, int],
    calibration: Calibration,
    examples: int,
    repair: Sequence[str],
    *,
    stages: int = STAGES,
    threads: int = 0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Rounding]:
    """Fill in `plan.weights` and `plan.biases` of the layers in `bits`; `repair` may name scales, gptq and bias."""
    layers = [layer for layer in graph.layers if layer.name in bits]
    reports: dict[str, Rounding] = {}
    wants_data = bool({"gptq", "bias"} & set(repair))
    for stage in progress.track(list(_stages(layers, stages if "gptq" in repair else 1)), "rounding", None):
        diagonal = "gptq" not in repair  # the means are enough for the bias, and the squares for the report
        moments = _moments(graph, plan, stage, calibration, examples, threads, seed, diagonal) if wants_data else {}
        for layer in stage:
            reports[layer.name] = _round(
                graph, plan, layer, bits[layer.name], moments.pop(layer.name, None), repair, groups.get(layer.name)
            )
    return reports


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


def _moments(
    graph: Graph,
    plan: Plan,
    stage: list[Layer],
    calibration: Calibration,
    examples: int,
    threads: int,
    seed: int,
    diagonal: bool,
) -> dict[str, Moments]:
    models = [(graph.model, [layer.input for layer in stage])]
    if plan.weights:  # before the first rounded layer, both models are one
        current = write(graph, plan.with_real_activations())
        inputs = {node.name: node.input[0] for node in current.graph.node}
        models.append((current, [inputs[layer.name] for layer in stage]))
    matrices = [layer.matrix(graph.constants[layer.weight]).shape for layer in stage]
    found = [Moments(groups, K, diagonal=diagonal) for groups, _, K in matrices]
    repairing = repairers(graph, stage)

    def see(place: int, values: list[NDArray[Any]]) -> None:
        for value, whose in zip(values, ("", " of the quantized model"), strict=False):
            if not finite(value):
                raise BrokenModel(
                    f"tensor {stage[place].input!r}{whose} is NaN or infinite on calibration data: is the model or an"
                    " input broken?"
                )
        groups, _, K = matrices[place]
        wanted = ROWS_FOR_MEANS if diagonal else _rows(K)
        limit = max(1, min(-(-wanted * len(values[0]) // examples), ROWS_AT_ONCE_BYTES // (4 * groups * K)))
        where = (seed, place, found[place].rows)
        seen = values if stage[place].name in repairing else values[:1]
        rows = [input_rows(graph, stage[place], v, limit, np.random.default_rng(where)) for v in seen]
        found[place].update(rows[0], rows[-1])
        found[place].available += row_count(graph, stage[place], values[0])

    watch(models, calibration, see, threads=threads)
    return {layer.name: one for layer, one in zip(stage, found, strict=True)}


def repairers(graph: Graph, stage: Sequence[Layer]) -> set[str]:
    """The layers of a stage that may repair what came before it: those that no other layer of the stage leads to.

    The inputs of all were seen with none of them repaired: if one behind another repaired the same error once more, the
    stage would overshoot, the next one still further, and a network of fifty layers would end in ruin.
    """
    own, leading = {layer.name for layer in stage}, {layer.name: set[str]() for layer in stage}
    behind: dict[str, set[str]] = {}  # tensor -> layers of the stage that it depends on
    for node in graph.nodes:
        met = set().union(*(behind.get(name, set()) for name in (*node.input, *captured(node))))
        if node.name in own:
            leading[node.name] = met
            met = met | {node.name}
        behind.update({name: met for name in node.output if met})
    return {name for name, met in leading.items() if not met}


def _rows(K: int) -> int:
    """Rows of K values that are enough for their second moments."""
    return min(max(ROWS_PER_COLUMN * K, min(FEWEST_ROWS, ENOUGH_PER_COLUMN * K)), MOST_ROWS)


def _round(
    graph: Graph, plan: Plan, layer: Layer, bits: int, moments: Moments | None, repair: Sequence[str], group: int | None
) -> Rounding:
    W = layer.matrix(graph.constants[layer.weight])
    if not np.isfinite(W).all():
        raise BrokenModel(f"the weights of {layer.name!r} hold NaN or infinity: did the training diverge?")
    H = None if moments is None else moments.own
    twin = _twin(graph, plan, layer, bits, group)
    if twin is not None:
        plan.weights[layer.name] = plan.weights[twin.name]
        W_q = real_matrix(layer, plan.weights[twin.name])
        target = W
    else:
        target, Q, S = _integers(graph, layer, W, H, bits, moments, repair, group)
        if group is None:
            Q, S = _with_room(graph, plan, layer, W, Q, S, bits)
        q = layer.shaped(Q.astype(np.int8), graph.constants[layer.weight].shape)
        S = S.reshape(-1) if group is None else S.reshape(-1, S.shape[-1])
        plan.weights[layer.name] = Weights(q, S.astype(np.float32), bits, group)
        W_q = real_matrix(layer, plan.weights[layer.name])
    _set_bias(graph, plan, layer, W, W_q, moments if "bias" in repair else None)
    fitted = "gptq" in repair and not graph.shares_weights(layer)
    return _reported(W, target, W_q, H, bits, _symptoms(W, moments, _depthwise_step(graph, plan, layer), fitted))


def _twin(graph: Graph, plan: Plan, layer: Layer, bits: int, group: int | None) -> Layer | None:
    """A rounded layer whose integers and scales serve this one too: of the same weights, with their outputs along the
    same axis, in the same kernel, and with scales at which this layer's own bias fits into int32.

    Layers that read shared weights otherwise are rounded on their own, and the file holds the weights once for each.
    """
    for other in graph.layers:
        known = plan.weights.get(other.name)
        if known is None or other.weight != layer.weight or other.outputs_axis != layer.outputs_axis:
            continue
        if plan.schemes[other.name] == plan.schemes[layer.name] and (known.bits, known.group) == (bits, group):
            S = known.S.astype(np.float64)
            if group is not None or bool(np.all(_needed_scale(graph, plan, layer, S) <= S)):
                return other
    return None


def real_matrix(layer: Layer, weights: Weights) -> Array:
    """The weights that the integers stand for, (groups, outputs / groups, K)."""
    Q, S = layer.matrix(weights.q), weights.S.astype(np.float64)
    if weights.group is None:
        return Q * S.reshape(*Q.shape[:2], 1)
    return Q * np.repeat(S, weights.group, axis=1)[:, : Q.shape[2]]


def _integers(
    graph: Graph,
    layer: Layer,
    W: Array,
    H: Array | None,
    bits: int,
    moments: Moments | None,
    repair: Sequence[str],
    group: int | None,
) -> tuple[Array, Array, Array]:
    """The weights aimed at, (groups, outputs, K), their integers, and the scales (groups, outputs)."""
    if H is not None and moments is not None and "gptq" in repair and not graph.shares_weights(layer):
        target = compensating_weights(W, H, moments.cross, moments.float_variance)
        return target, *best_rounding(target, H, bits, group=group, rounds=2 if bits <= 4 else 0)
    if group is not None:
        S = group_scales(W, bits, group)
        wide = np.repeat(S, group, axis=-1)[..., : W.shape[-1]]
        return W, np.clip(np.rint(W / wide), *integer_range(bits)), S
    S = least_squares_scale(W, bits) if "scales" in repair else min_max_scale(W, bits)
    return W, rounded(W, S, bits), S


def _with_room(graph: Graph, plan: Plan, layer: Layer, W: Array, Q: Array, S: Array, bits: int) -> tuple[Array, Array]:
    """Q and S, coarser for outputs whose bias would not fit into int32 (dead channels that have a bias)."""
    room = _needed_scale(graph, plan, layer, S)
    return np.where((room > S)[..., None], rounded(W, room, bits), Q), np.maximum(S, room)


def _needed_scale(graph: Graph, plan: Plan, layer: Layer, S: Array) -> Array:
    """S, enlarged where the layer's bias, as int32, needs it. As S, any shape with one scale for each output."""
    b = _bias(graph, layer)
    if plan.schemes[layer.name] != "static" or b is None:
        return S
    S_x = plan.activations[layer.input].S
    return scale_with_room(S.reshape(-1).astype(np.float32), S_x, 2 * b).reshape(S.shape).astype(np.float64)


def _set_bias(graph: Graph, plan: Plan, layer: Layer, W: Array, W_q: Array, moments: Moments | None) -> None:
    """Correct the bias where there are moments and a place for it; a Conv or Gemm without a bias gets one."""
    b = _bias(graph, layer)
    if moments is not None and (b is not None or layer.op != "MatMul"):
        before = np.zeros(W.shape[:2]) if b is None else b.reshape(W.shape[:2])
        b = _corrected(before, W, W_q, moments).reshape(-1)
    if b is not None:
        plan.biases[layer.name] = b.astype(np.float32)


def _bias(graph: Graph, layer: Layer) -> Array | None:
    return None if layer.bias is None else graph.constants[layer.bias].astype(np.float64).reshape(-1)


def _corrected(b: Array, W: Array, W_q: Array, moments: Moments) -> Array:
    """`corrected_bias`, group by group: (groups, outputs)."""
    means = zip(moments.float_mean, moments.mean, strict=True)
    return np.stack([corrected_bias(b[g], W[g], W_q[g], x, y) for g, (x, y) in enumerate(means)])


def _reported(W: Array, target: Array, W_q: Array, H: Array | None, bits: int, symptoms: Symptoms) -> Rounding:
    S = min_max_scale(W, bits)
    power = float(output_error(np.zeros_like(W), W, H).sum()) or 1.0
    before = float(output_error(W, rounded(W, S, bits) * S[..., None], H).sum())
    after = float(output_error(target, W_q, H).sum())
    return Rounding(before / power, after / power, symptoms)


def _depthwise_step(graph: Graph, plan: Plan, layer: Layer) -> float:
    """The step of a static depthwise layer's input, 0 for other layers."""
    m = plan.activations.get(layer.input)
    depthwise = layer.op == "Conv" and layer.groups > 1 and graph.constants[layer.weight].shape[1] == 1
    return m.S if m is not None and depthwise and plan.schemes[layer.name] == "static" else 0.0


def _depthwise_error(W: Array, moments: Moments, step: float) -> float:
    """The median over the outputs of lost power over power, where the input is rounded to steps of this size.

    Every channel is computed alone: what a small one loses by the scale that a large one needs, no other makes good.
    """
    power = output_error(np.zeros_like(W), W, moments.own)
    noise = step**2 / 12 * np.einsum("gok,gok->go", W, W)
    alive = power > 0
    return float(np.median(noise[alive] / power[alive])) if step and alive.any() else 0.0


def _symptoms(W: Array, moments: Moments | None, depthwise_step: float, fitted: bool) -> Symptoms:
    """fitted: the integers were fitted to the rows seen, and should be to many."""
    rms = np.sqrt(np.mean(W**2, axis=-1))
    weight_outlier = float(np.max(np.abs(W).max(axis=-1) / np.where(rms > 0, rms, 1.0)))
    if moments is None:
        return Symptoms(1.0, weight_outlier, None)
    power = np.sqrt(moments.variance + moments.mean**2).ravel()
    middle = float(np.median(power[power > 0])) if power.any() else 1.0
    rows = moments.available / W.shape[2] if fitted else None
    return Symptoms(float(power.max() / middle), weight_outlier, rows, _depthwise_error(W, moments, depthwise_step))
