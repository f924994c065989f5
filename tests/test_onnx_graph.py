"""The walks over an ONNX graph that the quantizer, the ledger and the judge share."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from microbudget.errors import UnsupportedModel
from microbudget.runtimes.onnx.graph import OnnxGraph, attribute, captured, load_structure, needed_for, opset


def diamond() -> onnx.ModelProto:
    """x -> Relu a -> (Neg b, Abs c) -> Add d -> Identity y; an If whose branches read a; a node that nobody reads."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["inner"])], "branch", [], [helper.make_empty_tensor_value_info("inner")]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Abs", ["a"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Identity", ["d"], ["y"]),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("LeakyRelu", ["x"], ["unread"], alpha=0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "diamond",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("y", "z")],
        [numpy_helper.from_array(np.array(True), "flag")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def types(nodes) -> list[str]:
    return sorted(node.op_type for node in nodes)


def test_producers_are_found_through_operators_that_are_skipped() -> None:
    graph = OnnxGraph(diamond().graph)
    assert graph.producer("y").op_type == "Identity"
    assert graph.producer("y", skipping=("Identity",)).op_type == "Add"
    assert graph.producer("y", skipping=("Identity", "Add", "Neg", "Relu")) is None, "the walk ends at the input"
    assert graph.producer("flag") is None


def test_consumers_count_subgraphs_and_outputs() -> None:
    graph = OnnxGraph(diamond().graph)
    assert types(graph.consumers["a"]) == ["Abs", "If", "Neg"]
    assert graph.only_consumer("b").op_type == "Add"
    assert graph.only_consumer("a") is None
    assert graph.only_consumer("y") is None


def test_a_walk_downstream_yields_each_node_once() -> None:
    graph = OnnxGraph(diamond().graph)
    assert types(graph.downstream("a", lambda node: True)) == ["Abs", "Add", "Identity", "If", "Neg"]
    assert types(graph.downstream("a", lambda node: node.op_type == "Neg")) == ["Abs", "Add", "If", "Neg"]


def test_origins_are_where_the_walk_upstream_ends() -> None:
    graph = OnnxGraph(diamond().graph)
    assert graph.origins("y", lambda node: True) == {"x"}
    assert graph.origins("y", lambda node: node.op_type in ("Identity", "Add", "Neg")) == {"a", "c"}


def test_what_outputs_need_is_kept_in_order_with_what_subgraphs_read() -> None:
    model = diamond()
    nodes, names = needed_for(["d"], model.graph.node)
    assert [node.op_type for node in nodes] == ["Relu", "Neg", "Abs", "Add"]
    assert names == {"x", "a", "b", "c", "d"}
    nodes, names = needed_for(["z"], model.graph.node)
    assert [node.op_type for node in nodes] == ["Relu", "If"]
    assert names == {"x", "a", "flag", "z"}


def test_nested_nodes_are_there_when_wanted() -> None:
    proto = diamond().graph
    assert len(OnnxGraph(proto, nested=True).nodes) == len(OnnxGraph(proto).nodes) + 2
    assert "inner" in OnnxGraph(proto, nested=True).producers


def test_attributes_opsets_and_broken_files(tmp_path) -> None:
    model = diamond()
    assert captured(model.graph.node[5]) == {"a"}
    assert attribute(model.graph.node[6], "alpha", 0.01) == 0.5
    assert attribute(model.graph.node[0], "alpha", 0.01) == 0.01
    assert opset(model) == 17
    assert opset(onnx.ModelProto()) == 1
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModel, match=r"broken.onnx is not an ONNX model"):
        load_structure(tmp_path / "broken.onnx")
