"""Writing: what a simulation has learnt goes into the constants of its file; the nodes stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import Failed
from ...runtimes.onnx.graph import OnnxGraph, copied, set_constant
from .rounded import PACKED, RoundedWeight, in_integers
from .simulation import Simulation, constants

INT32 = np.iinfo(np.int32)


def written(simulation: Simulation) -> Any:
    """The `onnx.ModelProto` with the scales, integers and biases of the simulation.

    A runtime answers as the simulation does, but for the order of float sums and for what lies between two steps.
    """
    result = copied(simulation.file)
    graph = OnnxGraph(result.graph)
    steps = _activations(simulation, graph, result)
    scales = _room_for_biases(simulation, graph, steps)
    for layer, real in simulation.weights.items():
        _put_weight(simulation, layer, real, scales[real], result)
    _put_biases(simulation, graph, steps, scales, result)
    _put_floats(simulation, result)
    return result


def _activations(simulation: Simulation, graph: OnnxGraph, result: Any) -> dict[str, np.float32]:
    """Put the scales of activations. Those of the tensors that a DequantizeLinear makes, by their names."""
    integers, stored, found = in_integers(graph), constants(result), {}
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            scale = np.float32(simulation.activation(node).scale.item())
            set_constant(result, node.input[1], np.asarray(scale))
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in integers:
            scale = np.float32(simulation.activation(integers[node.input[0]]).scale.item())
            set_constant(result, node.input[1], np.full(stored[node.input[1]].shape, scale, np.float32))
            found[node.output[0]] = scale
    return found


def _room_for_biases(simulation: Simulation, graph: OnnxGraph, steps: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The scale of each output of each weight, larger where a bias would not fit into int32 otherwise."""
    found = {real: simulation.weight_rounding(layer).scale.detach().reshape(-1).numpy().copy()
             for layer, real in simulation.weights.items()}  # fmt: skip
    biases = _biases(simulation)
    for node in graph.nodes:
        if len(node.input) > 2 and node.input[1] in found and node.input[2] in biases and node.input[0] in steps:
            needed = np.abs(biases[node.input[2]]) / (float(steps[node.input[0]]) * (INT32.max // 2))
            found[node.input[1]] = np.maximum(found[node.input[1]], needed).astype(np.float32)
    return found


def _biases(simulation: Simulation) -> dict[str, NDArray[np.float64]]:
    """The rounded biases as they are now, by the names of their floats."""
    stored, rounded = simulation.network.stored_in, simulation.rounded.biases
    return {
        constant: simulation.latent(path).detach().double().numpy()
        for path, constant in stored.items()
        if constant in rounded
    }


def _put_weight(simulation: Simulation, layer: str, real: str, scale: NDArray[np.float32], result: Any) -> None:
    weight, rounding = simulation.rounded.weights[real], simulation.weight_rounding(layer)
    latent = simulation.latent(f"{layer}.weight").detach()
    spread = torch.from_numpy(scale).reshape(rounding.log_scale.shape)
    q = (latent / spread).round().clamp(*rounding.ends).to(torch.int8).numpy()
    q = np.ascontiguousarray(q.T if f"{layer}.weight" in simulation.network.transposed else q)
    before = simulation.rounded.values[weight.scale]
    set_constant(result, weight.scale, scale.reshape(before.shape))
    if not weight.packed:
        set_constant(result, weight.stored[0], q)
        return
    for name, plane in zip(weight.stored, planes_of(q, weight), strict=True):
        set_constant(result, name, plane.reshape(simulation.rounded.values[name].shape))


def planes_of(q: NDArray[np.int8], weight: RoundedWeight) -> list[NDArray[np.uint8]]:
    """Integers packed as `quantize` packs them: offset binary, the low bits first, the first value in the lowest."""
    codes = (q.astype(np.int16).ravel() + (1 << (weight.bits - 1))).astype(np.uint8)
    found = []
    for width in PACKED[weight.bits]:
        per_byte = 8 // width
        padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
        padded[: codes.size] = codes & np.uint8((1 << width) - 1)
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(width)
        found.append(np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8))
        codes = codes >> np.uint8(width)
    return found


def _put_biases(
    simulation: Simulation, graph: OnnxGraph, steps: dict[str, Any], scales: dict[str, Any], result: Any
) -> None:
    biases = _biases(simulation)
    for node in graph.nodes:
        if len(node.input) < 3 or node.input[2] not in biases:
            continue
        stored = simulation.rounded.biases[node.input[2]]
        if node.input[0] not in steps or node.input[1] not in scales:
            raise Failed(f"qat: the bias of {node.name or node.output[0]} is rounded, and its input is not")
        scale = scales[node.input[1]].astype(np.float64) * np.float64(steps[node.input[0]])
        q = np.clip(np.rint(biases[node.input[2]] / scale), INT32.min, INT32.max).astype(np.int32)
        set_constant(result, stored.q, q)
        set_constant(result, stored.scale, scale.astype(np.float32))


def _put_floats(simulation: Simulation, result: Any) -> None:
    """What stayed in float learns too."""
    known, network = constants(result), simulation.network
    rounded = {*simulation.rounded.weights, *simulation.rounded.fixed}
    for path, constant in network.stored_in.items():
        if constant in rounded:
            continue
        if constant not in known:
            raise Failed(f"qat: {constant} is computed of other constants in the file, and cannot be put back")
        array = simulation.latent(path).detach().numpy()
        array = array.T if path in network.transposed else array
        set_constant(result, constant, np.ascontiguousarray(array).reshape(known[constant].shape))
