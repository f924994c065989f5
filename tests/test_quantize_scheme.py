"""How layers compute, on which processor, and that the reason is reported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine, decide, full_bits
from toy_networks import IMAGE, Net, batches, images, quantized_in, residual, run, transformer

VNNI, NO_VNNI, ARM = Machine(False, False), Machine(False, True), Machine(True, False)


def notes(model: onnx.ModelProto, machine: Machine, bits: int = 8, activation_bits: int | None = 8) -> str:
    return "; ".join(decide(prepared(model), bits, activation_bits, frozenset(), machine).notes)


@pytest.mark.parametrize(
    ("machine", "types", "weights"),
    [
        (VNNI, "U8 activations and S8 weights (x86)", "32 bits (VNNI or similar): weights keep all 8 bits"),
        (NO_VNNI, "U8 activations and S8 weights (x86)", "weights of 7 bits: this CPU has no VNNI"),
        (ARM, "S8 activations and S8 weights (ARM)", "32 bits (ARM): weights keep all 8 bits"),
    ],
)
def test_the_types_and_bits_are_reported_with_the_reason(machine, types, weights, tmp_path):
    reasons = notes(residual(), machine)
    assert types in reasons
    assert weights in reasons
    assert weights in notes(transformer(), machine)
    assert "VNNI" not in notes(residual(), machine, bits=4), "four bits are the same everywhere"
    onnx.save(residual(), str(tmp_path / "float.onnx"))
    data, out = batches(images(8)), tmp_path / "out.onnx"
    outcome = quantize_graph(tmp_path / "float.onnx", data, out, machine=machine, threads=1, corrections=())
    assert types in "; ".join(outcome.notes)
    assert {layer.bits for layer in outcome.layers} == {7 if machine is NO_VNNI else 8}


def test_only_integer_sums_take_a_bit():
    for scheme in ("static", "dynamic"):
        assert [full_bits(scheme, bits, NO_VNNI) for bits in (8, 4, 2)] == [7, 4, 2]
        assert full_bits(scheme, 8, VNNI) == full_bits(scheme, 8, ARM) == 8
    assert full_bits("weights", 8, NO_VNNI) == full_bits("float", 8, NO_VNNI) == 8


@pytest.mark.parametrize(("bits", "activation_bits"), [(4, 8), (2, 8), (8, None)])
def test_the_kernel_of_narrow_weights_may_round_activations_and_that_is_reported(bits, activation_bits, tmp_path):
    source, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
    onnx.save(transformer(), str(source))
    data = batches(np.random.default_rng(0).normal(size=(8, 12, 64)).astype(np.float32))
    outcome = quantize_graph(source, data, out, bits=bits, activation_bits=activation_bits, threads=1, corrections=())
    reasons = "; ".join(outcome.notes)
    assert "round activations to int8 (accuracy_level=4)" in reasons
    assert "float activations" not in reasons
    found = [node for node in onnx.load(str(out)).graph.node if node.op_type == "MatMulNBits"]
    assert len(found) == len(outcome.layers)
    named = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in found]
    assert [attributes["accuracy_level"] for attributes in named] == [4] * len(found)


def test_convolutions_with_weights_alone_are_unpacked():
    reasons = notes(residual(), VNNI, activation_bits=None)
    assert "5 layers with 8-bit weights and float activations: without such a kernel" in reasons
    assert "1 layers weight-only with 8 bits, groups of 32 in MatMulNBits" in reasons


def patches_and_class_token(opset=17):
    """The beginning of a vision transformer: patches, a class token for every image of a free batch, attention."""
    net, width = Net(), 16
    x = net.conv("x", 3, width, 4, strides=[4, 4], pads=[0, 0, 0, 0])
    x = net.op("Reshape", x, net.const(np.array([0, width, -1], np.int64)))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    batch = net.op("Gather", net.op("Shape", "x"), net.const(np.array([0], np.int64)))
    shape = net.op("Concat", batch, net.const(np.array([1, width], np.int64)), axis=0)
    token = net.op("Expand", net.const(net.random.normal(size=(1, 1, width)).astype("f")), shape)
    x = net.op("Concat", token, x, axis=1)
    scores = net.op("Softmax", net.op("MatMul", net.matmul(x, width, width), net.op("Transpose", x, perm=[0, 2, 1])))
    x = net.op("ReduceMean", net.op("MatMul", scores, net.matmul(x, width, width)), axes=[1], keepdims=0)
    return net.model(net.gemm(x, width, 4), IMAGE, opset=opset)


@pytest.mark.parametrize("bits", [8, 4])
def test_of_a_transformers_patches_the_weights_alone_are_rounded(bits, tmp_path):
    openvino = pytest.importorskip("openvino")
    model = patches_and_class_token()
    path, outcome = quantized_in(tmp_path, model, bits=bits, threads=1)
    assert outcome.layers[0].scheme == "weights"
    assert outcome.layers[0].bits == bits
    assert {layer.scheme for layer in outcome.layers[1:]} == {"dynamic" if bits == 8 else "weights"}
    x = images(4)
    theirs = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
    answers = run(path, x)
    assert np.abs(theirs - answers).max() < 0.05 * np.abs(answers).max()


def test_a_convolution_that_others_follow_stays_static_in_a_transformer():
    net = Net()
    x = net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 8)
    x = net.op("Softmax", net.op("Flatten", x))
    model = net.model(net.gemm(x, 8 * 256, 4), IMAGE)
    decision = decide(prepared(model), 8, 8, frozenset(), Machine(arm=False, saturates=False))
    assert list(decision.schemes.values()) == ["static", "static", "dynamic"]
