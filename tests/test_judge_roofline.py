import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from microbudget.judge import ceilings as ceilings_module
from microbudget.judge.ceilings import Ceilings, ceilings
from microbudget.judge.roofline import least_s, roofline
from microbudget.judge.work import Work, count
from microbudget.model import Model, Record

pytestmark = pytest.mark.usefixtures("fresh_workers")

ASSETS = Path(__file__).parents[2] / "shared" / "assets"


def saved(path, nodes, initializers, shape, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports), str(path))
    return path


def naive_convolution(x, w, stride, padding):
    """Multiply-adds counted one output at a time; those with the padding count, as in the papers."""
    (_, _, height, width), (filters, channels, rows, columns) = x, w
    tops = range(0, height + 2 * padding - rows + 1, stride)
    lefts = range(0, width + 2 * padding - columns + 1, stride)
    return sum(channels * rows * columns for _ in range(filters) for _ in tops for _ in lefts)


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 1, 1), (1, 1, 4)])
def test_a_convolution(tmp_path, stride, padding, groups):
    x, w = (1, 4, 9, 7), (8, 4 // groups, 3, 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[padding] * 4, group=groups)
    path = saved(tmp_path / "a.onnx", [node], {"w": np.zeros(w, "f")}, x)
    assert count(path, {"x": x}).multiply_adds == {"float32": naive_convolution(x, w, stride, padding)}


def test_products_bytes_and_what_is_not_counted(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "v"], ["y"], transB=1),
    ]
    path = saved(tmp_path / "a.onnx", nodes, {"w": np.zeros((6, 5), "f"), "v": np.zeros((4, 5), "f")}, (3, 6))
    work = count(path, {"x": (3, 6)})
    assert work.multiply_adds == {"float32": 3 * 6 * 5 + 3 * 5 * 4}
    assert work.weight_bytes == 4 * (30 + 20)
    assert work.in_out_bytes == 4 * (18 + 12)
    assert work.activation_bytes == 2 * 4 * (15 + 15)
    assert work.not_counted == {"Relu": 1}


def test_what_is_computed_once_when_the_model_opens_is_no_work_of_a_call(tmp_path):
    """Weights that are packed in half a byte each and unpacked by operators of the graph, as `quantize` stores them."""
    nodes = [
        helper.make_node("Constant", [], ["sixteen"], value=numpy_helper.from_array(np.uint8(16))),
        helper.make_node("Div", ["packed", "sixteen"], ["high"]),
        helper.make_node("Mod", ["packed", "sixteen"], ["low"]),
        helper.make_node("Concat", ["high", "low"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    initializers = {"packed": np.zeros((3, 5), np.uint8), "s": np.float32(1), "unused": np.zeros(100, "f")}
    work = count(saved(tmp_path / "a.onnx", nodes, initializers, (2, 6)), {"x": (2, 6)})
    assert work.not_counted == {}
    assert work.weight_bytes == 6 * 5 + 4  # unpacked, and the scale
    assert work.activation_bytes == 0
    assert work.multiply_adds == {"float32": 60}


def test_a_product_between_dequantized_tensors_is_int8_and_weights_alone_are_not(tmp_path):
    quantized = {
        "w": np.zeros((6, 5), np.int8),
        "s": np.float32(1),
        "z": np.int8(0),
        "xs": np.float32(1),
        "xz": np.uint8(0),
    }
    both = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    assert count(saved(tmp_path / "a.onnx", both, quantized, (2, 6)), {"x": (2, 6)}).multiply_adds == {"int8": 60}
    weights = [both[2], helper.make_node("MatMul", ["x", "wd"], ["y"])]
    assert count(saved(tmp_path / "b.onnx", weights, quantized, (2, 6)), {"x": (2, 6)}).multiply_adds == {"float32": 60}


def test_shapes_go_on_after_operators_that_onnx_does_not_know(tmp_path):
    nodes = [
        helper.make_node(
            "MatMulNBits",
            ["x", "B", "s"],
            ["a"],
            domain="com.microsoft",
            K=32,
            N=7,
            bits=4,
            block_size=32,
            accuracy_level=4,
        ),
        helper.make_node("FastGelu", ["a"], ["b"], domain="com.microsoft"),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    initializers = {"B": np.zeros((7, 1, 16), np.uint8), "s": np.ones(7, "f"), "w": np.zeros((7, 3), "f")}
    work = count(saved(tmp_path / "a.onnx", nodes, initializers, (2, 32)), {"x": (2, 32)})
    assert work.multiply_adds == {"int8": 2 * 32 * 7, "float32": 2 * 7 * 3}
    assert work.not_counted == {"FastGelu": 1}


def test_a_product_of_unknown_shape_is_reported_and_not_counted(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    work = count(saved(tmp_path / "a.onnx", nodes, {"w": np.zeros((6, 5), "f")}, (2, 6)), {"x": (2, 6)})
    assert work.multiply_adds == {}
    assert work.not_counted == {"NonZero": 1, "MatMul": 1}


@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is not there")
def test_resnet20_takes_what_its_paper_tells():
    work = count(ASSETS / "models" / "resnet20_cifar10.onnx", {"pixel_values": (1, 3, 32, 32)})
    assert work.total_multiply_adds == pytest.approx(40.6e6, rel=0.01)


OTHERS = Ceilings(2, {"float32": 200e9, "int8": 300e9}, ((2**20, 70e9), (2**23, 30e9)))
LIMITS = Ceilings(2, {"float32": 100e9, "int8": 400e9}, ((2**20, 80e9), (2**23, 20e9)))


def test_the_floor_is_the_slower_of_arithmetic_and_bytes():
    arithmetic = Work({"float32": 50_000_000, "int8": 200_000_000}, 1000, 0, 0)
    assert least_s(arithmetic, LIMITS) == pytest.approx(1e-3 + 1e-3)
    bytes_ = Work({"float32": 1}, 15_000_000, 10**9, 5_000_000)
    assert least_s(bytes_, LIMITS) == pytest.approx(20e6 / 20e9)


def test_a_working_set_takes_the_rate_of_the_next_smaller_size():
    assert LIMITS.bandwidth(1) == LIMITS.bandwidth(2**20) == LIMITS.bandwidth(2**23 - 1) == 80e9
    assert LIMITS.bandwidth(2**23) == LIMITS.bandwidth(2**40) == 20e9


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, ceilings(1, folder)


def test_the_machines_ceilings_are_sane(measured):
    limits = measured[1]
    assert 1e9 < limits.operations_per_s["float32"] < 1e13
    assert limits.operations_per_s["int8"] > 0
    assert all(1e8 < rate < 1e13 for _, rate in limits.read_bytes_per_s)


def test_they_are_measured_once_and_kept(measured, monkeypatch):
    folder, limits = measured
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda threads: pytest.fail("measured again"))
    monkeypatch.setattr(ceilings_module, "waiting_share", lambda threads: 1.0)
    assert ceilings(1, folder) == limits


def test_what_was_measured_on_a_busy_machine_is_measured_again_and_the_better_kept(tmp_path, monkeypatch):
    shares, found = iter([0.8, 0.7, 0.0]), iter([LIMITS, OTHERS])
    monkeypatch.setattr(ceilings_module, "waiting_share", lambda threads: next(shares))
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda threads: next(found))
    assert ceilings(2, tmp_path) == LIMITS
    assert ceilings(2, tmp_path) == LIMITS
    both = Ceilings(2, {"float32": 200e9, "int8": 400e9}, ((2**20, 80e9), (2**23, 30e9)))
    assert ceilings(2, tmp_path) == both
    assert ceilings(2, tmp_path) == both


@pytest.mark.parametrize("text", ["", "{", '{"version": 0, "machines": {}}', "[]", '{"version": 1}'])
def test_a_damaged_file_is_measured_again(tmp_path, monkeypatch, text):
    (tmp_path / "ceilings.json").write_text(text)
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda threads: LIMITS)
    assert ceilings(2, tmp_path) == LIMITS
    assert json.loads((tmp_path / "ceilings.json").read_text())["version"] == ceilings_module.VERSION
    assert [file.name for file in tmp_path.iterdir()] == ["ceilings.json"]


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda threads: LIMITS)
    assert ceilings(2, tmp_path / "file") == LIMITS


def test_the_roofline_is_a_share_of_the_latency_and_unknown_for_other_formats(tmp_path, measured, monkeypatch):
    monkeypatch.setattr("microbudget.judge.roofline.ceilings", lambda threads: LIMITS)
    path = saved(
        tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.zeros((500, 500), "f")}, (1, 500)
    )
    found = roofline(Model(path, "onnx", Record()), {"x": np.zeros((1, 500), "f")}, 1e-3, 2)
    assert found["multiply_adds_total"] == 250_000
    assert found["share"] == pytest.approx(found["least_s"] / 1e-3)
    assert json.dumps(found)
    assert roofline(Model(tmp_path, "hf", Record()), {}, 1.0, 1) is None
