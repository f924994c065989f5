"""Weight-only layers: 2, 4 or 8 bits with a scale per group of inputs, activations in float (MatMulNBits)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .draft import Draft
from .graph import Layer
from .packing import pack

KERNEL_BITS = (2, 4, 8)
SMALLEST_GROUP = 16  # the kernel's groups are powers of two from here on
ACCURACY_LEVEL = 4  # activations rounded to int8 inside the kernel; without it 8 bits were 15 times slower than float


def kernel_takes(bits: int, group: int | None) -> bool:
    """Whether MatMulNBits computes this; else the weights become floats on loading."""
    return bits in KERNEL_BITS and group is not None and group >= SMALLEST_GROUP and group & (group - 1) == 0


def blobs(q: NDArray[np.int8], bits: int, group: int) -> NDArray[np.uint8]:
    """q: (outputs, K). Returns (outputs, groups, group * bits / 8), offset binary, the last group padded with zeros."""
    outputs, K = q.shape
    groups = -(-K // group)
    codes = np.full((outputs, groups * group), 1 << (bits - 1), np.uint8)
    codes[:, :K] = (q.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return pack(codes, bits).reshape(outputs, groups, group * bits // 8)


def write_weight_only(draft: Draft, layer: Layer) -> None:
    """Replace a Gemm or MatMul by MatMulNBits; its bias is added afterwards."""
    weights, node, builder = draft.plan.weights[layer.name], draft.graph.node(layer.name), draft.builder
    assert weights.group is not None
    q = weights.q if layer.outputs_axis == 0 else weights.q.T
    short, name, b = draft.weights.short(layer), node.output[0], draft.plan.biases.get(layer.name)
    added = layer.op == "Gemm" and b is not None
    builder.domains["com.microsoft"] = 1
    inputs = [
        draft.tensors.read(layer.input, node),
        builder.constant(f"{short}.blobs", blobs(np.ascontiguousarray(q), weights.bits, weights.group)),
        builder.constant(f"{short}.S", weights.S.reshape(-1)),
    ]
    builder.add(
        "MatMulNBits",
        inputs,
        f"{name}.product" if added else name,
        domain="com.microsoft",
        K=q.shape[1],
        N=q.shape[0],
        bits=weights.bits,
        block_size=weights.group,
        accuracy_level=ACCURACY_LEVEL,
    )
    if added:
        builder.add("Add", [f"{name}.product", builder.constant(f"{layer.name}.bias", b)], name)
