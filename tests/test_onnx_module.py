"""The torch module of an ONNX graph: operator by operator against ONNX Runtime, whole networks, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import Parameter

import toy_networks
from microbudget.errors import UnsupportedModel
from microbudget.methods.prune.graph import trace
from microbudget.methods.prune.sensitivity import masked
from microbudget.methods.prune.surgery import cut
from microbudget.methods.prune.target import PruningTarget
from microbudget.runtimes.onnx.module.agreement import check_agreement
from microbudget.runtimes.onnx.module.blocks import last_block
from microbudget.runtimes.onnx.module.network import OnnxNetwork
from microbudget.runtimes.onnx.module.norms import add_norms
from microbudget.runtimes.onnx.module.preparing import FLATTEN, only_output, prepared
from microbudget.runtimes.onnx.module.reading import OPERATORS
from microbudget.runtimes.onnx.module.writing import written
from toy_networks import Net

RANDOM = np.random.default_rng(3)


def floats(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype("f")


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


# An operator, the shape of x, its constants, its attributes; a number at the end is the opset.
CASES: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any], int]] = [
    *((op, (2, 5), [], {}, 17) for op in (
        "Abs", "Cos", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg", "Reciprocal",
        "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu", "Celu", "LpNormalization",
        "LogSoftmax", "Softmax", "ReduceLogSumExp", "ReduceL2", "ReduceL1", "ReduceSumSquare", "ReduceProd", "Dropout",
    )),
    ("Mish", (2, 5), [], {}, 18),
    ("Gelu", (2, 5), [], {}, 20),
    ("Gelu", (2, 5), [], {"approximate": "tanh"}, 20),
    ("HardSigmoid", (2, 5), [], {"alpha": 1 / 6}, 17),
    ("Softmax", (2, 3, 4), [], {"axis": 1}, 11),
    ("Softmax", (2, 3, 4), [], {"axis": 1}, 13),
    ("Clip", (2, 5), [], {"min": -0.5, "max": 0.25}, 6),
    ("Clip", (2, 5), [np.float32(-0.5), np.float32(0.25)], {}, 13),
    ("Clip", (2, 5), [np.float32(0)], {}, 13),
    ("PRelu", (2, 3, 4, 4), [floats(3, 1, 1)], {}, 17),
    *((op, (2, 3, 4), [floats(3, 1)], {}, 17) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    ("Mul", (3,), [floats(2, 1, 1)], {}, 17),
    ("Pow", (2, 5), [np.float32(2)], {}, 17),
    ("MatMul", (2, 3, 4), [floats(4, 5)], {}, 17),
    ("MatMul", (2, 3, 4), [floats(2, 4, 5)], {}, 17),
    ("Gemm", (2, 4), [floats(5, 4), floats(5)], {"transB": 1}, 17),
    ("Gemm", (2, 4), [floats(4, 5), floats(1, 5)], {}, 17),
    ("Gemm", (4, 2), [floats(4, 5), np.float32(0.5)], {"transA": 1, "alpha": 0.5, "beta": 2.0}, 17),
    ("Einsum", (2, 3, 4), [], {"equation": "bij->bji"}, 17),
    ("Conv", (2, 3, 8, 8), [floats(4, 3, 3, 3), floats(4)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 17),
    ("Conv", (2, 3, 8, 8), [floats(4, 3, 3, 3)], {"pads": [0, 0, 1, 1], "strides": [2, 2]}, 17),
    ("Conv", (2, 3, 8, 8), [floats(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("Conv", (2, 3, 9, 8), [floats(4, 3, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 17),
    ("Conv", (2, 4, 8), [floats(4, 2, 3)], {"group": 2, "dilations": [2]}, 17),
    ("Conv", (1, 2, 4, 4, 4), [floats(3, 2, 2, 2, 2)], {}, 17),
    ("ConvTranspose", (2, 4, 5, 5), [floats(4, 3, 3, 3), floats(3)], {"strides": [2, 2], "pads": [0, 1, 1, 0]}, 17),
    ("ConvTranspose", (2, 4, 5, 5), [floats(4, 2, 3, 3)], {"group": 2, "strides": [2, 2], "output_padding": [1, 1]},
     17),
    ("BatchNormalization", (2, 3, 4, 4), [floats(3), floats(3), floats(3), floats(3) ** 2], {}, 17),
    ("LayerNormalization", (2, 3, 4), [floats(4), floats(4)], {}, 17),
    ("LayerNormalization", (2, 3, 4), [floats(3, 4)], {"axis": 1, "epsilon": 1e-3}, 17),
    ("InstanceNormalization", (2, 3, 4, 4), [floats(3), floats(3)], {}, 17),
    ("GroupNormalization", (2, 4, 3, 5), [floats(4), floats(4)], {"num_groups": 2}, 21),
    ("MeanVarianceNormalization", (2, 3, 4, 4), [], {}, 17),
    ("LRN", (2, 7, 4, 4), [], {"size": 3, "alpha": 0.5}, 17),
    ("LRN", (2, 7, 4, 4), [], {"size": 5, "alpha": 0.5, "beta": 0.5, "bias": 2.0}, 17),
    ("GlobalAveragePool", (2, 3, 4, 5), [], {}, 17),
    ("GlobalMaxPool", (2, 3, 4, 5), [], {}, 17),
    ("MaxPool", (2, 3, 7, 7), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("MaxPool", (2, 3, 8, 8), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, 17),
    ("MaxPool", (2, 3, 8, 8), [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", (2, 3, 8, 8), [], {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "VALID"}, 17),
    ("AveragePool", (2, 3, 7, 7), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("AveragePool", (2, 3, 7), [], {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1}, 17),
    ("AveragePool", (2, 3, 8, 8), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, 17),
    ("AveragePool", (2, 3, 8, 8), [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}, 17),
    ("AveragePool", (2, 3, 8, 8), [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 19),
    ("ReduceMean", (2, 3, 4, 4), [], {"axes": [2, 3], "keepdims": 0}, 13),
    ("ReduceMean", (2, 3, 4, 4), [ints(-1, -2)], {}, 18),
    ("ReduceMax", (2, 3, 4), [], {"axes": [1]}, 13),
    ("ReduceSum", (2, 3, 4), [ints(1)], {"keepdims": 0}, 13),
    ("ReduceMin", (2, 3, 4), [], {}, 13),
    ("Reshape", (2, 3, 4), [ints(0, -1)], {}, 17),
    ("Reshape", (2, 3, 4), [ints(4, 6)], {}, 17),
    ("Flatten", (2, 3, 4), [], {"axis": 2}, 17),
    ("Flatten", (2, 3, 4), [], {}, 17),
    ("Transpose", (2, 3, 4), [], {"perm": [2, 0, 1]}, 17),
    ("Transpose", (2, 3, 4), [], {}, 17),
    ("Squeeze", (2, 1, 4, 1), [ints(1, -1)], {}, 13),
    ("Squeeze", (2, 1, 4, 1), [], {"axes": [3]}, 11),
    ("Unsqueeze", (2, 4), [ints(0, 3)], {}, 13),
    ("Unsqueeze", (2, 4), [], {"axes": [1]}, 11),
    ("Concat", (2, 3, 4), [floats(2, 2, 4)], {"axis": 1}, 17),
    ("Split", (2, 6), [], {"axis": 1, "split": [2, 4]}, 11),
    ("Split", (2, 6), [ints(4, 2)], {"axis": 1}, 13),
    ("Slice", (4, 6), [], {"starts": [1], "ends": [3], "axes": [0]}, 9),
    ("Slice", (4, 6), [ints(-1, 0), ints(-100, 5), ints(0, 1), ints(-2, 2)], {}, 13),
    ("Slice", (4, 6), [ints(1), ints(2**62), ints(-1)], {}, 13),
    ("Gather", (4, 6), [ints(0, -1)], {"axis": 1}, 17),
    ("Gather", (4, 6), [ints(3, 1)], {}, 17),
    ("Gather", (4, 6), [np.array(2)], {"axis": 1}, 17),
    ("GatherElements", (2, 3), [np.array([[0, 0, 1], [1, 1, 0]])], {}, 17),
    ("Expand", (3, 1), [ints(2, 3, 4)], {}, 17),
    ("Tile", (2, 3), [ints(2, 1)], {}, 17),
    ("Pad", (2, 3, 4, 4), [], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, 2),
    ("Pad", (2, 3, 4, 4), [ints(0, 1, 1, 2, 0, 2, 0, 1), np.float32(0.5)], {}, 13),
    ("Pad", (2, 3, 4, 4), [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 13),
    ("Pad", (2, 3, 4, 4), [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 13),
    ("Pad", (2, 3, 4, 4), [ints(1, 1), np.float32(0), ints(2)], {}, 18),
    ("Pad", (2, 3, 4, 4), [ints(0, 0, -1, 0, 0, 0, 0, -2)], {}, 13),
    ("DepthToSpace", (2, 8, 3, 5), [], {"blocksize": 2}, 17),
    ("DepthToSpace", (2, 8, 3, 5), [], {"blocksize": 2, "mode": "CRD"}, 17),
    ("SpaceToDepth", (2, 2, 4, 6), [], {"blocksize": 2}, 17),
    ("Resize", (1, 2, 4, 4), ["", "", ints(1, 2, 8, 6)], {"mode": "linear"}, 17),
    ("Resize", (1, 2, 4, 4), ["", np.array([1, 1, 2, 2], "f")],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 17),
    ("Resize", (1, 2, 4, 4), ["", "", ints(1, 2, 8, 8)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 17),
    ("Resize", (1, 2, 4, 4), ["", "", ints(1, 2, 8, 8)], {"mode": "cubic"}, 17),
    ("Upsample", (1, 2, 4, 4), [np.array([1, 1, 2, 2], "f")], {}, 9),
    ("Where", (2, 3), [floats(2, 3)], {}, 17),
]  # fmt: skip


def one_operator(op: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any], opset: int) -> Any:
    names = ["x"]
    initializers = []
    for place, value in enumerate(constants):
        names.append("" if isinstance(value, str) else f"c{place}")
        if not isinstance(value, str):
            initializers.append(numpy_helper.from_array(np.asarray(value), f"c{place}"))
    if op == "Where":
        initializers.append(numpy_helper.from_array(np.array([[True, False, True]]), "condition"))
        names = ["condition", *names]
    outputs = ["y", "z"] if op == "Split" else ["y"]
    node = helper.make_node(op, names, outputs, name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def in_onnxruntime(model: Any, x: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[4]}-{len(case[2])}{len(case[3])}")
def test_an_operator_answers_as_onnxruntime_and_has_a_gradient(case: Any) -> None:
    op, shape, constants, attributes, opset = case
    model = one_operator(op, shape, constants, attributes, opset)
    x = np.random.default_rng(0).normal(size=shape).astype("f")
    given = torch.from_numpy(x).requires_grad_()
    found = OnnxNetwork(prepared(model), "y").scores(x=given)
    expected = in_onnxruntime(model, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()


def test_the_table_has_nearly_every_operator() -> None:
    """What is not in it is of shapes and truth values, or is in the networks below."""
    rest = set(OPERATORS) - {case[0] for case in CASES}
    assert rest == {
        "And", "Cast", "CastLike", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Not", "Or",
        "QuickGelu", "RMSNormalization", "ReduceLogSum", "Shape", "Size", "Sqrt", "Swish", "Xor",
    }  # fmt: skip


@pytest.mark.parametrize("opset", [15, 17])
@pytest.mark.parametrize("make", [toy_networks.residual, toy_networks.depthwise, toy_networks.transformer])
def test_networks_answer_as_onnxruntime_and_are_written_back_as_they_were(make: Any, opset: int) -> None:
    model = make(opset=opset)
    ready, network, x = opened(model)
    np.testing.assert_allclose(network.scores(x=torch.from_numpy(x)).detach(), in_onnxruntime(model, x), atol=1e-5)
    again = written(network)
    assert [node.SerializeToString() for node in again.graph.node] == [
        node.SerializeToString() for node in ready.graph.node
    ]
    np.testing.assert_array_equal(in_onnxruntime(again, x), in_onnxruntime(ready, x))


def opened(model: Any, **inputs: Any) -> tuple[Any, OnnxNetwork, Any]:
    ready = prepared(model)
    output = ready.graph.output[0].name
    port = ready.graph.input[0]
    sides = [dim.dim_value or 4 for dim in port.type.tensor_type.shape.dim]
    return ready, OnnxNetwork(ready, output), np.random.default_rng(0).normal(size=sides).astype("f")


def test_what_was_learnt_is_in_the_file() -> None:
    """Every parameter gets a gradient, and after a step ONNX Runtime answers as the module."""
    ready, network, x = opened(toy_networks.residual())
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    network(x=torch.from_numpy(x)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    found = network.scores(x=torch.from_numpy(x)).detach().numpy()
    assert np.abs(found - in_onnxruntime(ready, x)).max() > 1e-3
    np.testing.assert_allclose(in_onnxruntime(written(network), x), found, atol=1e-5)


def test_tensors_have_their_onnx_names() -> None:
    net = Net()
    y = net.op("Conv", "x", net.const(floats(4, 3, 3, 3), "features.0.weight"), net.const(floats(4), "features.0.bias"))
    y = net.op("Relu", net.op("Add", y, net.const(floats(4, 1, 1), "shift")))
    y = net.op("MatMul", net.op("Flatten", y), net.const(floats(4 * 14 * 14, 5), "head/kernel"))
    ready, network, _ = opened(net.model(y, ["batch", 3, 16, 16]))
    assert network.stored_in == {
        "features.0.weight": "features.0.weight",
        "features.0.bias": "features.0.bias",
        "shift": "shift",
        "head/kernel.weight": "head/kernel",
    }
    assert network.transposed == {"head/kernel.weight"}
    assert type(network.get_submodule("features.0")) is torch.nn.Conv2d
    assert network.last_linear()[0] == "head/kernel"
    del ready


@pytest.mark.parametrize("name", ["type", "a..b", "forward", "steps", "conv", "training.x"])
def test_names_that_a_module_cannot_have_are_changed(name: str) -> None:
    net = Net()
    y = net.op("Conv", "x", net.const(floats(4, 3, 3, 3), name))
    y = net.op("Conv", y, net.const(floats(4, 4, 3, 3), f"{name}.weight"))
    ready, network, x = opened(net.model(y, ["batch", 3, 16, 16]))
    assert sorted(network.stored_in.values()) == sorted([name, f"{name}.weight"])
    np.testing.assert_allclose(network.scores(x=torch.from_numpy(x)).detach(), in_onnxruntime(ready, x), atol=1e-4)


def test_weights_that_two_layers_share_stay_one() -> None:
    net = Net()
    kernel = net.const(floats(3, 3, 3, 3), "kernel")
    y = net.op("Conv", net.op("Relu", net.op("Conv", "x", kernel)), kernel)
    _, network, x = opened(net.model(y, ["batch", 3, 16, 16]))
    assert len(list(network.parameters())) == 1
    with torch.no_grad():
        next(network.parameters()).mul_(0.5)
    found = network.scores(x=torch.from_numpy(x)).detach()
    np.testing.assert_allclose(in_onnxruntime(written(network), x), found, atol=1e-5)


def test_constants_before_the_first_layer_and_single_numbers_are_not_trained() -> None:
    """The normalization of the pixels in the graph is no weight, nor is the number in a scaled activation."""
    net = Net()
    y = net.op("Div", net.op("Sub", "x", net.const(floats(3, 1, 1), "mean")), net.const(floats(3, 1, 1) + 9, "std"))
    y = net.op("Mul", net.conv(y, 3, 4), net.const(np.float32(0.5), "half"))
    _, network, _ = opened(net.model(y, ["batch", 3, 16, 16]))
    assert {name.rpartition(".")[2] for name, _ in network.named_parameters()} == {"weight", "bias"}
    assert {name for name, _ in network.named_buffers()} == {"mean", "std"}


def test_a_graph_of_channels_last_bytes_with_a_softmax_learns_from_its_logits() -> None:
    net = Net()
    y = net.op("Transpose", net.op("Cast", "x", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    y = net.op("Flatten", net.op("GlobalAveragePool", net.conv(y, 3, 8)))
    model = net.model(net.op("Softmax", net.gemm(y, 8, 5)), ["batch", 16, 16, 3])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    del model.graph.value_info[:]
    ready = prepared(model)
    network = OnnxNetwork(ready, ready.graph.output[0].name)
    x = RANDOM.integers(0, 256, (2, 3, 16, 16)).astype("f")
    logits = network(pixel_values=torch.from_numpy(x)).logits
    expected = in_onnxruntime(model, x.transpose(0, 2, 3, 1).astype(np.uint8))
    np.testing.assert_allclose(torch.softmax(logits, 1).detach(), expected, atol=1e-5)
    assert logits.abs().max() > 0.0
    assert (logits > 0).any(), "these are logarithms of probabilities"


def test_half_floats_are_widened() -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(toy_networks.depthwise(), keep_io_types=False)
    ready, network, x = opened(half)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    np.testing.assert_allclose(network.scores(x=torch.from_numpy(x)).detach(), in_onnxruntime(ready, x), atol=1e-4)


def test_a_graph_for_one_example_is_trained_in_batches() -> None:
    """Its Reshape names the one example, and the channels; both may change in the module."""
    net = Net()
    y = net.op("Reshape", net.op("GlobalAveragePool", net.conv("x", 3, 8)), net.const(ints(1, 8)))
    model = net.model(net.gemm(y, 8, 5), [1, 3, 16, 16])
    ready, network, x = opened(model)
    assert FLATTEN in {name for node in ready.graph.node for name in node.input}
    both = np.concatenate([x, x + 1])
    found = network.scores(x=torch.from_numpy(both)).detach()
    for row in range(2):
        np.testing.assert_allclose(found[row : row + 1], in_onnxruntime(model, both[row : row + 1]), atol=1e-5)


def test_shapes_that_nodes_compute_are_those_of_the_batch() -> None:
    """As older exporters write x.view(len(x), -1)."""
    net = Net()
    y = net.conv("x", 3, 8)
    first = net.op("Gather", net.op("Shape", y), net.const(np.array(0)), axis=0)
    parts = [net.op("Unsqueeze", first, net.const(ints(0))), net.const(ints(-1))]
    y = net.op("Reshape", y, net.op("Concat", *parts, axis=0))
    ready, network, x = opened(net.model(net.gemm(y, 8 * 256, 5), ["batch", 3, 16, 16]))
    for count in (1, 3):
        part = x[:count]
        np.testing.assert_allclose(
            network.scores(x=torch.from_numpy(part)).detach(), in_onnxruntime(ready, part), atol=1e-4
        )


def test_batch_norms_can_be_estimated_anew_or_kept() -> None:
    net = Net()
    parts = [net.const(value, f"bn.{name}") for name, value in (
        ("weight", floats(4)), ("bias", floats(4)), ("running_mean", floats(4)), ("running_var", floats(4) ** 2 + 1),
    )]  # fmt: skip
    y = net.op("BatchNormalization", net.op("Relu", net.conv("x", 3, 4)), *parts)
    ready, network, x = opened(net.model(y, ["batch", 3, 16, 16]))
    assert isinstance(network.get_submodule("bn"), torch.nn.modules.batchnorm._BatchNorm)
    before = network.scores(x=torch.from_numpy(x)).detach()
    np.testing.assert_allclose(before, in_onnxruntime(ready, x), atol=1e-4)
    network.train()
    network.scores(x=torch.from_numpy(x))
    network.eval()
    after = network.scores(x=torch.from_numpy(x)).detach()
    assert not torch.allclose(before, after, atol=1e-3)
    np.testing.assert_allclose(in_onnxruntime(written(network), x), after, atol=1e-4)


def test_norms_that_are_given_again_change_nothing_and_are_folded_into_the_file() -> None:
    ready, network, x = opened(toy_networks.depthwise())
    images = torch.from_numpy(toy_networks.images(16))
    before = network(x=images).logits.detach()
    assert add_norms(network, [{"x": images[:8]}, {"x": images[8:]}]) == 5
    np.testing.assert_allclose(network(x=images).logits.detach(), before, atol=1e-4)
    network.train()
    np.testing.assert_allclose(network(x=images).logits.detach(), before, atol=1e-2)  # the moments are those of x
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.mul_(1.1)
    network.eval()
    again = written(network)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in ready.graph.node]
    np.testing.assert_allclose(in_onnxruntime(again, x), network.scores(x=torch.from_numpy(x)).detach(), atol=1e-4)


def test_channels_are_removed_from_a_graph() -> None:
    """Groups of a depthwise convolution, a residual, and the reshape before the head follow."""
    net = Net(1)
    a = net.op("Relu", net.conv("x", 3, 8))
    b = net.op("Add", net.conv(net.op("Clip", net.conv(net.conv(a, 8, 12), 12, 12, groups=12)), 12, 8), a)
    y = net.op("Reshape", net.op("GlobalAveragePool", b), net.const(ints(-1, 8)))
    _, network, x = opened(net.model(net.gemm(y, 8, 5), ["batch", 3, 16, 16]))
    dependencies = trace(network, {"x": torch.from_numpy(x[:2])})
    removed = np.concatenate([site.bundles[: site.width // 2] for site in dependencies.sites])
    batch = {"x": torch.from_numpy(x)}
    with masked(PruningTarget(network, [batch]), dependencies, removed):
        expected = network(**batch).logits.detach()
    cut(network, dependencies, removed)
    assert sorted(parameter.shape[0] for _, parameter in network.named_parameters() if parameter.ndim == 4) == [
        4,
        4,
        6,
        6,
    ]
    again = written(network)
    onnx.checker.check_model(again, full_check=True)
    np.testing.assert_allclose(in_onnxruntime(again, x), expected, atol=1e-4)


def test_the_last_block_is_the_last_residual_and_what_follows() -> None:
    net = Net()
    y = net.op("Relu", net.conv("x", 3, 4))
    for _ in range(2):
        y = net.op("Add", net.conv(net.op("Relu", net.conv(y, 4, 4)), 4, 4), y)
    model = net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", y)), 4, 5), ["batch", 3, 16, 16])
    _, network, _ = opened(model)
    assert shapes(last_block(network)) == [(4, 4, 3, 3), (4,), (4, 4, 3, 3), (4,), (5, 4), (5,)]


def test_the_last_block_of_a_plain_row_of_layers_is_the_layer_before_the_head() -> None:
    net = Net()
    y = net.op("Relu", net.conv(net.op("Relu", net.conv("x", 3, 4)), 4, 6))
    model = net.model(net.gemm(net.op("Flatten", net.op("GlobalAveragePool", y)), 6, 5), ["batch", 3, 16, 16])
    _, network, _ = opened(model)
    assert shapes(last_block(network)) == [(6, 4, 3, 3), (6,), (5, 6), (5,)]


def shapes(parameters: list[Parameter]) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in parameters]


def test_other_outputs_can_be_left_out() -> None:
    net = Net()
    features = net.op("Flatten", net.op("GlobalAveragePool", net.conv("x", 3, 4)))
    scores = net.gemm(features, 4, 5)
    other = net.gemm(features, 4, 7)
    ready = prepared(net.model(scores, ["batch", 3, 16, 16], outputs=[other, scores]))
    only_output(ready, scores)
    onnx.checker.check_model(ready)
    assert [value.name for value in ready.graph.output] == [scores]
    assert len(ready.graph.initializer) == 4


@pytest.mark.parametrize(
    ("op", "attributes", "domain", "message"),
    [
        ("Round", {}, "", r"operator Round \(r\) has no gradient, so that nothing before it can learn"),
        ("Fantasy", {}, "my.own", r"operator Fantasy of my\.own \(r\) is not known to training"),
        ("GRU", {}, "", r"operator GRU \(r\) is not known to training"),
        ("DequantizeLinear", {}, "", r"graph is quantized, it has the operator DequantizeLinear \(r\): .*use qat"),
    ],
)
def test_operators_that_cannot_be_trained_are_named(
    op: str, attributes: dict[str, Any], domain: str, message: str
) -> None:
    net = Net()
    convolved = net.conv("x", 3, 4)
    model = net.model(convolved, ["batch", 3, 16, 16])
    model.graph.node.append(helper.make_node(op, [convolved], ["y"], name="r", domain=domain, **attributes))
    with pytest.raises(UnsupportedModel, match=message):
        OnnxNetwork(prepared(model), "y")


def test_an_operator_without_gradient_beside_the_way_to_the_scores_is_no_matter() -> None:
    net = Net()
    scores = net.gemm(net.op("Flatten", net.op("GlobalAveragePool", net.conv("x", 3, 4))), 4, 5)
    model = net.model(scores, ["batch", 3, 16, 16], outputs=[scores, net.op("Round", scores)])
    OnnxNetwork(prepared(model), scores)


def test_a_form_of_an_operator_that_is_not_known_is_named() -> None:
    model = one_operator("AveragePool", (2, 3, 8, 8), [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, 19)
    _, network, x = opened(model)
    with pytest.raises(UnsupportedModel, match=r"AveragePool \(node\) is of a form that training does not know"):
        check_agreement(network, {"x": x})


def test_a_module_that_answers_differently_is_refused_with_the_difference() -> None:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}
    model = one_operator("Resize", (1, 2, 4, 4), ["", "", ints(1, 2, 8, 8)], how, 17)
    _, network, x = opened(model)
    with pytest.raises(UnsupportedModel, match=r"answers differently from ONNX Runtime, by up to [1-9]\.?\d*"):
        check_agreement(network, {"x": x})


def test_a_module_that_agrees_says_by_how_much() -> None:
    model = toy_networks.residual()
    _, network, x = opened(model)
    assert check_agreement(network, {"x": x}) < 1e-5
