"""One real layer in integers: writes the worked example of docs/integers.md from the file that quantize made.

    python benchmarks/integers.py

The layer is the second convolution of the CIFAR-10 ResNet-20. Its numbers are read from the quantized file, its input
and output from ONNX Runtime while that file answers a real photo; our integer forward pass must give the same output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from PIL import Image

from markdown import ROOT, provenance, table, write_between
from microbudget.methods.quantize.integer import Quantized, Target, accumulate, conv, zero_point_terms
from microbudget.methods.quantize.patches import Geometry, patches
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, PHOTOS = ASSETS / "models" / "resnet20_cifar10.onnx", ASSETS / "images" / "cifar10"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION, CONVOLUTION, SHOWN = 64, 1, 6
VNNI = Machine(arm=False, saturates=False)  # whatever runs this: the example's weights have all 8 bits


@dataclass(frozen=True)
class Layer:
    """A QDQ convolution's constants, and the names of its rounded input and output."""

    x: Quantized
    w: Quantized
    q_b: np.ndarray
    target: Target
    input: str
    output: str
    geometry: Geometry


def pixels(path: Path) -> np.ndarray:
    """A photo as the network wants it, (1, 3, 32, 32)."""
    rgb = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    return ((rgb - np.float32(MEAN)) / np.float32(DEVIATION)).transpose(2, 0, 1)[None]


def read_layer(proto: Any, index: int) -> Layer:
    """The index-th Conv of a QDQ model; x.q is empty."""
    made = {name: node for node in proto.graph.node for name in node.output}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    node = [node for node in proto.graph.node if node.op_type == "Conv"][index]
    x, w, b = (made[name] for name in node.input)
    (rounds,) = [n for n in proto.graph.node if n.op_type == "QuantizeLinear" and node.output[0] in n.input]
    W = values[w.input[0]]
    S_y, Z_y = (values[name] for name in rounds.input[1:])
    return Layer(
        Quantized(np.zeros(0), values[x.input[1]], values[x.input[2]].astype(np.int32)),
        Quantized(W, values[w.input[1]], values[w.input[2]].astype(np.int32)),
        values[b.input[0]],
        Target(float(S_y), int(Z_y)),
        x.input[0],
        rounds.output[0],
        Geometry.plain(W.shape[2:], pad=1),
    )


def answered(proto: Any, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Integer tensors inside, while ONNX Runtime answers with all its optimizations."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, inputs)


def example(layer: Layer, q_x: np.ndarray, q_y: np.ndarray) -> str:
    """The whole calculation of one output, and how the layer compares with the runtime's."""
    ours = conv(Quantized(q_x, layer.x.S, layer.x.Z), layer.w, layer.q_b, layer.target, layer.geometry)
    row, column = (n // 2 for n in q_y.shape[2:])
    channel = int(np.argmax(q_y[0, :, row, column]))
    rows = patches(q_x, layer.geometry, padding=int(layer.x.Z))[0, row, column]  # (1, K)
    q_w = layer.w.q[channel].reshape(1, -1)
    Z_x, Z_w = int(layer.x.Z), np.asarray(layer.w.Z).reshape(-1)[[channel]]
    raw = int(rows[0].astype(np.int64) @ q_w[0].astype(np.int64))
    term = int(zero_point_terms(rows, Z_x, q_w, Z_w)[0, 0])
    q_b, S_w = int(layer.q_b[channel]), float(layer.w.S[channel])
    total = int(accumulate(rows, Z_x, q_w, Z_w, layer.q_b[[channel]])[0, 0])
    S_x, S_y, Z_y = float(layer.x.S), layer.target.S, layer.target.Z
    M = S_w * S_x / S_y
    real = float((S_x * (rows[0].astype(float) - Z_x)) @ (S_w * q_w[0].astype(float)) + S_w * S_x * q_b)
    result = int(ours[0, channel, row, column])
    assert raw + term + q_b == total
    steps = table(
        ["step", "value"],
        [
            ["products of integers, summed: sum(q_w q_x)", f"{raw:,}"],
            [f"correction for the input's zero point: -Z_x sum(q_w), Z_x = {Z_x}", f"{term:,}"],
            ["bias as an integer: q_b = round(b / (S_w S_x))", f"{q_b:,}"],
            ["together, in int32", f"{total:,}"],
            ["multiplier M = S_w S_x / S_y", f"{M:.9f}"],
            ["M times the sum", f"{M * total:.4f}"],
            [f"rounded, plus Z_y = {Z_y}", f"{round(M * total) + Z_y:,}"],
            ["clamped to 0 ... 255: **q_y**", f"**{result}**"],
            ["which stands for S_y (q_y - Z_y)", f"{S_y * (result - Z_y):.6f}"],
            ["the same layer in float, on the same rounded input and weights", f"{max(real, 0.0):.6f}"],
        ],
    )
    first = table(
        ["of the first inputs", *map(str, range(SHOWN))],
        [
            ["q_x", *rows[0][:SHOWN]],
            ["q_w", *q_w[0][:SHOWN]],
            ["S_x (q_x - Z_x)", *(f"{S_x * (int(q) - Z_x):.4f}" for q in rows[0][:SHOWN])],
            ["S_w q_w", *(f"{S_w * int(q):.4f}" for q in q_w[0][:SHOWN])],
        ],
    )
    away = np.abs(ours.astype(int) - q_y.astype(int))
    return "\n".join([
        f"The layer: {layer.w.q.shape[0]} outputs, {layer.w.q.shape[1]} channels of input, a kernel of"
        f" {layer.w.q.shape[2]} x {layer.w.q.shape[3]}; each output sums {rows.shape[1]} products."
        " Weights have 8 bits, as on x86 with VNNI; without it `quantize` gives them 7.",
        f"Input: S_x = {S_x:.9f}, Z_x = {Z_x}. Output: S_y = {S_y:.9f}, Z_y = {Z_y}. Output channel {channel}:"
        f" S_w = {S_w:.9f}, Z_w = {int(Z_w[0])}. The place is row {row}, column {column}.",
        "", first, "", steps, "",
        f"All {away.size:,} outputs of the layer against ONNX Runtime's integer kernel: {(away == 0).mean():.3%} are"
        f" equal, the others differ by at most {away.max()} step. " + provenance("integers.py"),
    ])  # fmt: skip


def main() -> None:
    """Quantize, look inside while one photo is answered, write the page."""
    paths = sorted(PHOTOS.glob("train/*/*"))
    inputs = [{"pixel_values": pixels(path)} for path in paths[:: len(paths) // CALIBRATION]]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_graph(MODEL, inputs, path, observer="min_max", corrections=("scales", "bias"), machine=VNNI)
        proto = onnx.load(str(path))
    layer = read_layer(proto, CONVOLUTION)
    q_x, q_y = answered(proto, [layer.input, layer.output], inputs[0])
    text = example(layer, q_x, q_y)
    write_between(ROOT / "docs" / "integers.md", "integers", text)
    print(text)


if __name__ == "__main__":
    main()
