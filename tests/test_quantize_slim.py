"""slim: a smaller file that computes the same, in every runtime, and is still fused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from conftest import PIXELS
from microbudget.methods.quantize.slim import slim
from microbudget.runtimes.openvino import OpenVinoSession
from toy_networks import kernels


@pytest.fixture(scope="session")
def quantized(onnx_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime's own int8 file."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = tmp_path_factory.mktemp("quantized")
    rng = np.random.default_rng(0)
    batches = iter([{"pixel_values": rng.normal(size=(4, 3, PIXELS, PIXELS)).astype(np.float32)}])

    class Reader(ort.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    quant_pre_process(str(onnx_model / "model.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    ort.quantize_static(
        str(folder / "prepared.onnx"),
        str(folder / "int8.onnx"),
        Reader(),
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
    )
    return folder / "int8.onnx"


def test_it_is_smaller_and_computes_the_same(quantized: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(quantized))
    slim(proto)
    onnx.checker.check_model(proto, full_check=True)
    small = tmp_path / "slim.onnx"
    onnx.save(proto, str(small))
    assert small.stat().st_size < 0.9 * quantized.stat().st_size
    pixels = np.random.default_rng(1).normal(size=(3, 3, PIXELS, PIXELS)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(str(path)) for path in (quantized, small)]
    before, after = (session.run(None, {"pixel_values": pixels})[0] for session in sessions)
    np.testing.assert_array_equal(after, before)
    one, other = (sorted(kernels(path, tmp_path, layouts=True)) for path in (small, quantized))
    assert one == other
    elsewhere = [OpenVinoSession(path).answer({"pixel_values": pixels}) for path in (quantized, small)]
    np.testing.assert_array_equal(elsewhere[1], elsewhere[0])


def test_weights_inputs_and_outputs_keep_their_names(quantized: Path) -> None:
    proto = onnx.load(str(quantized))
    weights = {
        tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
    }
    slim(proto)
    assert weights <= {tensor.name for tensor in proto.graph.initializer}
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["pixel_values", "logits"]


def test_a_graph_with_control_flow_keeps_its_names() -> None:
    from onnx import TensorProto, helper

    inner = helper.make_graph(
        [helper.make_node("Neg", ["outer_name"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["outer_name"]),
        helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])]
    proto = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs))
    slim(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.node[0].output[0] == "outer_name"
