"""Integers that begin behind a float layer: no Transpose at every step, and not one answer another."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from microbudget.methods.quantize import rounded
from microbudget.methods.quantize.scheme import Machine
from toy_networks import IMAGE, Net, images, kernels, quantized_in, residual, run


def block(net, x, channels):
    """A residual block with its two convolutions."""
    inner = net.op("Relu", net.conv(x, channels, channels))
    return net.op("Relu", net.op("Add", net.conv(inner, channels, channels), x))


def stream(*, pooled=False, blocks=3):
    """A first convolution and the residual stream behind it, maybe behind a MaxPool as in ResNet-18."""
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 8))
    if pooled:
        x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for _ in range(blocks):
        x = block(net, x, 8)
    return net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 8, 5), IMAGE, opset=19)


def transposes(path, folder):
    """How many Transposes ONNX Runtime executes."""
    return kernels(path, folder, layouts=True).count("Transpose")


def passing(path):
    """How many convolutions of the file change nothing."""
    return sum(node.output[0].endswith(".passed") for node in onnx.load(str(path)).graph.node)


@pytest.fixture
def kept_float(tmp_path, monkeypatch):
    """Quantize a network with layers kept float, with and without the identity convolution."""

    def both(model, *names, **options):
        paths = []
        monkeypatch.setattr("microbudget.methods.quantize.quantizing.slim", lambda model: None)  # names stay
        for folder in ("with", "without"):
            (tmp_path / folder).mkdir()
            if folder == "without":
                monkeypatch.setattr(rounded, "need_identity", lambda graph, plan: {})
            path, _ = quantized_in(tmp_path / folder, model, keep_float=names, corrections=(), threads=1, **options)
            paths.append(path)
        return paths

    return both


@pytest.mark.parametrize("arm", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_stream_that_begins_in_float_keeps_one_layout_and_its_answers(pooled, arm, kept_float, tmp_path):
    paths = kept_float(stream(pooled=pooled), "Conv0", machine=Machine(arm=arm, saturates=not arm))
    assert [passing(path) for path in paths] == [1, 0]
    if not arm:  # with signed activations this processor's session makes other kernels
        few, many = (transposes(path, tmp_path) for path in paths)
        assert few <= 2 < many
    answers = [run(path, images(16)) for path in paths]
    np.testing.assert_array_equal(*answers)
    np.testing.assert_array_equal(*(ReferenceEvaluator(str(path)).run(None, {"x": images(2)})[0] for path in paths))


def test_openvino_answers_as_without_it(kept_float):
    openvino = pytest.importorskip("openvino")
    answers = []
    for path in kept_float(stream(), "Conv0"):
        compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answers.append(compiled([images(8)])[0])
    np.testing.assert_allclose(*answers, atol=0.02 * np.abs(answers[0]).max())


def test_a_concat_meets_the_stream_too(kept_float, tmp_path):
    net = Net()
    x = net.op("Relu", net.conv("x", 3, 8))
    for width in (8, 12, 16):
        x = net.op("Concat", x, net.op("Relu", net.conv(x, width, 4)), axis=1)
    model = net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 20, 5), IMAGE)
    paths = kept_float(model, "Conv0")
    assert [passing(path) for path in paths] == [1, 0]
    assert transposes(paths[0], tmp_path) <= transposes(paths[1], tmp_path)
    np.testing.assert_array_equal(*(run(path, images(16)) for path in paths))


def test_a_stream_may_begin_again_after_a_block_whose_sum_is_float(kept_float, tmp_path):
    """The second convolution of a block stays float, and with it the Add."""
    paths = kept_float(stream(blocks=4), "Conv4")
    assert [passing(path) for path in paths] == [1, 0]
    assert transposes(paths[0], tmp_path) < transposes(paths[1], tmp_path)
    np.testing.assert_array_equal(*(run(path, images(16)) for path in paths))


@pytest.mark.parametrize(
    ("model", "keep"),
    [(residual(), ()), (residual(), ("Conv2",)), (residual(), ("Conv4",)), (stream(blocks=1), ("Conv0",))],
    ids=["integers from the start", "one reader", "one sum left", "one block"],
)
def test_where_nothing_would_be_gained_nothing_is_added(model, keep, kept_float):
    assert [passing(path) for path in kept_float(model, *keep)] == [0, 0]
