"""How each layer computes: static int8, dynamic int8, weights alone, or float; by the graph and the processor."""

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
from .weightonly import KERNEL_BITS

GROUP = 32  # inputs to a scale where weights are quantized alone
ATTENTION = frozenset({"Softmax", "LayerNormalization", "SkipLayerNormalization", "Attention", "MultiHeadAttention"})


@dataclass(frozen=True)
class Machine:
    """What decides among integer kernels."""

    arm: bool  # S8 activations are right there, U8 on x86
    saturates: bool  # 8-bit products are summed in 16 bits: weights must stay within 7

    @classmethod
    @functools.cache
    def here(cls) -> Machine:
        """This machine, asked by running a kernel."""
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
    groups: dict[str, int] = field(default_factory=dict)  # layer -> inputs to a scale, for weights alone
    notes: list[str] = field(default_factory=list)


def decide(graph: Graph, bits: int, activation_bits: int | None, keep_float: frozenset[str]) -> Decision:
    """Convolutions are static. Linear layers are static in a plain network; in a transformer, dynamic at 8 bits and
    weight-only below. `keep_float` names nodes.
    """
    transformer = any(node.op_type in ATTENTION for node in _inner_nodes(graph))
    decision = Decision({})
    for layer in graph.layers:
        scheme = _scheme(layer, bits, activation_bits, transformer)
        decision.schemes[layer.name] = "float" if layer.name in keep_float else scheme
        if decision.schemes[layer.name] == "weights" and layer.op != "Conv" and bits in KERNEL_BITS:
            decision.groups[layer.name] = GROUP
    decision.notes.extend(_reasons(graph, decision, bits))
    return decision


def _inner_nodes(graph: Graph) -> list[Any]:
    """All nodes but a Softmax that ends the model: that one turns logits into probabilities."""
    return [node for node in graph.nodes if not (node.op_type == "Softmax" and node.output[0] in graph.outputs)]


def _scheme(layer: Layer, bits: int, activation_bits: int | None, transformer: bool) -> Scheme:
    if activation_bits is None:
        return "weights"
    if layer.op != "Conv" and transformer:
        return "dynamic" if bits == 8 else "weights"
    return "static"


def _reasons(graph: Graph, decision: Decision, bits: int) -> list[str]:
    notes, schemes = [], list(decision.schemes.values())
    if "static" in schemes:
        notes.append(f"{schemes.count('static')} layers static int8, calibrated: the runtimes' fastest kernels")
    if "dynamic" in schemes:
        notes.append(
            f"{schemes.count('dynamic')} linear layers dynamic int8: a transformer's activations have outliers"
        )
    if "weights" in schemes:
        kernel = f", groups of {GROUP} in MatMulNBits" if decision.groups else ""
        notes.append(f"{schemes.count('weights')} layers with {bits}-bit weights and float activations{kernel}")
        if any(s == "weights" and n not in decision.groups for n, s in decision.schemes.items()):
            notes.append("weights without such a kernel are unpacked to floats on loading: smaller on disk, not faster")
    notes += [f"{name} stays float: {why}" for name, why in graph.left_float.items()]
    return notes
