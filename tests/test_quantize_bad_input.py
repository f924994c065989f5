"""What users really bring: broken numbers, odd graphs, too little data. Refused in words, or quantized all the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from microbudget.errors import BadData, BrokenModel, InvalidOption, UnsupportedModel
from microbudget.methods.quantize.moments import Moments
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine
from toy_networks import IMAGE, Net, batches, depthwise, images, quantized_in, residual, run, transformer

NEWEST = min(onnx.defs.onnx_opset_version(), 26)  # what onnxruntime 1.31 reads
REFERENCE = 19  # the first opset whose DequantizeLinear ONNX's own evaluator knows
DENORMAL = np.float32(1e-41)


@pytest.fixture
def quantize(tmp_path):
    """Quantize a toy network: (path, outcome)."""
    return partial(quantized_in, tmp_path, threads=1)


def with_weights(fill) -> onnx.ModelProto:
    """The residual network with the weights of its second convolution changed."""
    model = residual()
    tensor = [t for t in model.graph.initializer if len(t.dims) == 4][1]
    W = numpy_helper.to_array(tensor).copy()
    fill(W)
    tensor.CopyFrom(numpy_helper.from_array(W, tensor.name))
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("corrections", [(), ("scales", "gptq", "bias")])
def test_weights_that_are_no_numbers_are_refused_with_the_layers_name(value, corrections, quantize):
    def fill(W):
        W[3, 2, 1, 1] = value

    with pytest.raises(BrokenModel, match="NaN or inf"):
        quantize(with_weights(fill), corrections=corrections)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_refused(value, quantize):
    x = images(8)
    x[5, 0, 0, 0] = value
    with pytest.raises(BrokenModel, match=r"tensor 'x'.*NaN or infinit"):
        quantize(residual(), batches(x))


TRANSFORMER = [
    {"corrections": ("scales",)},  # nothing looks at activations but the check of the answers
    {"corrections": ("scales", "bias")},
    {"corrections": ("scales", "gptq", "bias"), "bits": 4},
    {"corrections": ("scales", "gptq", "bias"), "activation_bits": None},
]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", TRANSFORMER)
def test_a_transformer_on_inputs_that_are_no_numbers_names_the_tensor(value, options, quantize):
    x = np.random.default_rng(0).normal(size=(16, 12, 64)).astype(np.float32)
    x[9, 3, 5] = value
    with pytest.raises(BrokenModel, match=r"tensor 'x' is NaN or infinite.*is the model or an input broken"):
        quantize(transformer(), batches(x), **options)


@pytest.mark.parametrize("options", TRANSFORMER)
def test_a_transformer_that_makes_a_nan_names_where_it_begins(options, quantize):
    model = transformer()
    table = next(t for t in model.graph.initializer if list(t.dims) == [64])  # the bias of the queries
    table.CopyFrom(numpy_helper.from_array(np.full(64, 3e38, np.float32), table.name))
    with pytest.raises(BrokenModel, match=r"tensor '\w+' is NaN or infinite"):
        quantize(model, batches(np.random.default_rng(0).normal(size=(16, 12, 64)).astype(np.float32)), **options)


@pytest.mark.parametrize("scale", [1e15, 1e20, 1e30])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"activation_bits": None}, {"corrections": ("scales", "bias")}])
def test_large_inputs_are_numbers(scale, options, quantize):
    """Their squares are none in float32."""
    x = images(32) * np.float32(scale)
    path, outcome = quantize(residual(), batches(x), **options)
    ours, floats = run(path, x), run(residual(), x)
    assert np.isfinite(outcome.kl)
    assert np.corrcoef(ours.ravel() / scale, floats.ravel() / scale)[0, 1] > 0.95


@pytest.mark.parametrize("columns", [9, 1600])
@pytest.mark.parametrize("diagonal", [True, False])
def test_moments_of_large_values_are_those_of_small_ones(columns, diagonal):
    x = np.random.default_rng(0).normal(size=(2, 3, 1, columns)).astype(np.float32)
    x *= np.float32([1e14, 1e22]).reshape(2, 1, 1, 1)  # two batches: the first fits into float32, the second does not
    moments = Moments(1, columns, diagonal=diagonal)
    for part in x:
        moments.update(part, part)
    covariance = np.cov(x.reshape(6, columns).astype(np.float64).T, bias=True)
    expected = np.diag(covariance) if diagonal else covariance
    np.testing.assert_allclose(moments.own[0], expected, atol=1e-3 * covariance.max())


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
    quantize_graph(source, None, out, activation_bits=None, corrections=("scales",))
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


def body(kind: str) -> onnx.GraphProto:
    """Of a Loop or a Scan: a MatMul by weights of its own, and an Add of a tensor from outside."""
    inner = numpy_helper.from_array(np.random.default_rng(7).normal(0, 0.3, (6, 6)).astype("f"), "inner")
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state", "next", "seen")]
    nodes = [
        helper.make_node("MatMul", ["state", "inner"], ["product"]),
        helper.make_node("Add", ["product", "outside"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]
    if kind == "Scan":
        nodes[0] = helper.make_node("Add", ["state", "step"], ["sum"])
        nodes.insert(1, helper.make_node("MatMul", ["sum", "inner"], ["product"]))
        given = [declared[0], helper.make_tensor_value_info("step", TensorProto.FLOAT, None)]
        return helper.make_graph(nodes, "body", given, declared[1:], [inner])
    counter = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    condition = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    nodes.append(helper.make_node("Identity", ["go"], ["on"]))
    return helper.make_graph(
        nodes, "body", [counter, condition[0], declared[0]], [condition[1], *declared[1:]], [inner]
    )


def repeated(kind: str) -> onnx.ModelProto:
    """Layers, then a Loop or a Scan over what they made, then a layer."""
    net = Net()
    y = net.op("Relu", net.gemm("x", 12, 6))
    net.gemm(net.op("Relu", net.gemm("x", 12, 6)), 6, 6)
    net.nodes[-1].output[0] = "outside"
    if kind == "Scan":
        steps = net.op("Unsqueeze", y, net.const(np.int64([0])))
        node = helper.make_node("Scan", [y, steps], ["last", "all"], name="Scan", body=body(kind), num_scan_inputs=1)
    else:
        trips = [net.const(np.int64(3)), net.const(np.bool_(True))]
        node = helper.make_node("Loop", [*trips, y], ["last", "all"], name="Loop", body=body(kind))
    net.nodes.append(node)
    return net.model(net.gemm(net.op("Relu", "last"), 6, 4), ["batch", 12])


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"activation_bits": None}])
def test_loops_stay_float_and_are_named(kind, options, quantize):
    """What a body reads from outside is rounded for others, and keeps its name for the body."""
    model, x = repeated(kind), np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    path, outcome = quantize(model, batches(x), **options)
    assert any(f"{kind} is control flow" in note for note in outcome.notes)
    assert len(outcome.layers) == 4
    inner = [t for node in onnx.load(str(path)).graph.node for a in node.attribute for t in a.g.initializer]
    assert [t.data_type for t in inner] == [TensorProto.FLOAT]
    ours, floats = run(path, x), run(model, x)
    assert np.linalg.norm(ours - floats) < (0.3 if "bits" in options else 0.06) * np.linalg.norm(floats)


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
        quantize_graph(source, batches(images(8)), out, threads=1, corrections=("scales",))
    np.testing.assert_array_equal(run(outs[0], images(4)), run(outs[1], images(4)))


@pytest.mark.parametrize("opset", range(13, NEWEST + 1))
@pytest.mark.parametrize("bits", [8, 4])
def test_every_opset_loads_and_answers_alike(opset, bits, quantize):
    for make in (residual, depthwise):
        path, _ = quantize(
            make(opset=opset), batches(images(8)), bits=bits, corrections=("scales",), observer="min_max"
        )
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
    assert any("Gelu of com.microsoft has no integer kernel here" in note for note in outcome.notes)
    ran = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert {"Gelu", "ConvTranspose"} <= set(ran)
    x = images(6, seed=4)
    assert np.corrcoef(run(path, x).ravel(), run(unknown_operators(), x).ravel())[0, 1] > 0.99


def test_many_operators_of_one_foreign_kind_are_one_note(quantize):
    net, x = Net(), "x"
    for _ in range(3):
        x = net.op("Relu", net.conv(x, 3, 3))
    model = net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 3, 5), IMAGE)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Gelu", "com.microsoft"
    _, outcome = quantize(model)
    (note,) = [note for note in outcome.notes if "Gelu" in note]
    assert note.endswith("(and 2 more)")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 5), (5,)])
@pytest.mark.parametrize("options", [{}, {"activation_bits": None, "bits": 4}])
def test_a_gemms_bias_of_any_row_is_taken(shape, options, quantize):
    net = Net()
    W, b = (net.random.normal(0, 0.3, size).astype("f") for size in ((12, 5), shape))
    model = net.model(net.op("Gemm", "x", net.const(W), net.const(b)), ["batch", 12])
    x = net.random.normal(size=(64, 12)).astype(np.float32)
    path, outcome = quantize(model, batches(x), **options)
    assert [layer.bits < 32 for layer in outcome.layers] == [True]
    assert np.corrcoef(run(path, x).ravel(), run(model, x).ravel())[0, 1] > 0.97


def test_a_gemms_bias_that_differs_from_row_to_row_stays_float_in_words(quantize):
    net = Net()
    a = net.op("Relu", net.gemm("x", 12, 6))
    W, b = (net.const(net.random.normal(size=size).astype("f")) for size in ((6, 5), (8, 1)))
    _, outcome = quantize(net.model(net.op("Gemm", a, W, b), [8, 12]), [{"x": np.ones((8, 12), np.float32)}])
    assert any("its bias is not one number for each output" in note for note in outcome.notes)


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_computed_biases_stay_float_in_words(kind, quantize):
    """Before a BatchNormalization too, which is then not folded."""
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 4))
    computed = net.op("ReduceMean", a, axes=[0, 2, 3], keepdims=0)
    if kind == "Conv":
        y = net.op("Conv", a, net.const(net.random.normal(size=(4, 4, 1, 1)).astype("f")), computed)
        y = net.op("BatchNormalization", y, *(net.const(net.random.uniform(1, 2, 4).astype("f")) for _ in range(4)))
    else:
        flat = net.op("Flatten", net.op("GlobalAveragePool", a))
        y = net.op("Gemm", flat, net.const(net.random.normal(size=(4, 4)).astype("f")), computed)
    model = net.model(y, IMAGE)
    path, outcome = quantize(model)
    assert any("its bias is computed" in note for note in outcome.notes)
    assert np.corrcoef(run(path, images(8)).ravel(), run(model, images(8)).ravel())[0, 1] > 0.99


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
        ({"corrections": ("magic",)}, "corrections has no magic"),
        ({"keep_float_activations": -1}, "keep_float_activations must not be negative"),
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
    quantize_graph(source, None, out, corrections=("scales",))
    x = np.random.default_rng(0).normal(size=(4, 12, 64)).astype(np.float32)
    assert np.abs(run(out, x) - run(transformer(), x)).max() < 0.1
