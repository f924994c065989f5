"""How each layer computes: static int8, dynamic int8, weight-only, or float; decided by the graph and the processor."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .graph import Graph, Layer
from .plan import Scheme
from .unquantized import left_float_notes
from .weightonly import ACCURACY_LEVEL, KERNEL_BITS

GROUP = 32  # inputs to a scale in weight-only layers
INTEGER: frozenset[Scheme] = frozenset({"static", "dynamic"})  # schemes that multiply integers with integers
UNSATURATED = 7  # bits of weights whose products, two by two, fit into 16 bits
ATTENTION = frozenset({"Softmax", "LayerNormalization", "SkipLayerNormalization", "Attention", "MultiHeadAttention"})


@dataclass(frozen=True)
class Machine:
    """What decides which integer kernels are used."""

    arm: bool  # S8 activations are right there, U8 on x86
    saturates: bool  # 8-bit products are summed in 16 bits: weights must stay within 7

    @classmethod
    @functools.cache
    def here(cls) -> Machine:
        """This machine, found out by running a kernel."""
        return cls(platform.machine().lower() in ("arm64", "aarch64"), _saturates())


def _saturates() -> bool:
    """Whether U8 times S8 products overflow here: 2 * 255 * 127 does not fit into 16 bits."""
    x, w = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (1, 16))],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return bool(np.any(session.run(None, {"x": x})[0] != 255 * 127 * 64))


@dataclass
class Decision:
    """The scheme of every layer, and the reasons in words."""

    schemes: dict[str, Scheme]
    groups: dict[str, int] = field(default_factory=dict)  # layer -> inputs to a scale, of weight-only layers
    notes: list[str] = field(default_factory=list)


def full_bits(scheme: Scheme, bits: int, machine: Machine) -> int:
    """The bits of a layer's weights for the option `bits`: 7 in place of 8 where integer sums would saturate."""
    return min(bits, UNSATURATED) if scheme in INTEGER and machine.saturates else bits


def decide(
    graph: Graph, bits: int, activation_bits: int | None, keep_float: frozenset[str], machine: Machine
) -> Decision:
    """Convolutions are static, but the one that cuts a transformer's image into patches is weight-only. Linear
    layers are static in a plain network; in a transformer they are dynamic at 8 bits and weight-only below.
    `keep_float` names nodes. The machine decides the integers' types and the bits of 8-bit weights.
    """
    transformer = any(node.op_type in ATTENTION for node in _inner_nodes(graph))
    decision = Decision({})
    for layer in graph.layers:
        patches = transformer and _cuts_patches(graph, layer)
        scheme = "weights" if patches else _scheme(layer, bits, activation_bits, transformer)
        decision.schemes[layer.name] = "float" if layer.name in keep_float else scheme
        if decision.schemes[layer.name] == "weights" and layer.op != "Conv" and bits in KERNEL_BITS:
            decision.groups[layer.name] = GROUP
    decision.notes.extend(_reasons(graph, decision, bits, machine))
    return decision


def _inner_nodes(graph: Graph) -> list[Any]:
    """All nodes but a Softmax that ends the model: that one turns logits into probabilities."""
    return [node for node in graph.nodes if not (node.op_type == "Softmax" and node.output[0] in graph.outputs)]


def _cuts_patches(graph: Graph, layer: Layer) -> bool:
    """Whether a Conv reads the model's input, and its output reaches no other Conv before a layer of another type.

    A single integer layer between float ones would round the image and its patches, and save no measurable time; and
    OpenVINO 2026.4 loses the bias of this Conv where a class token is put before the patches of a free batch.
    """
    if layer.op != "Conv" or layer.input not in graph.inputs:
        return False
    others = ("LayerNormalization", "MatMul", "Gemm")
    return all(
        node.op_type != "Conv" for node in graph.downstream(layer.output, lambda node: node.op_type not in others)
    )


def _scheme(layer: Layer, bits: int, activation_bits: int | None, transformer: bool) -> Scheme:
    if activation_bits is None:
        return "weights"
    if layer.op != "Conv" and transformer:
        return "dynamic" if bits == 8 else "weights"
    return "static"


def _reasons(graph: Graph, decision: Decision, bits: int, machine: Machine) -> list[str]:
    notes, schemes = [], list(decision.schemes.values())
    if "static" in schemes:
        types = "S8 activations and S8 weights (ARM)" if machine.arm else "U8 activations and S8 weights (x86)"
        count = schemes.count("static")
        notes.append(f"{count} layers static int8, calibrated, {types}: the runtimes' fastest kernels")
    if "dynamic" in schemes:
        notes.append(
            f"{schemes.count('dynamic')} linear layers dynamic int8 (U8 activations, S8 weights): a transformer's"
            " activations have outliers"
        )
    if INTEGER & set(schemes) and bits > UNSATURATED:
        notes.append(_sums(bits, machine))
    narrow = len(decision.groups)
    if narrow:
        notes.append(
            f"{narrow} layers weight-only with {bits} bits, groups of {GROUP} in MatMulNBits, whose kernel may round"
            f" activations to int8 (accuracy_level={ACCURACY_LEVEL})"
        )
    if unpacked := schemes.count("weights") - narrow:
        notes.append(
            f"{unpacked} layers with {bits}-bit weights and float activations: without such a kernel weights are"
            " unpacked to floats on loading, smaller on disk, not faster"
        )
    notes += left_float_notes(graph)
    return notes


def _sums(bits: int, machine: Machine) -> str:
    """How this processor adds the products of integers, and what follows for the weights."""
    if machine.saturates:
        return (
            f"weights of {UNSATURATED} bits: this CPU has no VNNI and adds two products in 16 bits, which weights of"
            f" {bits} would saturate"
        )
    kernels = "ARM" if machine.arm else "VNNI or similar"
    return f"this CPU adds products in 32 bits ({kernels}): weights keep all {bits} bits"
