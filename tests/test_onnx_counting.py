"""What is inside an ONNX file, and what is counted: exporters' files, copies of weights, what a run leaves."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from microbudget.cli import main
from microbudget.errors import AlreadyExists, BadData, InvalidRecipe, UnsupportedModel
from microbudget.judge.budget import Budget
from microbudget.judge.ledger import ledger
from microbudget.judge.work import count
from microbudget.methods.quantize.prepare import prepared
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.model import Model, Record, weight_files
from microbudget.recipes.recipe import Recipe
from microbudget.runs.run import without_trace
from microbudget.units import parse_bytes, parse_joules

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def saved(path: Path, nodes: list, constants: dict, shape: tuple, outputs: tuple = ("n", "classes")) -> Path:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(outputs))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def group_norm(path: Path) -> Path:
    """Conv, GroupNorm as torch's exporter writes it (the shape back is computed), SiLU, Conv, mean, Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Reshape", ["a", "groups"], ["b"]),
        helper.make_node("InstanceNormalization", ["b", "one", "zero"], ["c"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Reshape", ["c", "s"], ["d"]),
        helper.make_node("Mul", ["d", "gain"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Mul", ["e", "f"], ["g"]),
        helper.make_node("Conv", ["g", "w2"], ["h"], pads=[1] * 4),
        helper.make_node("ReduceMean", ["h"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w3"], ["y"], transB=1),
    ]
    constants = {
        "w1": floats(8, 3, 3, 3), "w2": floats(8, 8, 3, 3), "w3": floats(5, 8), "gain": floats(8, 1, 1),
        "groups": np.array([0, 2, -1]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32),
    }  # fmt: skip
    return saved(path, nodes, constants, (3, 12, 12))


def test_multiply_adds_after_a_computed_reshape_are_counted(tmp_path: Path) -> None:
    work = count(group_norm(tmp_path / "model.onnx"), {"x": (1, 3, 12, 12)})
    assert work.total_multiply_adds == 12 * 12 * 8 * 27 + 12 * 12 * 8 * 72 + 8 * 5
    assert not {"Conv", "Gemm"} & work.not_counted.keys()


def test_what_stays_float_is_listed_once(tmp_path: Path) -> None:
    path = group_norm(tmp_path / "model.onnx")
    data = [{"x": floats(4, 3, 12, 12)}]
    outcome = quantize_graph(path, data, tmp_path / "int8.onnx", corrections=())
    (note,) = [note for note in outcome.notes if "computed in float" in note]
    assert all(name in note for name in ("InstanceNormalization", "Mul"))
    assert {layer.bits for layer in outcome.layers} <= {7, 8}
    assert len(outcome.layers) == 3


def test_a_scalar_integer_is_no_shape_of_packed_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["x", "index"], ["a"], axis=1),
        helper.make_node("Reshape", ["a", "index"], ["r"], name="odd"),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"index": np.array(0), "w": floats(4, 2)}, (2, 4))
    assert ledger(Model(path, "onnx", Record())).parameters == 8


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Transpose", ["stored"], ["w"], perm=[1, 0])],
        [helper.make_node("Identity", ["stored"], ["i"]), helper.make_node("Transpose", ["i"], ["w"], perm=[1, 0])],
        [helper.make_node("Reshape", ["stored", "shape"], ["w"])],
        [
            helper.make_node("Cast", ["stored"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["half"], ["back"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["back"], ["w"], perm=[1, 0]),
        ],
    ],
)
def test_moved_and_converted_weights_are_weights(tmp_path: Path, nodes: list) -> None:
    constants = {"stored": floats(3, 6), "shape": np.array([6, 3])}
    path = saved(tmp_path / "m.onnx", [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], constants, (6,))
    graph = prepared(onnx.load(str(path)))
    assert [layer.weight for layer in graph.layers] == ["w"]
    assert "stored" not in graph.constants
    x = floats(2, 6)
    expected = onnx.reference.ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    assert np.allclose(x @ graph.constants["w"], expected, atol=1e-5)


def test_a_shared_large_table_is_not_copied(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["table"], ["w"], perm=[1, 0]),
        helper.make_node("ReduceSum", ["table"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "sum"], ["y"]),
    ]
    graph = prepared(onnx.load(str(saved(tmp_path / "m.onnx", nodes, {"table": floats(300, 6)}, (6,)))))
    assert not graph.layers
    assert "serve" in next(iter(graph.left_float.values()))


def test_quantizers_on_activations_only_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    constants = {"scale": np.float32(0.1), "zero": np.uint8(0), "w": floats(6, 3)}
    path = saved(tmp_path / "m.onnx", nodes, constants, (6,))
    with pytest.raises(UnsupportedModel, match=r"already quantized.*QuantizeLinear"):
        prepared(onnx.load(str(path)))


def test_copies_of_weights_are_not_counted(tmp_path: Path) -> None:
    for name in ("model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"):
        (tmp_path / name).write_bytes(b"12345678")
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in (*parts, "model-00003-of-00003.safetensors"):
        (tmp_path / name).write_bytes(b"12345678")
    index = {"weight_map": {"a": parts[1], "b": parts[0], "c": parts[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors.index.json", *parts]


@pytest.mark.parametrize("text", ["3mb", "3 MB", "3Mb", "3 mB"])
def test_sizes_in_any_case(text: str) -> None:
    assert parse_bytes(text) == 3_000_000


def test_binary_sizes_and_nanojoules() -> None:
    assert parse_bytes("3MiB") == parse_bytes("3 mib") == 3 * 2**20
    assert parse_joules("5 nJ") == pytest.approx(5e-9)


@pytest.mark.parametrize("text", ["quantize(bits=8, bits=4)", "finetune() > quantize(bits=8, samples=9, bits=8)"])
def test_an_option_given_twice_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRecipe, match="twice"):
        Recipe.parse(text)


def test_an_option_of_a_verb_given_twice_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "m.onnx", "--data", "a", "--data=b"]) == 2
    assert "--data is given twice" in capsys.readouterr().err


def test_a_byte_order_mark_in_recipes(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_bytes(b"\xef\xbb\xbf" + b'recipe = "quantize(bits=4)"\n')
    assert Recipe.read(str(file)) == Recipe.parse("\ufeffquantize(bits=4)") == Recipe.parse("quantize(bits=4)")


def test_whether_a_budget_limits_costs() -> None:
    assert not Budget().limits_costs
    assert Budget(max_size_bytes=1).limits_costs


def test_a_refused_command_leaves_no_trace(tmp_path: Path) -> None:
    def refused() -> None:
        with without_trace(tmp_path / "runs" / "one"):
            (tmp_path / "runs" / "one" / "cache").mkdir(parents=True)
            raise BadData("refused")

    with pytest.raises(BadData):
        refused()
    assert not any(tmp_path.iterdir())


def test_a_folder_of_photos_is_no_run_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"1")
    with pytest.raises(AlreadyExists), without_trace(tmp_path):
        (tmp_path / "cache").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
