"""What users really bring: broken numbers, odd graphs, too little data. Refused in words, or quantized all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from microbudget.errors import BadData, BrokenModel, InvalidOption, UnsupportedModel
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine
from toy_networks import IMAGE, Net, batches, depthwise, images, residual, run, transformer

NEWEST = min(onnx.defs.onnx_opset_version(), 23)  # what onnxruntime reads without a warning
REFERENCE = 19  # the first opset whose DequantizeLinear ONNX's own evaluator knows
DENORMAL = np.float32(1e-41)


@pytest.fixture
def quantize(tmp_path):
    """Quantize a toy network: (path, outcome)."""

    def make(model: onnx.ModelProto, data=None, **options):
        source, out = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
        onnx.save(model, str(source))
        data = batches(images(32)) if data is None else data
        return out, quantize_graph(source, data, out, threads=1, **options)

    return make


def with_weights(fill) -> onnx.ModelProto:
    """The residual network with the weights of its second convolution changed."""
    model = residual()
    tensor = [t for t in model.graph.initializer if len(t.dims) == 4][1]
    W = numpy_helper.to_array(tensor).copy()
    fill(W)
    tensor.CopyFrom(numpy_helper.from_array(W, tensor.name))
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("repair", [(), ("scales", "gptq", "bias")])
def test_weights_that_are_no_numbers_are_refused_with_the_layers_name(value, repair, quantize):
    def fill(W):
        W[3, 2, 1, 1] = value

    with pytest.raises(BrokenModel, match="NaN or inf"):
        quantize(with_weights(fill), repair=repair)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_refused(value, quantize):
    x = images(8)
    x[5, 0, 0, 0] = value
    with pytest.raises(BrokenModel, match=r"tensor 'x'.*NaN or infinit"):
        quantize(residual(), batches(x))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("value", [0.0, 0.25, DENORMAL, -DENORMAL])
def test_constant_weights_are_quantized(value, bits, quantize):
    def fill(W):
        W[:] = value

    model = with_weights(fill)
    path, _ = quantize(model, bits=bits)
    ours, floats = run(path, images(8)), run(model, images(8))
    assert np.isfinite(ours).all()
    assert np.abs(ours - floats).max() < 0.35 * np.ptp(floats) * (1 if bits > 2 else 3)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0, DENORMAL])
def test_inputs_of_one_value_are_quantized(value, quantize):
    path, outcome = quantize(residual(), [{"x": np.full((4, 3, 16, 16), value, np.float32)}])
    x = np.full((1, 3, 16, 16), value, np.float32)
    assert np.isfinite(run(path, x)).all()
    assert np.isfinite(outcome.kl)


def test_no_calibration_data_are_refused(quantize):
    with pytest.raises(BadData, match="at least one batch"):
        quantize(residual(), [])


def test_static_integers_need_data_and_weights_alone_do_not(tmp_path):
    source, out = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(residual(), str(source))
    with pytest.raises(BadData, match="needs calibration data"):
        quantize_graph(source, None, out)
    quantize_graph(source, None, out, activation_bits=None, repair=("scales",))
    assert np.corrcoef(run(out, images(4)).ravel(), run(residual(), images(4)).ravel())[0, 1] > 0.99


def test_images_of_another_size_are_refused(quantize):
    with pytest.raises(BadData, match=r"shape \[8, 3, 24, 24\].*\[any, 3, 16, 16\]"):
        quantize(residual(), [{"x": images(8, size=24)}])


def test_a_later_batch_of_another_size_is_refused(quantize):
    with pytest.raises(BadData, match="does not take the calibration batch"):
        quantize(residual(), [{"x": images(8)}, {"x": images(8, size=24)}])


def dynamic_size() -> onnx.ModelProto:
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 8))
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv(a, 8, 8))))
    return net.model(net.gemm(flat, 8, 5), ["batch", 3, "height", "width"])


def test_images_of_many_sizes_are_fine_where_the_model_takes_them(quantize):
    path, _ = quantize(dynamic_size(), [{"x": images(8)}, {"x": images(4, size=24)}])
    x = images(3, size=20, seed=9)
    assert np.corrcoef(run(path, x).ravel(), run(dynamic_size(), x).ravel())[0, 1] > 0.99


def test_a_fixed_batch_is_kept(quantize):
    model = residual()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    path, _ = quantize(model, batches(images(10), 5))
    assert run(path, images(4)).shape == (4, 5)
    with pytest.raises(BadData, match="batches of 4"):
        quantize(model, batches(images(9), 3))


def shared_weights() -> onnx.ModelProto:
    """Two convolutions with the same weights, each with a bias of its own."""
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 8))
    W = net.const(net.random.normal(0, 0.2, (8, 8, 3, 3)).astype("f"))
    biases = [net.const(net.random.normal(0, 0.1, 8).astype("f")) for _ in range(2)]
    for b in biases:
        a = net.op("Relu", net.op("Conv", a, W, b, pads=[1] * 4))
    flat = net.op("Flatten", net.op("GlobalAveragePool", a))
    return net.model(net.gemm(flat, 8, 5), IMAGE)


@pytest.mark.parametrize("bits", [8, 4])
def test_shared_weights_are_stored_once(bits, quantize):
    exact = Machine(arm=False, saturates=False)  # elsewhere 8 bits become 7, which are packed
    path, outcome = quantize(shared_weights(), bits=bits, machine=exact)
    large = [t for t in onnx.load(str(path)).graph.initializer if np.prod(t.dims) >= 8 * 8 * 9 * bits // 8]
    assert len(large) == 1
    assert [layer.bits for layer in outcome.layers] == [bits] * 4
    assert np.corrcoef(run(path, images(8)).ravel(), run(shared_weights(), images(8)).ravel())[0, 1] > 0.97


def control_flow() -> onnx.ModelProto:
    """Both branches read the convolution's output from outside; one has a convolution of its own."""
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 4))
    inner = numpy_helper.from_array(net.random.normal(0, 0.3, (4, 4, 1, 1)).astype("f"), "inner")
    info = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    yes = helper.make_graph([helper.make_node("Conv", [a, "inner"], ["out"])], "yes", [], info, [inner])
    no = helper.make_graph([helper.make_node("Abs", [a], ["out"])], "no", [], info)
    condition = net.op("Greater", net.op("ReduceMax", "x", keepdims=0), net.const(np.float32(0)))
    chosen = net.op("If", condition, then_branch=yes, else_branch=no)
    flat = net.op("Flatten", net.op("GlobalAveragePool", chosen))
    return net.model(net.gemm(flat, 4, 3), IMAGE)


def test_control_flow_stays_float_and_is_named(quantize):
    path, outcome = quantize(control_flow(), [{"x": sign * np.abs(images(8))} for sign in (1, -1)])
    assert any("control flow" in note for note in outcome.notes)
    for sign in (1, -1):
        x = sign * np.abs(images(2))
        assert np.abs(run(path, x) - run(control_flow(), x)).max() < 0.1


def test_quantizing_twice_is_refused(quantize, tmp_path):
    path, _ = quantize(residual())
    with pytest.raises(UnsupportedModel, match="already quantized"):
        quantize_graph(path, batches(images(4)), tmp_path / "again.onnx")


def test_external_data_give_the_same_file(tmp_path):
    whole, apart = tmp_path / "whole.onnx", tmp_path / "apart.onnx"
    onnx.save(residual(), str(whole))
    onnx.save(residual(), str(apart), save_as_external_data=True, size_threshold=0, location="weights.bin")
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for source, out in zip((whole, apart), outs, strict=True):
        quantize_graph(source, batches(images(8)), out, threads=1, repair=("scales",))
    np.testing.assert_array_equal(run(outs[0], images(4)), run(outs[1], images(4)))


@pytest.mark.parametrize("opset", range(13, NEWEST + 1))
@pytest.mark.parametrize("bits", [8, 4])
def test_every_opset_loads_and_answers_alike(opset, bits, quantize):
    for make in (residual, depthwise):
        path, _ = quantize(make(opset=opset), batches(images(8)), bits=bits, repair=("scales",), observer="min_max")
        onnx.checker.check_model(str(path), full_check=True)
        x = images(4, seed=2)
        reference = ReferenceEvaluator(str(path)).run(None, {"x": x})[0] if opset >= REFERENCE else run(make(), x)
        np.testing.assert_allclose(run(path, x), reference, atol=(0.1 if bits == 8 else 0.4) * np.abs(reference).max())


def unknown_operators() -> onnx.ModelProto:
    """An operator of another domain and a transposed convolution between convolutions."""
    net = Net()
    a = net.op("Gelu", net.conv("x", 3, 8), domain="com.microsoft")
    W = net.const(net.random.normal(0, 0.2, (8, 8, 2, 2)).astype("f"))
    b = net.op("ConvTranspose", a, W, strides=[2, 2])
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv(b, 8, 8))))
    output = net.gemm(flat, 8, 5)
    graph = helper.make_graph(
        net.nodes,
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value, name) for name, value in net.constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def test_unknown_operators_stay_float_and_are_named(quantize):
    path, outcome = quantize(unknown_operators())
    assert any("ConvTranspose" in note for note in outcome.notes)
    ran = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert {"Gelu", "ConvTranspose"} <= set(ran)
    x = images(6, seed=4)
    assert np.corrcoef(run(path, x).ravel(), run(unknown_operators(), x).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_every_level_of_optimization_answers_alike(level, quantize):
    path, _ = quantize(depthwise(), bits=4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = images(4, seed=6)
    ours = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(ours, run(path, x), atol=0.1 * np.abs(ours).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits must be from 2 to 8"),
        ({"observer": "best"}, "observer must be one of"),
        ({"repair": ("magic",)}, "repair has no magic"),
        ({"finer": -1}, "finer must not be negative"),
        ({"size_bytes": 1, "max_kl": 1.0}, "not both"),
        ({"size_bytes": 10}, r"cannot be met: the smallest file has \d{3,} bytes"),
        ({"keep_float": ("nowhere",)}, "keep_float names 'nowhere'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, quantize):
    with pytest.raises(InvalidOption, match=message):
        quantize(residual(), batches(images(8)), **options)


def test_a_missing_file_and_a_model_without_layers(tmp_path, quantize):
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        quantize_graph(tmp_path / "none.onnx", batches(images(2)), tmp_path / "out.onnx")
    net = Net()
    with pytest.raises(UnsupportedModel, match="nothing to quantize"):
        quantize(net.model(net.op("Relu", "x"), IMAGE))


def test_a_transformer_needs_no_data_for_dynamic_integers(tmp_path: Path):
    source, out = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(transformer(), str(source))
    quantize_graph(source, None, out, repair=("scales",))
    x = np.random.default_rng(0).normal(size=(4, 12, 64)).astype(np.float32)
    assert np.abs(run(out, x) - run(transformer(), x)).max() < 0.1
