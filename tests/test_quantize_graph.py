"""Reading graphs: what is prepared, which layers are found, what stays float and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from microbudget.errors import BadData, UnsupportedModel
from microbudget.methods.quantize.calibration import First, checked, input_shapes, leading_to, pieces, watch
from microbudget.methods.quantize.crosslayer import equalize
from microbudget.methods.quantize.patches import patches
from microbudget.methods.quantize.placement import after_activation, place
from microbudget.methods.quantize.prepare import prepared, read_graph
from microbudget.runtimes.onnx.graph import opset
from toy_networks import IMAGE, Net, depthwise, images, residual, run, transformer


def test_layers_of_a_residual_network():
    graph = prepared(residual())
    assert [layer.op for layer in graph.layers] == ["Conv"] * 5 + ["Gemm"]
    assert graph.left_float == {}
    assert all(layer.bias for layer in graph.layers)


@pytest.mark.parametrize("make", [residual, depthwise, transformer])
def test_matrix_and_shaped_are_inverse(make):
    graph = prepared(make())
    for layer in graph.layers:
        W = graph.constants[layer.weight]
        matrix = layer.matrix(W)
        assert matrix.shape[0] == layer.groups
        np.testing.assert_array_equal(layer.shaped(matrix, W.shape), W)


def test_matrix_times_patches_is_the_convolution():
    net = Net()
    model = net.model(net.conv("x", 4, 6, groups=2, strides=[2, 1], pads=[1, 0, 2, 1], bias=False), ["b", 4, 9, 8])
    graph, x = prepared(model), np.random.default_rng(0).normal(size=(2, 4, 9, 8)).astype(np.float32)
    (layer,) = graph.layers
    rows = patches(x, graph.geometry(layer, x.shape[2:]))
    ours = np.einsum("bhwgk,gok->bgohw", rows, layer.matrix(graph.constants[layer.weight]))
    theirs = run(model, x)
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_automatic_padding(mode, stride):
    net = Net()
    W = net.const(net.random.normal(size=(2, 3, 4, 4)).astype("f"))
    model = net.model(net.op("Conv", "x", W, auto_pad=mode, strides=[stride] * 2), ["b", 3, 11, 10])
    graph, x = prepared(model), np.random.default_rng(0).normal(size=(1, 3, 11, 10)).astype(np.float32)
    (layer,) = graph.layers
    rows = patches(x, graph.geometry(layer, x.shape[2:]))
    ours = np.einsum("bhwgk,gok->bgohw", rows, layer.matrix(graph.constants[layer.weight]))[:, 0]
    np.testing.assert_allclose(ours, run(model, x), atol=1e-4)


def with_batch_norms(seed: int = 0) -> onnx.ModelProto:
    net = Net(seed)

    def norm(x: str, channels: int) -> str:
        values = (net.random.normal(1, 0.2, channels), net.random.normal(size=channels))
        statistics = (net.random.normal(size=channels), net.random.uniform(0.5, 2, channels))
        return net.op("BatchNormalization", x, *(net.const(v.astype("f")) for v in (*values, *statistics)))

    a = net.op("Relu", norm(net.conv("x", 3, 8, bias=False), 8))
    return net.model(norm(net.conv(a, 8, 4, groups=4), 4), IMAGE)


def test_batch_norms_are_folded_and_the_function_stays():
    model, x = with_batch_norms(), images(3)
    graph = prepared(model)
    assert not any(node.op_type == "BatchNormalization" for node in graph.nodes)
    np.testing.assert_allclose(run(graph.model, x), run(model, x), atol=1e-4)
    assert any(node.op_type == "BatchNormalization" for node in model.graph.node), "the model given is left alone"


def test_constants_identities_and_overridable_inputs_become_initializers():
    net = Net()
    W = net.random.normal(size=(4, 3, 1, 1)).astype("f")
    net.nodes.append(helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(W, "any")))
    net.nodes.append(helper.make_node("Identity", ["W"], ["W2"]))
    a = net.op("Conv", "x", "W")
    b = net.op("Conv", "x", "W2")
    bias = net.const(np.zeros((1, 4, 1, 1), np.float32), "shift")
    model = net.model(net.op("Add", net.op("Add", a, b), bias), IMAGE)
    model.graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, [1, 4, 1, 1]))
    graph = prepared(model)
    assert {layer.weight for layer in graph.layers} == {"W"}
    assert all(graph.shares_weights(layer) for layer in graph.layers)
    assert graph.inputs == ["x"]
    np.testing.assert_allclose(run(graph.model, images(2)), run(model, images(2)), atol=1e-5)


def test_what_stays_float_is_named_with_its_reason():
    net = Net()
    W = net.const(net.random.normal(size=(4, 3, 1, 1)).astype("f"), "W")
    computed = net.op("Mul", W, net.op("ReduceMax", "x", keepdims=0))
    a = net.op("Conv", "x", computed)
    b = net.op("ConvTranspose", a, net.const(net.random.normal(size=(4, 2, 2, 2)).astype("f")))
    table = net.const(net.random.normal(size=(16, 16)).astype("f"))
    c = net.op("MatMul", b, table)
    d = net.op("Gather", table, net.const(np.int64([0])), axis=0)
    graph = prepared(net.model(net.op("Add", c, d), IMAGE))
    assert graph.layers == ()
    reasons = sorted(graph.left_float.values())
    assert reasons == [
        "ConvTranspose stays float: it is not supported yet",
        "it has no constant weights",
        "its weights also serve Gather",
    ]


def test_control_flow_stays_float_and_its_captured_tensors_count_as_read():
    net = Net()
    a = net.op("Relu", net.conv("x", 3, 4))
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, [a], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name, kind in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    condition = net.op("Greater", net.op("ReduceMax", "x", keepdims=0), net.const(np.float32(0)))
    graph = prepared(net.model(net.op("If", condition, **branches), IMAGE))
    assert "control flow" in next(iter(graph.left_float.values()))
    assert any(reader.op_type == "If" for reader in graph.consumers[a])
    assert graph.only_consumer(a).op_type == "If"


def test_already_quantized_models_are_refused():
    net = Net()
    q = net.op("QuantizeLinear", "x", net.const(np.float32(0.1)), net.const(np.uint8(0)))
    with pytest.raises(UnsupportedModel, match=r"already quantized.*QuantizeLinear"):
        prepared(net.model(q, IMAGE))


def test_old_opsets_are_raised_and_unknown_files_refused(tmp_path):
    net = Net()
    old = net.model(net.op("Relu", net.conv("x", 3, 4)), IMAGE, opset=9)
    assert opset(prepared(old).model) >= 13
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(UnsupportedModel, match="cannot be read as ONNX"):
        read_graph(broken)


def test_external_data_are_loaded(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(residual(), str(path), save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    graph = read_graph(path)
    assert len(graph.layers) == 6
    np.testing.assert_allclose(run(graph.model, images(2)), run(residual(), images(2)), atol=1e-6)


def test_equalization_of_a_graph_keeps_its_function():
    model = residual()
    for tensor in model.graph.initializer:  # make the channels uneven
        if tensor.dims[:1] == [8] and len(tensor.dims) == 4:
            W = numpy_helper.to_array(tensor) * 10 ** np.random.default_rng(1).uniform(-1, 1, (8, 1, 1, 1))
            tensor.CopyFrom(numpy_helper.from_array(W.astype("f"), tensor.name))
    graph, pairs = equalize(prepared(model))
    assert pairs == 2  # within the two blocks; the shortcuts have more than one reader
    np.testing.assert_allclose(run(graph.model, images(4)), run(model, images(4)), rtol=1e-3, atol=1e-3)


def test_placement_of_a_residual_network_is_all_integers():
    graph = prepared(residual())
    placement = place(graph, frozenset(layer.name for layer in graph.layers))
    inside = {node.op_type for node in graph.nodes if node.name in placement.nodes}
    assert inside == {"Conv", "Add", "Slice", "Pad", "GlobalAveragePool", "Flatten", "Gemm"}
    assert "x" in placement.tensors
    assert graph.outputs[0] not in placement.tensors, "the logits stay as the kernel gives them"
    for moved, source in placement.source.items():
        assert moved not in placement.tensors
        assert source in placement.tensors


def test_a_float_layer_takes_its_lonely_neighbours_along():
    graph = prepared(residual())
    convs = [layer.name for layer in graph.layers]
    placement = place(graph, frozenset({convs[-1]}))
    assert {node.op_type for node in graph.nodes if node.name in placement.nodes} == {"Gemm"}
    kept = place(graph, frozenset(convs), frozenset({"Add7"} & {node.name for node in graph.nodes}))
    assert len(kept.nodes) <= len(place(graph, frozenset(convs)).nodes)


def test_settled_looks_after_relu_and_clip_only_where_they_alone_read():
    graph = prepared(residual())
    first = graph.layers[0]
    assert graph.producers[after_activation(graph, first.output)].op_type == "Relu"
    net = Net()
    a = net.conv("x", 3, 4)
    shared = net.op("Add", net.op("Relu", a), a)
    graph = prepared(net.model(shared, IMAGE))
    assert after_activation(graph, a) == a


def test_watch_sees_every_example_of_every_tensor_once(monkeypatch):
    from microbudget.methods.quantize import calibration

    graph, x = prepared(residual()), images(10)
    names = [layer.output for layer in graph.layers]
    whole: dict[int, list[np.ndarray]] = {}
    for budget in (calibration.SEEN_AT_ONCE_BYTES, 20_000, 1):
        monkeypatch.setattr(calibration, "SEEN_AT_ONCE_BYTES", budget)
        monkeypatch.setattr(calibration, "ONE_EXAMPLE_BYTES", budget)
        seen: dict[int, list[np.ndarray]] = {}
        watch(
            [(graph.model, names)], [{"x": x[:7]}, {"x": x[7:]}], lambda i, v, s=seen: s.setdefault(i, []).append(v[0])
        )
        joined = {i: np.concatenate(parts) for i, parts in seen.items()}
        assert {i: len(v) for i, v in joined.items()} == dict.fromkeys(range(len(names)), 10)
        for i in whole:
            np.testing.assert_allclose(joined[i], whole[i], atol=1e-5)
        whole = joined


def test_part_of_a_model_has_only_what_it_needs():
    graph = prepared(residual())
    part = leading_to(graph.model, [graph.layers[0].output])
    assert [node.op_type for node in part.graph.node] == ["Conv"]
    assert len(part.graph.initializer) == 2


def test_pieces_respect_a_fixed_batch_and_first_counts_examples():
    data = [{"x": np.zeros((5, 2))}, {"x": np.ones((4, 2))}]
    assert [len(p["x"]) for p in pieces(data, 3)] == [3, 2, 3, 1]
    assert [len(p["x"]) for p in pieces(data, 3, fixed=2)] == [2, 2, 2, 2]
    first = First(data, 6, None)
    assert sum(len(b["x"]) for b in first) == 6
    assert sum(len(b["x"]) for b in first) == 6, "can be read again"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "at least one batch"),
        ([{"y": np.zeros((1, 3, 16, 16), "f")}], "wants 'x'"),
        ([{"x": np.zeros((1, 3, 8, 8), "f")}], r"shape \[1, 3, 8, 8\].*\[any, 3, 16, 16\]"),
        ([{"x": np.zeros((3, 16, 16), "f")}], "shape"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(data, message):
    with pytest.raises(BadData, match=message):
        checked(data, input_shapes(residual()))


def test_a_one_shot_iterator_is_kept():
    data = checked(iter([{"x": images(2)}]), input_shapes(residual()))
    assert len(list(data)) == len(list(data)) == 1
