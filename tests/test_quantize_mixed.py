"""Mixed precision: both limits hold for the file that is written and run, and the bits are the best under them."""

from __future__ import annotations

import itertools
import re
from functools import partial

import numpy as np
import onnx
import pytest

from microbudget.errors import InvalidOption
from microbudget.methods.quantize import quantizing
from microbudget.methods.quantize.calibration import Samples
from microbudget.methods.quantize.mixed import MixedPrecision
from microbudget.methods.quantize.plan import Plan, WeightFormat
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.quantize.scheme import Machine, decide
from toy_networks import IMAGE, Net, batches, images, kernels, quantized_in, residual, run, transformer

PLAIN, SATURATING = Machine(arm=False, saturates=False), Machine(arm=False, saturates=True)
FAST = {"threads": 1, "corrections": ("scales", "bias"), "observer": "min_max", "machine": SATURATING}


@pytest.fixture
def quantized(tmp_path):
    """Quantize a toy network into a file: (path, outcome)."""
    return partial(quantized_in, tmp_path, **FAST)


def tokens(count: int = 32) -> list[dict[str, np.ndarray]]:
    return batches(np.random.default_rng(0).normal(size=(count, 12, 64)).astype(np.float32))


def shared() -> onnx.ModelProto:
    """Two convolutions with the same weights between two others."""
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 16))
    W = net.const(net.random.normal(0, 0.1, (16, 16, 3, 3)).astype("f"))
    for _ in range(2):
        a = net.op("Relu", net.op("Conv", a, W, net.const(net.random.normal(0, 0.1, 16).astype("f")), pads=[1] * 4))
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv(a, 16, 24))))
    return net.model(net.gemm(flat, 24, 5), IMAGE)


def divergence(path, model: onnx.ModelProto, x: np.ndarray) -> float:
    """Mean KL of the answers as they are used, by its definition."""
    p, q = (np.exp(y.astype(np.float64)) for y in (run(model, x), run(path, x)))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    return float((p * np.log(p / q)).sum(axis=1).mean())


@pytest.mark.parametrize("limit", [{"max_kl": 3e-5}, {"size_bytes": 14_000}])
def test_where_sums_saturate_no_integer_layer_has_eight_bits(limit, quantized):
    _, outcome = quantized(residual(), **limit)
    bits = {layer.bits for layer in outcome.layers}
    assert 7 in bits
    assert bits <= {32, 7, 4}
    assert any("7 bits" in note for note in outcome.notes)


@pytest.mark.parametrize("limit", [{"max_kl": 1e-4}, {"size_bytes": 60_000}])
def test_nor_has_one_of_a_transformer_but_weights_alone_keep_them(limit, quantized):
    _, outcome = quantized(transformer(), tokens(), **limit)
    assert {layer.bits for layer in outcome.layers} <= {32, 7, 4}
    _, outcome = quantized(transformer(), tokens(), **limit, activation_bits=None)
    assert {layer.bits for layer in outcome.layers} <= {32, 8, 4}


@pytest.mark.parametrize("max_kl", [1e-5, 3e-5, 1e-3])
@pytest.mark.parametrize("machine", [PLAIN, SATURATING])
def test_the_divergence_of_what_runs_is_within_the_limit(max_kl, machine, quantized):
    path, outcome = quantized(residual(), max_kl=max_kl, machine=machine, observer="auto")
    assert outcome.kl <= max_kl
    if machine is SATURATING:  # its file is right on every machine
        assert divergence(path, residual(), images(32)) == pytest.approx(outcome.kl, rel=0.02, abs=1e-8)


def test_layers_that_stay_float_between_integers_are_computed_in_float(quantized, tmp_path):
    """onnxruntime would round their weights per tensor when it loads the file."""
    path, outcome = quantized(residual(), size_bytes=15_000)
    floats = [layer for layer in outcome.layers if layer.bits == 32]
    ran = kernels(path, tmp_path)
    assert 1 <= len(floats) <= 4
    assert sum(name in ("Conv", "FusedConv", "Gemm") for name in ran) == len(floats)
    assert ran.count("QLinearConv") + ran.count("QGemm") == len(outcome.layers) - len(floats)


def test_a_divergence_that_cannot_be_met_is_refused_with_what_was_reached(quantized):
    with pytest.raises(
        InvalidOption, match=r"max_kl=1e-12 cannot be met: .* still diverge by \d.*keep_float_activations"
    ):
        quantized(residual(), max_kl=1e-12)


def test_weights_alone_can_meet_any_divergence(quantized):
    path, outcome = quantized(residual(), max_kl=0.0, activation_bits=None)
    assert {layer.bits for layer in outcome.layers} == {32}
    np.testing.assert_array_equal(run(path, images(4)), run(residual(), images(4)))


def test_the_last_attempt_is_checked_like_the_first(quantized, monkeypatch):
    """Where every choice of the mixer is too coarse, float weights are the last resort."""

    def four_bits(mixed, *_):
        return mixed.within_bytes(mixed.file_bytes({layer.name: 4 for layer in mixed.layers}))

    monkeypatch.setattr(MixedPrecision, "within_kl", four_bits)
    _, outcome = quantized(residual(), max_kl=3e-5)
    assert outcome.kl <= 3e-5
    assert {layer.bits for layer in outcome.layers} == {32}


@pytest.mark.parametrize(
    ("make", "options", "sizes"),
    [
        (residual, {}, (20_000, 15_000, 12_000)),
        (residual, {"activation_bits": None}, (20_000, 12_000)),
        (residual, {"corrections": ()}, (13_000,)),
        (shared, {}, (40_000, 20_000, 12_000)),
        (transformer, {}, (150_000, 60_000, 45_000)),
        (transformer, {"activation_bits": None}, (130_000, 60_000, 45_000)),
    ],
)
def test_the_size_is_a_limit_of_the_file(make, options, sizes, quantized):
    data = tokens(16) if make is transformer else batches(images(16))
    for size in sizes:
        path, outcome = quantized(make(), data, size_bytes=size, **options)
        assert outcome.size_bytes == path.stat().st_size <= size
        assert path.stat().st_size > 0.5 * size


def test_metadata_count(quantized, tmp_path):
    onnx.save(residual(), str(tmp_path / "float.onnx"))
    out = tmp_path / "out.onnx"

    def describe(proto) -> None:
        proto.metadata_props.add(key="labels", value="a" * 5_000)

    options = {**FAST, "size_bytes": 15_000}
    outcome = quantize_graph(tmp_path / "float.onnx", batches(images(16)), out, describe=describe, **options)
    assert out.stat().st_size == outcome.size_bytes <= 15_000
    assert onnx.load(str(out)).metadata_props[0].value == "a" * 5_000


@pytest.mark.parametrize("make", [residual, shared])
def test_the_smallest_size_that_is_named_can_be_had_and_none_below_it(make, quantized):
    with pytest.raises(InvalidOption, match="cannot be met") as refusal:
        quantized(make(), size_bytes=100)
    (smallest,) = re.findall(r"smallest file has (\d+) bytes", str(refusal.value))
    path, outcome = quantized(make(), size_bytes=int(smallest))
    assert path.stat().st_size <= int(smallest)
    bits = {layer.bits for layer in outcome.layers}
    assert bits == {4, 7}, "of small layers the nodes that unpack 4 bits take more than they save"
    with pytest.raises(InvalidOption, match="cannot be met"):
        quantized(make(), size_bytes=int(smallest) - 1)


def mixer(model: onnx.ModelProto, data, activation_bits: int | None = None) -> MixedPrecision:
    """With weights alone, whose plan needs no ranges."""
    graph = prepared(model)
    decision = decide(graph, 8, activation_bits, frozenset(), PLAIN)
    full = {name: WeightFormat(8, decision.groups.get(name)) for name in decision.schemes}
    return MixedPrecision(graph, Plan(decision.schemes), full, Samples(data, 64, threads=1), ("scales", "bias"))


def test_sizes_are_those_of_the_written_file(quantized):
    judged = mixer(transformer(), tokens(8))
    for size in (150_000, 60_000):
        path, outcome = quantized(transformer(), tokens(8), size_bytes=size, activation_bits=None)
        assert judged.file_bytes({layer.name: layer.bits for layer in outcome.layers}) == path.stat().st_size


@pytest.mark.parametrize("size", [17_000, 13_000, 9_000])
def test_the_bits_lose_least_of_all_that_fit(size):
    """Against every combination, each weighed as a file."""
    judged = mixer(shared(), batches(images(8)))
    ways = itertools.product(*([(choice.bits, choice.loss) for choice in layer] for layer in judged.choices))
    possible = []
    for way in ways:
        bits = {layer.name: n for layers, (n, _) in zip(judged.sharing, way, strict=True) for layer in layers}
        if judged.file_bytes(bits) <= size:
            possible.append(sum(loss for _, loss in way))
    found = judged.within_bytes(size)
    assert judged.file_bytes(found.bits) <= size
    assert sum(found.losses.values()) == pytest.approx(min(possible))


def test_layers_that_share_weights_count_once_and_get_the_same_bits(quantized):
    judged = mixer(shared(), batches(images(8)))
    assert [len(layers) for layers in judged.sharing] == [1, 2, 1, 1]
    twice = judged.choices[1]
    sizes = {choice.bits: choice.size_bytes for choice in twice}
    weights = 16 * 16 * 9
    assert 3 * weights - 500 < sizes[32] - sizes[8] < 3 * weights + 500, "not six bytes a weight"
    path, outcome = quantized(shared(), size_bytes=12_000)
    assert outcome.layers[1].bits == outcome.layers[2].bits
    large = [t for t in onnx.load(str(path)).graph.initializer if np.prod(t.dims) in (weights, weights // 2)]
    assert len(large) == 1


def test_the_file_is_weighed_once_more_before_it_is_saved(quantized, monkeypatch, tmp_path):
    real = quantizing.write

    def larger(graph, plan):
        proto = real(graph, plan)
        proto.doc_string = "a" * 50_000
        return proto

    monkeypatch.setattr(quantizing, "write", larger)
    with pytest.raises(InvalidOption, match="the file would have"):
        quantized(residual(), size_bytes=15_000)
    assert not (tmp_path / "quantized.onnx").exists()
