"""Written models: the integer kernels really run, and compute what our integer forward pass computes."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from microbudget.judge.ledger import ledger
from microbudget.judge.work import count, without_unpacking
from microbudget.methods.quantize.integer import Quantized, Target, conv, quantize_bias
from microbudget.methods.quantize.layer_rounding import round_layers
from microbudget.methods.quantize.mapping import dequantize, quantize
from microbudget.methods.quantize.placement import place
from microbudget.methods.quantize.plan import Mapping, Plan, WeightFormat, Weights
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.scheme import Machine
from microbudget.methods.quantize.weightonly import blobs
from microbudget.methods.quantize.write import write
from microbudget.model import Model, Record
from toy_networks import IMAGE, Net, batches, depthwise, images, kernels, quantized_in, residual, run, transformer


@pytest.fixture
def quantized(tmp_path):
    """Quantize a toy network into a file: (path, outcome)."""
    return partial(quantized_in, tmp_path, threads=1)


def test_one_convolution_is_our_integer_forward_pass():
    net = Net()
    model = net.model(net.op("Relu", net.conv("x", 3, 8, strides=[2, 2])), IMAGE)
    graph, x = prepared(model), images(4)
    (layer,) = graph.layers
    placement = place(graph, frozenset({layer.name}))
    plan = Plan({layer.name: "static"}, integer_nodes=placement.nodes)
    plan.activations = {
        "x": Mapping.of_range(-3, 3.2, signed=False),
        graph.outputs[0]: Mapping.of_range(0, 4, signed=False),
    }
    round_layers(graph, plan, {layer.name: WeightFormat(7)}, ())
    written = write(graph, plan)
    weights, m_x, m_y = plan.weights[layer.name], plan.activations["x"], plan.activations[graph.outputs[0]]
    S_x = np.float32(m_x.S)
    q_x = Quantized(quantize(x, S_x, m_x.Z, signed=False), S_x, np.int32(m_x.Z))
    q_w = Quantized(weights.q, weights.S, np.int32(0))
    q_b = quantize_bias(plan.biases[layer.name], weights.S, m_x.S)
    q_y = conv(q_x, q_w, q_b, Target(m_y.S, m_y.Z), graph.geometry(layer, x.shape[2:]))
    theirs = run(written, x)
    ours = dequantize(q_y, np.float32(m_y.S), m_y.Z)
    assert np.abs(ours - theirs).max() <= m_y.S * 1.001
    assert np.mean(np.abs(ours - theirs) > m_y.S / 2) < 0.01


@pytest.mark.parametrize("make", [residual, depthwise])
def test_static_networks_run_in_integer_kernels(make, quantized, tmp_path):
    path, outcome = quantized(make())
    ran = kernels(path, tmp_path)
    assert {layer.scheme for layer in outcome.layers} == {"static"}
    convs = sum(layer.op == "Conv" for layer in outcome.layers)
    assert ran.count("QLinearConv") == convs
    assert ran.count("QGemm") == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip", "FusedConv"} & set(ran)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("make", [residual, depthwise])
def test_packed_weights_fold_into_the_same_kernels_everywhere(make, bits, quantized, tmp_path):
    path, _ = quantized(make(opset=20), bits=bits)
    assert not {"Mod", "Div", "Cast", "DequantizeLinear"} & set(kernels(path, tmp_path)[:-1])
    assert kernels(path, tmp_path).count("QLinearConv") >= 4
    x = images(6, seed=5)
    ours = run(path, x)
    reference = ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": x})[0]
    assert np.abs(ours - reference).max() < 0.1 * np.abs(reference).max()
    np.testing.assert_array_equal(ours.argmax(axis=1), reference.argmax(axis=1))


def test_openvino_agrees(quantized):
    openvino = pytest.importorskip("openvino")
    x = images(16, seed=5)
    for make, bits in ((residual, 8), (depthwise, 4), (residual, 3)):
        path, _ = quantized(make(), bits=bits)
        compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        theirs, ours = compiled(x)[0], run(path, x)
        assert np.abs(theirs - ours).max() < 0.15 * np.abs(ours).max()
        assert np.mean(theirs.argmax(axis=1) == ours.argmax(axis=1)) >= 0.9


@pytest.mark.parametrize("activations", [8, None])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_ledger_knows_packed_weights(bits, activations, quantized):
    """As many parameters as the float network, at their bits and what scales take."""
    source = residual()
    path, _ = quantized(source, bits=bits, activation_bits=activations)
    found = ledger(Model(path, "onnx", Record()))
    weights = {row.name.split(".")[0]: row for row in found.weights if row.bits <= 8}
    assert found.size_bytes == path.stat().st_size
    assert sum(row.numbers for row in weights.values()) == sum(
        int(np.prod(x.dims)) for x in source.graph.initializer if len(x.dims) > 1
    )
    assert {row.bits for row in weights.values()} <= ({7, 8} if bits == 8 else {bits, 8})
    assert any(row.bits in (bits, 7) for row in weights.values())
    assert all(row.scale_bytes > 0 for row in weights.values())


@pytest.mark.parametrize("bits", [4, 3])
def test_work_is_counted_after_the_unpacking(bits, quantized):
    """Not a packed number goes through shape inference, which would make a dimension of each: gigabytes."""
    net = Net()
    path, _ = quantized(net.model(net.op("Relu", net.conv("x", 3, 64, 5)), IMAGE), bits=bits)
    proto = onnx.load(str(path))
    light = without_unpacking(proto)
    assert not {"Mod", "Div"} & {node.op_type for node in light.graph.node}
    assert {"Mod", "Div"} <= {node.op_type for node in proto.graph.node}
    work = count(path, {"x": (1, *IMAGE[1:])})
    out = run(proto, images(1))
    assert work.total_multiply_adds == 3 * 25 * out.size
    assert not set(work.not_counted) & {"Mod", "Div", "Sub", "Mul"}


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("count", [8, 9, 27])
def test_unpacked_weights_are_the_integers(bits, count):
    """An odd number of weights ends in the middle of a byte."""
    net = Net()
    model = net.model(net.conv("x", 1, count, 1, bias=False), ["b", 1, 1, 1])
    graph = prepared(model)
    (layer,) = graph.layers
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    q = np.random.default_rng(bits).integers(low, high + 1, (count, 1, 1, 1)).astype(np.int8)
    plan = Plan({layer.name: "weights"}, weights={layer.name: Weights(q, np.ones(count, np.float32), bits)})
    assert run(write(graph, plan), np.ones((1, 1, 1, 1), np.float32)).ravel().tolist() == q.ravel().tolist()


def test_packed_files_are_smaller():
    net = Net()
    graph = prepared(net.model(net.conv("x", 64, 64), ["b", 64, 8, 8]))
    sizes = {}
    for bits in (2, 3, 4, 8):
        plan = Plan({graph.layers[0].name: "weights"})
        round_layers(graph, plan, {graph.layers[0].name: WeightFormat(bits)}, ())
        sizes[bits] = write(graph, plan).ByteSize()
    weights = 64 * 64 * 9
    for bits, size in sizes.items():
        assert size < weights * bits / 8 + 2500


def test_transformers_get_dynamic_kernels(quantized, tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 12, 64)).astype(np.float32)
    model = transformer()
    path, outcome = quantized(model, batches(x))
    ran = kernels(path, tmp_path)
    assert {layer.scheme for layer in outcome.layers} == {"dynamic"}
    assert ran.count("MatMulIntegerToFloat") + ran.count("DynamicQuantizeMatMul") == len(outcome.layers)
    assert ran.count("MatMul") + ran.count("FusedMatMul") == 2, "the two products of activations stay float"
    assert np.abs(run(path, x) - run(model, x)).max() < 0.1


def test_a_transformer_gives_the_same_top_answers_in_three_runtimes(quantized):
    """Which share no code: onnxruntime, OpenVINO, and ONNX's own evaluator."""
    openvino = pytest.importorskip("openvino")
    x = np.random.default_rng(0).normal(size=(24, 12, 64)).astype(np.float32)
    model = transformer()
    path, outcome = quantized(model, batches(x), bits=8)
    assert {layer.scheme for layer in outcome.layers} == {"dynamic"}
    compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours, theirs, true = run(path, x), compiled([x])[0], ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    for answers in (ours, theirs):
        np.testing.assert_array_equal(answers.argmax(axis=1), true.argmax(axis=1))
        assert np.abs(answers - true).max() < 0.02 * np.abs(true).max()
    assert np.mean(true.argmax(axis=1) == run(model, x).argmax(axis=1)) >= 0.95


@pytest.mark.parametrize("bits", [4, 2, 8])
def test_weights_alone_use_the_narrow_kernel(bits, quantized, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 12, 64)).astype(np.float32)
    model = transformer()
    path, outcome = quantized(model, batches(x), bits=bits, activation_bits=None)
    assert kernels(path, tmp_path).count("MatMulNBits") == len(outcome.layers)
    assert np.corrcoef(run(path, x).ravel(), run(model, x).ravel())[0, 1] > (0.98 if bits > 2 else 0.7)


def test_blobs_are_what_the_kernel_reads(tmp_path):
    """MatMulNBits with blobs of known integers answers with their product."""
    net = Net()
    model = net.model(net.matmul("x", 40, 8, bias=False), ["b", 40])
    graph = prepared(model)
    (layer,) = graph.layers
    for bits in (2, 4, 8):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        q = np.random.default_rng(bits).integers(low, high + 1, (40, 8)).astype(np.int8)
        S = np.random.default_rng(1).uniform(0.5, 2, (8, 3)).astype(np.float32)
        plan = Plan({layer.name: "weights"}, weights={layer.name: Weights(q, S, bits, group=16)})
        x = np.eye(40, dtype=np.float32)
        expected = q * np.repeat(S, 16, axis=1)[:, :40].T
        np.testing.assert_allclose(run(write(graph, plan), x), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
    assert blobs(np.zeros((2, 40), np.int8), 4, 16).shape == (2, 3, 8)


def test_a_float_layer_between_integers_keeps_its_float_weights(quantized, tmp_path):
    model = residual()
    graph = prepared(model)
    kept = graph.layers[2].name
    path, outcome = quantized(model, keep_float=(kept,))
    full = 7 if Machine.here().saturates else 8
    assert [layer.bits for layer in outcome.layers] == [full, full, 32, full, full, full]
    ran = kernels(path, tmp_path)
    assert ran.count("QLinearConv") == 4
    assert sum(name in ("Conv", "FusedConv") for name in ran) == 1, "onnxruntime must not quantize it by itself"


def linear(shape: list[int | str], bias: tuple[int, ...] = (-1,), activation: str = "Relu") -> onnx.ModelProto:
    """Three MatMuls, each with the Add of its bias, activations between."""
    net, x = Net(0), "x"
    for inputs, outputs in ((12, 24), (24, 24), (24, 5)):
        x = net.op("MatMul", x, net.const(net.random.normal(0, inputs**-0.5, (inputs, outputs)).astype("f")))
        b = net.random.normal(0, 0.3, outputs).astype("f")
        x = net.op("Add", x, net.const((b if -1 in bias else b[:1]).reshape(bias)))
        x = net.op(activation, x) if outputs == 24 else x
    return net.model(x, shape)


@pytest.mark.parametrize("arm", [False, True])
@pytest.mark.parametrize("bias", [(-1,), (1, -1), (1,), ()])
def test_linear_layers_of_rows_are_one_kernel_with_their_bias(bias, arm, quantized, tmp_path):
    """Also the last one, whose output is float: onnxruntime would make a float Gemm of its MatMul and Add."""
    x = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    model = linear(["batch", 12], bias)
    path, outcome = quantized(model, batches(x), machine=Machine(arm=arm, saturates=False))
    assert kernels(path, tmp_path, signed=arm) == ["QuantizeLinear", *["QGemm"] * 3]
    assert {layer.scheme for layer in outcome.layers} == {"static"}
    assert np.corrcoef(run(path, x).ravel(), run(model, x).ravel())[0, 1] > 0.99


@pytest.mark.parametrize("arm", [False, True])
def test_linear_layers_of_more_dimensions_are_rounded_once_after_their_bias(arm, quantized, tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 7, 12)).astype(np.float32)
    model = linear(["batch", 7, 12])
    path, _ = quantized(model, batches(x), machine=Machine(arm=arm, saturates=False))
    assert kernels(path, tmp_path, signed=arm) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add"] * 3
    assert np.corrcoef(run(path, x).ravel(), run(model, x).ravel())[0, 1] > 0.985


def test_what_reads_after_the_bias_joins_the_integers(quantized, tmp_path):
    """A Sigmoid between two such layers computes on integers: what it reads is rounded anyway."""
    x = np.random.default_rng(0).normal(size=(64, 7, 12)).astype(np.float32)
    path, _ = quantized(linear(["batch", 7, 12], activation="Sigmoid"), batches(x))
    assert kernels(path, tmp_path).count("QLinearSigmoid") == 2


def test_what_stays_float_after_a_bias_is_the_layer(quantized):
    x = np.random.default_rng(0).normal(size=(64, 7, 12)).astype(np.float32)
    model = linear(["batch", 7, 12])
    _, plain = quantized(model, batches(x))
    path, kept = quantized(model, batches(x), keep_float_activations=3)
    schemes = [layer.scheme for layer in kept.layers]
    assert schemes == ["float", "float", "static"], "who makes the three tensors, not the layer that reads"
    assert kept.kl < plain.kl
    assert np.corrcoef(run(path, x).ravel(), run(model, x).ravel())[0, 1] > 0.995


@pytest.mark.parametrize("arm", [False, True])
@pytest.mark.parametrize("shape", [["batch", 12], ["batch", 7, 12], IMAGE])
def test_openvino_agrees_on_signed_activations_and_linear_layers(shape, arm, quantized):
    openvino = pytest.importorskip("openvino")
    model = residual() if shape == IMAGE else linear(shape)
    x = images(64) if shape == IMAGE else np.random.default_rng(0).normal(size=(64, *shape[1:])).astype(np.float32)
    path, _ = quantized(model, batches(x), machine=Machine(arm=arm, saturates=Machine.here().saturates))
    theirs = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    assert np.abs(theirs - run(path, x)).max() < 0.1 * np.abs(theirs).max()


@pytest.mark.parametrize("make", [residual, depthwise])
def test_signed_activations_run_in_the_same_kernels(make, quantized, tmp_path):
    """onnxruntime absorbs a ReLU only where its zero is the smallest integer; on x86 S8 kernels must be allowed."""
    ran = {}
    for arm in (False, True):
        path, _ = quantized(make(), machine=Machine(arm=arm, saturates=False))
        ran[arm] = kernels(path, tmp_path, signed=arm)
    assert ran[True] == ran[False]
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip", "FusedConv"} & set(ran[True])


def test_signed_activations_for_arm(quantized):
    path, _ = quantized(residual(), machine=Machine(arm=True, saturates=False))
    types = {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}
    assert onnx.TensorProto.UINT8 not in types
    x = images(16, seed=3)
    assert np.corrcoef(run(path, x).ravel(), run(residual(), x).ravel())[0, 1] > 0.99


def test_seven_bits_where_sums_saturate(quantized):
    _, outcome = quantized(residual(), machine=Machine(arm=False, saturates=True))
    assert {layer.bits for layer in outcome.layers} == {7}
