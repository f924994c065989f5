import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

import toy_models
from microbudget.errors import UnsupportedModel
from microbudget.judge.ledger import ledger
from microbudget.model import Model, Record
from microbudget.runtimes.loading import load

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is not there")


def rows_by_name(model):
    return {row.name: row for row in ledger(model).rows}


def saved(path, nodes, initializers, inputs=("x",), out="y"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), str(path))
    return Model(path, "onnx", Record())


def test_a_float_model_adds_up(tmp_path):
    model = toy_models.random_linear(tmp_path / "a.onnx")
    book = ledger(model)
    assert book.size_bytes == model.size_bytes == sum(book.parts().values())
    assert book.parameters == 192 * 3 + 3
    assert book.bits_per_weight == book.nominal_bits_per_weight == 32
    assert book.metadata_bytes > len(json.dumps(toy_models.CLASSES))  # the labels
    assert book.largest(1)[0].name == "W"
    assert json.loads(json.dumps(book.as_dict()))["rows"][0]["bytes"] == 192 * 3 * 4


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_every_shape_adds_up(tmp_path_factory, rows, columns, raw):
    path = tmp_path_factory.mktemp("m") / "a.onnx"
    values = np.arange(rows * columns, dtype="f")
    tensor = (
        numpy_helper.from_array(values.reshape(rows, columns), "W")
        if raw
        else helper.make_tensor("W", TensorProto.FLOAT, (rows, columns), values)
    )
    model = saved(path, [helper.make_node("MatMul", ["x", "W"], ["y"])], [tensor])
    book = ledger(model)
    assert book.size_bytes == path.stat().st_size
    assert book.graph_bytes > 0
    if raw:
        assert rows_by_name(model)["W"].bytes == 4 * rows * columns


def test_scales_and_zero_points_belong_to_their_weights(tmp_path):
    model = saved(
        tmp_path / "q.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
            helper.make_node("DequantizeLinear", ["Wq", "ws", "wz"], ["W"], axis=1),
            helper.make_node("DequantizeLinear", ["bq", "bs"], ["b"]),
            helper.make_node("Gemm", ["xd", "W", "b"], ["y"]),
        ],
        [
            numpy_helper.from_array(np.zeros((10, 4), np.int8), "Wq"),
            numpy_helper.from_array(np.ones(4, "f"), "ws"),
            numpy_helper.from_array(np.zeros(4, np.int8), "wz"),
            numpy_helper.from_array(np.zeros(4, np.int32), "bq"),
            numpy_helper.from_array(np.ones(4, "f"), "bs"),
            numpy_helper.from_array(np.float32(0.1), "xs"),
            numpy_helper.from_array(np.uint8(128), "xz"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "shape"),
        ],
    )
    rows = rows_by_name(model)
    assert rows["Wq"].value_bytes == 40
    assert (rows["Wq"].scale_bytes, rows["Wq"].zero_point_bytes) == (16, 4)
    assert rows["Wq"].effective_bits == 8 * 60 / 40
    assert rows["bq"].value_bytes == rows["bq"].scale_bytes == 16
    assert rows["xs"].role == rows["xz"].role == "activation scale"
    assert rows["shape"].role == "constant"
    assert "ws" not in rows
    book = ledger(model)
    assert book.parameters == 44
    assert book.nominal_bits_per_weight == (40 * 8 + 4 * 32) / 44
    assert book.bits_per_weight == 8 * (60 + 32) / 44
    assert book.size_bytes == model.size_bytes


@pytest.mark.parametrize(("numbers", "values"), [(10, 5), (11, 6)])
def test_packed_4_bit_numbers_count_half_a_byte(tmp_path, numbers, values):
    tensor = helper.make_tensor("Wq", TensorProto.INT4, (numbers,), bytes(values), raw=True)
    model = saved(
        tmp_path / "a.onnx",
        [helper.make_node("DequantizeLinear", ["Wq", "s"], ["y"])],
        [tensor, numpy_helper.from_array(np.float32(1), "s")],
    )
    row = rows_by_name(model)["Wq"]
    assert (row.bits, row.value_bytes, row.scale_bytes, row.padding_bytes) == (4, values, 4, 0)
    assert ledger(model).size_bytes == model.size_bytes


def test_blocks_of_4_bits_are_unpacked_and_what_fills_the_last_block_is_padding(tmp_path):
    K, N, block = 40, 6, 32  # two blocks of 32 for 40 rows
    node = helper.make_node(
        "MatMulNBits", ["x", "B", "s", "z"], ["y"], domain="com.microsoft", K=K, N=N, bits=4, block_size=block
    )
    initializers = [
        numpy_helper.from_array(np.zeros((N, 2, block // 2), np.uint8), "B"),
        numpy_helper.from_array(np.ones((N * 2,), "f"), "s"),
        numpy_helper.from_array(np.zeros((N,), np.uint8), "z"),
    ]
    model = saved(tmp_path / "a.onnx", [node], initializers)
    row = rows_by_name(model)["B"]
    assert row.shape == (N, K)
    assert row.value_bytes == N * K // 2
    assert row.padding_bytes == N * (64 - 40) // 2
    assert (row.scale_bytes, row.zero_point_bytes) == (48, 6)
    assert ledger(model).parameters == N * K
    assert ledger(model).size_bytes == model.size_bytes


def test_scales_that_two_weights_share_are_counted_once(tmp_path):
    model = saved(
        tmp_path / "a.onnx",
        [
            helper.make_node("DequantizeLinear", ["A", "s"], ["a"]),
            helper.make_node("DequantizeLinear", ["B", "s"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        [numpy_helper.from_array(np.zeros(8, np.int8), name) for name in "AB"]
        + [numpy_helper.from_array(np.float32(1), "s")],
    )
    rows = rows_by_name(model)
    assert rows["A"].scale_bytes + rows["B"].scale_bytes == 4
    assert ledger(model).size_bytes == model.size_bytes


def test_external_data_with_gaps_adds_up(tmp_path):
    path = tmp_path / "a.onnx"
    proto = onnx.load(str(toy_models.random_linear(tmp_path / "small.onnx").path))
    onnx.save(proto, str(path), save_as_external_data=True, location="a.data", size_threshold=0)
    with (tmp_path / "a.data").open("ab") as stream:
        stream.write(bytes(100))
    model = load(path)
    assert len(model.files) == 2
    book = ledger(model)
    assert book.size_bytes == model.size_bytes
    assert rows_by_name(model)["W"].bytes == 192 * 3 * 4
    assert sum(row.padding_bytes for row in book.rows) >= 100
    assert book.parameters == 192 * 3 + 3


def test_constants_inside_nodes_count_too(tmp_path):
    weights = numpy_helper.from_array(np.zeros((3, 5), "f"))
    model = saved(
        tmp_path / "a.onnx",
        [helper.make_node("Constant", [], ["W"], value=weights), helper.make_node("MatMul", ["x", "W"], ["y"])],
        [],
    )
    assert rows_by_name(model)["W"].bytes == 60
    assert ledger(model).parameters == 15


def test_safetensors_add_up_and_statistics_are_no_parameters(tmp_path):
    tensors = {
        "conv.weight": np.zeros((4, 3, 3, 3), np.float16),
        "bn.weight": np.ones(4, "f"),
        "bn.running_mean": np.zeros(4, "f"),
        "bn.num_batches_tracked": np.array([3]),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"id2label": {}}')
    (tmp_path / "tokenizer.json").write_text("{}")
    model = Model(tmp_path, "hf", Record())
    book = ledger(model)
    assert book.size_bytes == sum(book.parts().values()) == model.size_bytes
    assert book.files_bytes == 16
    assert book.vocabulary_bytes == 2
    assert book.parameters == 108 + 4
    assert book.bits_per_weight == pytest.approx((108 * 16 + 4 * 32) / 112)


def test_damaged_files_are_reported(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x00\x01no")
    with pytest.raises(UnsupportedModel, match="is not an ONNX model"):
        ledger(Model(tmp_path / "a.onnx", "onnx", Record()))
    (tmp_path / "config.json").write_text("{}")
    for data in (b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]", b"\x08\0\0\0\0\0\0\0" + b'{"a": 1}'):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(UnsupportedModel, match="no safetensors file"):
            ledger(Model(tmp_path, "hf", Record()))
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    with pytest.raises(UnsupportedModel):
        ledger(Model(tmp_path, "gguf", Record()))
    with pytest.raises(UnsupportedModel, match="no ledger for format 'mlx'"):
        ledger(Model(tmp_path, "mlx", Record()))


@needs_assets
def test_mobilenet_has_the_parameters_that_its_paper_tells():
    book = ledger(load(ASSETS / "models" / "mobilenet_v2"))
    assert book.parameters == 3_504_872
    assert book.bits_per_weight == 16


@needs_assets
@pytest.mark.parametrize("name", ["resnet20_cifar10.onnx", "resnet56_cifar10.onnx"])
@pytest.mark.filterwarnings("ignore:.*has no preprocessing config")
def test_real_files_add_up(name):
    model = load(ASSETS / "models" / name)
    assert ledger(model).size_bytes == model.size_bytes
