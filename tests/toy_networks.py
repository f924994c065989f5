"""Small ONNX networks with random weights, built node by node: convolutional, depthwise, residual, transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def const(self, value: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}{len(self.nodes)}", **attributes))
        return output

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int = 3, *, groups: int = 1, bias: bool = True, **kw
    ) -> str:
        fan = inputs // groups * kernel**2
        W = self.const(self.random.normal(0, (2 / fan) ** 0.5, (outputs, inputs // groups, kernel, kernel)).astype("f"))
        b = [self.const(self.random.normal(0, 0.1, outputs).astype("f"))] if bias else []
        kw.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", x, W, *b, group=groups, **kw)

    def gemm(self, x: str, inputs: int, outputs: int, *, transposed: bool = True) -> str:
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        W = self.const(self.random.normal(0, inputs**-0.5, shape).astype("f"))
        return self.op(
            "Gemm", x, W, self.const(self.random.normal(0, 0.1, outputs).astype("f")), transB=int(transposed)
        )

    def matmul(self, x: str, inputs: int, outputs: int, *, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.const(self.random.normal(0, inputs**-0.5, (inputs, outputs)).astype("f")))
        return self.op("Add", y, self.const(self.random.normal(0, 0.1, outputs).astype("f"))) if bias else y

    def model(
        self, output: str, shape: list[int | str], *, opset: int = 17, outputs: list[str] | None = None
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "toy",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_empty_tensor_value_info(name) for name in (outputs or [output])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        for value in graph.output:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return onnx.shape_inference.infer_shapes(model)


IMAGE = ["batch", 3, 16, 16]


def residual(seed: int = 0, opset: int = 17, classes: int = 5) -> onnx.ModelProto:
    """Conv, a block with a shortcut, a strided block whose shortcut is sliced and padded, pooling, Gemm."""
    net = Net(seed)
    a = net.op("Relu", net.conv("x", 3, 8))
    b = net.conv(net.op("Relu", net.conv(a, 8, 8)), 8, 8)
    c = net.op("Relu", net.op("Add", b, a))
    d = net.conv(net.op("Relu", net.conv(c, 8, 16, strides=[2, 2])), 16, 16)
    ints = [net.const(np.array(v, np.int64)) for v in ([0, 0], [16, 16], [2, 3], [2, 2])]
    half = net.op("Slice", c, *ints)
    wide = net.op("Pad", half, net.const(np.array([0, 4, 0, 0, 0, 4, 0, 0], np.int64)), net.const(np.float32(0)))
    e = net.op("Relu", net.op("Add", d, wide))
    flat = net.op("Flatten", net.op("GlobalAveragePool", e))
    return net.model(net.gemm(flat, 16, classes), IMAGE, opset=opset)


def depthwise(seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    """An inverted residual block with ReLU6, as in MobileNetV2."""
    net = Net(seed)

    def relu6(x: str) -> str:
        return net.op("Clip", x, net.const(np.float32(0)), net.const(np.float32(6)))

    a = relu6(net.conv("x", 3, 8, strides=[2, 2]))
    b = relu6(net.conv(a, 8, 24, 1))
    c = net.conv(relu6(net.conv(b, 24, 24, groups=24)), 24, 8, 1)
    d = net.op("Add", c, a)
    flat = net.op("Flatten", net.op("GlobalAveragePool", relu6(net.conv(d, 8, 32, 1))))
    return net.model(net.gemm(flat, 32, 7, transposed=False), IMAGE, opset=opset)


def transformer(seed: int = 0, width: int = 64, opset: int = 17) -> onnx.ModelProto:
    """One encoder layer with a single head: MatMuls with biases, Softmax, LayerNormalization."""
    net = Net(seed)
    q, k, v = (net.matmul("x", width, width) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    weights = net.op("Softmax", net.op("Mul", scores, net.const(np.float32(width**-0.5))), axis=-1)
    a = net.op("Add", "x", net.matmul(net.op("MatMul", weights, v), width, width))
    norm = [net.const(np.ones(width, np.float32)), net.const(np.zeros(width, np.float32))]
    a = net.op("LayerNormalization", a, *norm, axis=-1)
    b = net.matmul(net.op("Relu", net.matmul(a, width, 2 * width)), 2 * width, width)
    pooled = net.op("ReduceMean", net.op("Add", a, b), axes=[1], keepdims=0)
    return net.model(net.gemm(pooled, width, 4), ["batch", "tokens", width], opset=opset)


def images(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    """Smooth random images (count, 3, size, size), normalized: neighbouring pixels agree, as in photos."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 3, 4, 4))
    smooth = np.repeat(np.repeat(coarse, size // 4, axis=2), size // 4, axis=3)
    return (smooth + 0.3 * random.normal(size=(count, 3, size, size))).astype(np.float32)


def batches(values: np.ndarray, size: int = 16, name: str = "x") -> list[dict[str, np.ndarray]]:
    return [{name: values[i : i + size]} for i in range(0, len(values), size)]


def quantized_in(folder: Path, model: onnx.ModelProto, data: Any = None, **options: Any) -> tuple[Path, Any]:
    """A network quantized into a file of the folder: (path, outcome). data: batches, by default of 32 images."""
    from microbudget.methods.quantize.quantizing import quantize_graph

    source, out = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, str(source))
    return out, quantize_graph(source, batches(images(32)) if data is None else data, out, **options)


def run(model: onnx.ModelProto | Path, x: np.ndarray, name: str = "x") -> np.ndarray:
    """The first output in ONNX Runtime with all its optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, {name: x})[0]


def kernels(model: onnx.ModelProto | Path, folder: Path, *, signed: bool = False, layouts: bool = False) -> list[str]:
    """The operators that ONNX Runtime really executes, after its optimizations.

    signed: as on ARM, S8 activations; layouts: with the last optimizations too, which change layouts.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", str(int(signed)))
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if layouts else levels.ORT_ENABLE_EXTENDED
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(folder / "optimized.onnx")).graph.node]
