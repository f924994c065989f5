"""Rounding in stages: which layers compensate for the errors before them, and that no deep network is ruined by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from microbudget.methods.quantize import input_moments
from microbudget.methods.quantize.calibration import PartialSession, Samples
from microbudget.methods.quantize.corrections import AUTO
from microbudget.methods.quantize.input_moments import compensating_layers
from microbudget.methods.quantize.layer_rounding import Steps, round_layers
from microbudget.methods.quantize.plan import Plan, WeightFormat
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.write import write
from toy_networks import IMAGE, Net, batches, depthwise, images, residual


def mobile(blocks: int = 6, width: int = 8):
    """A deep chain of inverted residuals with ReLU6: three layers a block."""
    net = Net(3)

    def relu6(x: str) -> str:
        return net.op("Clip", x, net.const(np.float32(0)), net.const(np.float32(6)))

    x = relu6(net.conv("x", 3, width))
    for _ in range(blocks):
        wide = relu6(net.conv(x, width, 3 * width, 1))
        narrow = net.conv(relu6(net.conv(wide, 3 * width, 3 * width, groups=3 * width)), 3 * width, width, 1)
        x = net.op("Add", narrow, x)
    flat = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.gemm(flat, width, 7), IMAGE)


def lost(model, bits: int, stages: int, corrections: tuple[str, ...]) -> float:
    """The lost power of the answers over their power, on images that nothing was calibrated on."""
    graph = prepared(model)
    plan = Plan({layer.name: "weights" for layer in graph.layers})
    formats = {layer.name: WeightFormat(bits) for layer in graph.layers}
    round_layers(graph, plan, formats, corrections, Samples(batches(images(32)), 32, threads=1), Steps(stages=stages))
    unseen, name = {"x": images(32, seed=9)}, graph.outputs[0]
    true, found = (PartialSession(proto, [name], 1)(unseen)[name] for proto in (graph.model, write(graph, plan)))
    return float(((found - true) ** 2).sum() / true.var(axis=0).sum() / len(true))


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("stages", [2, 3])
def test_error_compensated_rounding_does_not_ruin_a_deep_network_of_depthwise_layers(bits, stages):
    plain = lost(mobile(), bits, 1, ("scales", "bias"))
    assert lost(mobile(), bits, stages, ("scales", "gptq", "bias")) < plain


def test_that_network_is_ruined_when_every_layer_of_a_stage_compensates(monkeypatch):
    """What the test above would see if layers in a row compensated for the same error, as they once did."""
    sound = lost(mobile(), 8, 2, ("scales", "gptq", "bias"))
    monkeypatch.setattr(input_moments, "compensating_layers", lambda graph, stage: {layer.name for layer in stage})
    assert lost(mobile(), 8, 2, ("scales", "gptq", "bias")) > 3 * sound


def test_only_layers_that_no_other_of_the_stage_leads_to_compensate():
    graph = prepared(residual())
    first, second, third, fourth, fifth, head = graph.layers
    assert compensating_layers(graph, [first, second]) == {first.name}
    assert compensating_layers(graph, [second, third]) == {second.name}
    assert compensating_layers(graph, [third, fourth]) == {third.name}  # the shortcut leads around it
    assert compensating_layers(graph, [head]) == {head.name}
    assert compensating_layers(graph, list(graph.layers)) == {first.name}
    assert compensating_layers(graph, [fifth]) == {fifth.name}


def test_parallel_layers_both_compensate():
    net = Net()
    a = net.conv("x", 3, 4)
    graph = prepared(net.model(net.op("Add", net.conv(a, 4, 4), net.conv(a, 4, 4)), IMAGE))
    _, left, right = graph.layers
    assert compensating_layers(graph, [left, right]) == {left.name, right.name}


def test_of_a_whole_network_the_first_layer_alone_compensates():
    graph = prepared(depthwise())
    assert len(compensating_layers(graph, graph.layers)) == 1


@pytest.mark.parametrize(
    ("options", "small", "expected"),
    [
        ({}, True, ("scales", "gptq", "bias")),
        ({}, False, ("scales", "bias")),
        ({"examples": 100}, True, ("scales", "gptq", "bias")),
        ({"examples": 99}, True, ("scales", "bias")),
        ({"bits": 4, "examples": 99}, True, ("scales", "gptq", "bias")),
        ({"bits": 4}, False, ("scales", "gptq", "bias")),
        ({"max_kl": 0.1}, False, ("scales", "gptq", "bias")),
        ({"corrections": ("bias",)}, True, ("bias",)),
    ],
)
def test_auto_compensates_errors_but_at_8_bits_not_of_a_large_network_or_by_few_examples(
    options, small, expected, monkeypatch, tmp_path
):
    from microbudget.methods.quantize import quantizing

    monkeypatch.setattr(quantizing, "SMALL", 10**6 if small else 10)
    onnx.save(residual(), str(tmp_path / "float.onnx"))
    asked = {"corrections": AUTO, "threads": 1, **options}
    outcome = quantizing.quantize_graph(tmp_path / "float.onnx", batches(images(8)), tmp_path / "out.onnx", **asked)
    assert outcome.corrections == expected
