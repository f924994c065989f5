"""What went wrong: each reason on a small network that really has the fault, and on its healthy twin none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from microbudget.methods.quantize import input_moments
from microbudget.methods.quantize.layer_report import LayerReport, with_shares
from microbudget.methods.quantize.moments import Moments
from microbudget.methods.quantize.patches import Geometry, windows
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.ranges import input_rows, row_count
from microbudget.methods.quantize.scheme import Machine
from microbudget.methods.quantize.symptoms import depthwise_error
from toy_networks import Net, batches, images, quantized_in, residual

CHANNELS = 16
WIDE = ["batch", CHANNELS, 8, 8]
EXACT = Machine(arm=False, saturates=False)


@pytest.fixture
def reports(tmp_path):
    """The table of layers of a quantized network."""

    def make(model: onnx.ModelProto, x: np.ndarray, **options) -> tuple[LayerReport, ...]:
        chosen = {"threads": 1, "corrections": ("scales", "bias"), "machine": EXACT, **options}
        return quantized_in(tmp_path, model, batches(x), **chosen)[1].layers

    return make


def convolution(groups: int = 1, spike: float = 1.0) -> onnx.ModelProto:
    """One convolution and a linear layer; of each of the convolution's outputs one weight is `spike` times as large."""
    net = Net(1)
    a = net.conv("x", CHANNELS, CHANNELS, groups=groups)
    net.constants["c0"][:, 0, 1, 1] *= spike
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", a)))
    return net.model(net.gemm(flat, CHANNELS, 5), WIDE)


def normal(count: int = 32, seed: int = 0) -> np.ndarray:
    """Within three and a half deviations, as few values as these would be anyway."""
    return np.clip(np.random.default_rng(seed).normal(size=(count, CHANNELS, 8, 8)), -3.5, 3.5).astype(np.float32)


def spiked() -> np.ndarray:
    """Positive, as behind a ReLU; one channel has rare values a hundred times as large as the others."""
    x = 0.3 * np.abs(normal())
    rare = np.random.default_rng(5).random(x[:, 0].shape) < 2e-3
    x[:, 0] = np.where(rare, 100.0, x[:, 0])
    return x


def uneven() -> np.ndarray:
    """One channel is sixty times as large as the others."""
    x = normal()
    x[:, 3] *= 60
    return x


def test_a_healthy_network_has_no_reasons(reports):
    for groups in (1, CHANNELS):
        assert [layer.reason for layer in reports(convolution(groups), normal())] == ["", ""]


def test_outlier_channel(reports):
    layer = reports(convolution(), spiked(), observer="least_squares")[0]
    assert layer.activation_error >= 1e-3
    assert layer.reason.startswith("outlier channel: one channel of its input is ")
    assert float(layer.reason.split(" is ")[1].split(" times")[0]) == pytest.approx(
        np.sqrt((spiked()[:, 0] ** 2).mean() / (spiked()[:, 1] ** 2).mean()), rel=0.25
    )


def test_depthwise_per_tensor(reports):
    """The small channels drown in the large one's steps, though of the input's power hardly anything is lost."""
    layer = reports(convolution(CHANNELS), uneven())[0]
    assert layer.activation_error < 1e-3
    assert layer.reason.startswith("depthwise per tensor: one scale for all channels of its input, the largest ")
    assert reports(convolution(1), uneven())[0].reason == "", "where channels are summed, the large one rules the sum"


def test_the_error_of_depthwise_channels_is_that_of_the_definition():
    """Steps so fine that errors are uniform; the median over channels of lost power over power."""
    graph = prepared(convolution(CHANNELS))
    layer, rows = graph.layers[0], np.random.default_rng(3).normal(size=(4000, CHANNELS, 9))
    rows *= np.geomspace(0.1, 10, CHANNELS)[:, None]
    W, step = layer.matrix(graph.constants[layer.weight]), 0.05
    moments = Moments(CHANNELS, 9)
    moments.update(rows.astype(np.float32), rows.astype(np.float32))
    lost = np.einsum("gok,rgk->rgo", W, np.rint(rows / step) * step - rows).var(axis=0)
    true = np.median(lost / np.einsum("gok,rgk->rgo", W, rows).var(axis=0))
    assert depthwise_error(W, moments, step) == pytest.approx(true, rel=0.1)


def test_saturated_activation(reports):
    """Half a percent of the values lie far outside: the entropy observer cuts them."""
    x = normal()
    x = np.where(np.random.default_rng(6).random(x.shape) < 5e-3, 12 * np.sign(x), x).astype(np.float32)
    layer = reports(convolution(), x, observer="entropy")[0]
    assert layer.saturation > 1e-3
    assert layer.activation_error >= 1e-3
    assert layer.reason.startswith("saturated activation: ")


def test_outlier_weight(reports):
    layer = reports(convolution(spike=100.0), normal(), corrections=("bias",))[0]
    assert layer.weight_error < 1e-3, "seven parts in eight of the output are the large weight's"
    layer = reports(convolution(spike=100.0), normal(), corrections=("bias",), bits=4)[0]
    assert layer.reason.startswith("outlier weight: the largest is ")


def test_coarse_bits(reports):
    assert reports(convolution(), normal(), bits=2)[0].reason == "2 bits are too coarse for these weights"


def linear(K: int) -> onnx.ModelProto:
    net = Net(2)
    return net.model(net.gemm(net.op("Relu", net.gemm("x", K, 32)), 32, 4), ["batch", K])


def vectors(count: int, K: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(count, K)).astype(np.float32)


@pytest.mark.parametrize(("count", "expected"), [(24, "too few samples: 0.4 inputs seen per weight"), (640, "")])
def test_too_few_samples(count, expected, reports):
    K = 64
    layer = reports(linear(K), vectors(count, K), bits=4, corrections=("scales", "gptq", "bias"))[0]
    assert layer.reason.startswith(expected or "4 bits are too coarse")


def test_enough_samples_of_which_few_were_drawn_are_not_too_few(reports, monkeypatch):
    """What counts is what the data hold, not what is drawn of them; and without `gptq` no fit needs many."""
    K = 64
    monkeypatch.setattr(input_moments, "MOST_ROWS", 32)
    monkeypatch.setattr(input_moments, "ROWS_FOR_MEANS", 32)
    for corrections in (("scales", "gptq", "bias"), ("scales", "bias")):
        assert "few" not in reports(linear(K), vectors(640, K), bits=4, corrections=corrections)[0].reason
    assert "few" not in reports(linear(K), vectors(24, K), bits=4)[0].reason, "nothing was fitted to them"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 2])
def test_rows_are_counted_as_windows_are(stride, pad):
    geometry = Geometry((3, 2), (stride, 1), (1, 2), (pad, 0), (pad, 1))
    x = np.zeros((2, 1, 9, 7), np.float32)
    assert windows(x, geometry).shape[1:3] == geometry.positions((9, 7))
    graph = prepared(residual())
    for layer, x in ((graph.layers[0], images(2)), (graph.layers[-1], np.zeros((5, 16), np.float32))):
        assert row_count(graph, layer, x) == len(input_rows(graph, layer, x, 10**6, np.random.default_rng(0)))


def test_every_layer_has_a_share_of_the_loss(reports):
    found = reports(residual(), images(16), bits=4, observer="auto")
    assert sum(layer.loss_share for layer in found) == pytest.approx(1.0)
    errors = [layer.weight_error + layer.activation_error for layer in found]
    np.testing.assert_allclose([layer.loss_share for layer in found], np.array(errors) / sum(errors))


def test_a_measured_share_stands():
    one = LayerReport("a", "Conv", (1,), 1, 8, 8, "static", weight_error=1.0, loss_share=0.25)
    assert with_shares([one])[0] is one
    silent = LayerReport("b", "Conv", (1,), 1, 32, 32, "float")
    assert with_shares([silent])[0].loss_share is None, "nothing is lost"


def test_shares_under_a_limit_are_those_of_the_divergence(reports):
    found = reports(residual(), images(16), size_bytes=14_000, observer="min_max")
    assert sum(layer.loss_share for layer in found) == pytest.approx(1.0)
    assert all(layer.loss_share == 0 for layer in found if layer.bits == 32)
