"""Predicted memory: from weights and shapes, against a process that opens the model; and what is not built for it."""

from __future__ import annotations

import json
import math
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from microbudget.judge.budget import Budget
from microbudget.judge.footprint import predicted_memory, tokenizer_bytes
from microbudget.judge.footprint.ct2 import FLOAT_BYTES, activation_bytes
from microbudget.judge.footprint.onnx import Weights, weights_of, weights_of_checkpoint
from microbudget.judge.memory import of_model
from microbudget.judge.work import peak_activations
from microbudget.judge.worker import Worker
from microbudget.kinds.image_classification.search_space import SearchSpace
from microbudget.kinds.transcription.search_space import INT8
from microbudget.kinds.transcription.search_space import SearchSpace as Speech
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.methods.window import EACH, Window
from microbudget.model import Model, Record
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.hf.checkpoint import Checkpoint
from microbudget.runtimes.loading import load
from microbudget.search.predicted import FAR, too_large
from microbudget.units import format_bytes

RNG = np.random.default_rng(0)
WIDTH = 512


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32) / np.float32(math.sqrt(math.prod(shape[1:])))


def saved(
    path: Path, nodes: list, constants: dict[str, np.ndarray], shape: list, out: list, type_: int = TensorProto.FLOAT
):
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", type_, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return Model(path, "onnx", Record("image-classification"))


def convolutions(path: Path, layers: int) -> Model:
    names = ["x", *(f"y{at}" for at in range(1, layers)), "y"]
    nodes = [helper.make_node("Conv", [names[at], f"w{at}"], [names[at + 1]]) for at in range(layers)]
    constants = {f"w{at}": floats(WIDTH, WIDTH, 1, 1) for at in range(layers)}
    shape = [1, WIDTH, 8, 8]
    return saved(path, nodes, constants, shape, shape)


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="another allocator")
@pytest.mark.usefixtures("fresh_workers")
def test_memory_is_predicted_within_15_percent(tmp_path: Path) -> None:
    """Of convolutions in 8 bits, and in 4, which take more than float while they are unpacked, and of a table."""
    pixels, ids = {"x": floats(1, WIDTH, 8, 8)}, {"x": np.zeros((1, 4), np.int64)}
    whole = convolutions(tmp_path / "float.onnx", 8)
    rounded = []
    for bits in (8, 4):
        path = tmp_path / f"{bits}.onnx"
        quantize_graph(whole.path, [pixels], path, bits=bits, corrections=())
        rounded.append((Model(path, "onnx", whole.record), pixels))
    table = saved(
        tmp_path / "table.onnx", [helper.make_node("Gather", ["w", "x"], ["y"])], {"w": floats(40_000, 400)},
        [1, 4], [1, 4, 400], TensorProto.INT64,
    )  # fmt: skip
    for model, inputs in (*rounded, (table, ids)):
        with Worker() as worker:
            worker.open(model, threads=1)
            measured = of_model(worker, inputs).bytes
        assert predicted_memory(model, inputs) == pytest.approx(measured, rel=0.15), model.path.name


def test_weights_are_told_apart_by_what_reads_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "c", "b"], ["1"]),
        helper.make_node("GlobalAveragePool", ["1"], ["2"]),
        helper.make_node("Flatten", ["2"], ["3"]),
        helper.make_node("Gemm", ["3", "g"], ["4"], transB=1),
        helper.make_node("MatMul", ["4", "m"], ["y"]),
    ]
    constants = {"c": floats(6, 3, 3, 3), "b": floats(6), "g": floats(10, 6), "m": floats(10, 4)}
    model = saved(tmp_path / "model.onnx", nodes, constants, [1, 3, 8, 8], [1, 4])
    found = weights_of(model)
    assert found == Weights(convolutions=4 * (162 + 6), gemms=4 * 60, products=4 * 40)
    quantize_graph(model.path, [{"x": floats(1, 3, 8, 8)}], tmp_path / "8.onnx", corrections=())
    written = weights_of(Model(tmp_path / "8.onnx", "onnx", model.record))
    assert written.integers >= found.rounded(8).integers - 6
    assert written.convolutions == written.products == written.gemms == 0


def test_activations_live_from_the_node_that_makes_them_to_the_last_that_reads_them(tmp_path: Path) -> None:
    """x (12 floats) -> wide (400), of which 4 are left; the first is read again at the end."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["flat"]),
        helper.make_node("MatMul", ["flat", "b"], ["narrow"]),
        helper.make_node("Relu", ["narrow"], ["y"]),
    ]
    constants = {"a": floats(12, 400), "b": floats(400, 4)}
    model = saved(tmp_path / "model.onnx", nodes, constants, ["n", 12], ["n", 4])
    assert peak_activations(model.path, {"x": (1, 12)}) == 4 * (400 + 400)
    assert peak_activations(model.path, {"x": (5, 12)}) == 5 * 4 * (400 + 400)


def test_a_whisper_attends_from_each_position_to_all() -> None:
    from microbudget.audio.log_mel import FittedWindow, LogMel

    whole, second = LogMel(), 16_000
    assert activation_bytes(whole, 384, [3 * second]) == FLOAT_BYTES * (15 * 1500 * 384 + 6 * 1500**2)
    fitted = LogMel(fitted=FittedWindow(12, 1))
    assert activation_bytes(fitted, 384, [3 * second]) == FLOAT_BYTES * (15 * 600 * 384 + 6 * 600**2)
    assert activation_bytes(fitted, 384, [3 * second, 60 * second]) == activation_bytes(whole, 384, [])


@dataclass
class Known:
    """The memory and the sizes of recipes by their text."""

    memory: dict[str, int | None]
    sizes: dict[str, int | None]
    size_margin: float = 1.1

    def memory_bytes(self, recipe: Recipe) -> int | None:
        return self.memory[str(recipe)]

    def size_bytes(self, recipe: Recipe) -> int | None:
        return self.sizes[str(recipe)]


BYTES = st.one_of(st.none(), st.integers(1, 10_000))


@given(st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=8), BYTES, BYTES)
def test_what_is_far_beyond_a_limit_is_not_built_but_something_is(
    known: list[tuple[int | None, int | None]], memory: int | None, size: int | None
) -> None:
    recipes = [Recipe.parse(f"quantize(samples={at + 1})") for at in range(len(known))]
    space = Known(*(dict(zip(map(str, recipes), each, strict=True)) for each in zip(*known, strict=True)))
    left_out = too_large(space, recipes, Budget(max_memory_bytes=memory, max_size_bytes=size))
    assert len(left_out) < len(recipes)

    def excess(takes: int | None, limit: int | None, margin: float) -> float:
        times = 0.0 if takes is None or limit is None else takes / limit
        return times if times > margin else 0.0

    beyond = [max(excess(one, memory, FAR), excess(other, size, 1.1)) for one, other in known]
    for recipe, (takes, bytes_), far in zip(recipes, known, beyond, strict=True):
        if recipe in left_out:
            assert far
            expected = (
                f"its file would have about {format_bytes(bytes_ or 0)}"
                if excess(bytes_, size, 1.1)
                else f"about {format_bytes(takes or 0)} of memory are predicted"
            )
            assert expected in left_out[recipe]
        elif far:
            assert far == min(beyond), "the one that is least beyond, as all are"


def test_recipes_are_predicted_before_they_are_built(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    from microbudget.kinds.image_classification.data import ImageTask
    from microbudget.task import DataOptions

    space = SearchSpace(load(resnet_onnx), ImageTask.open(photos, DataOptions(cache=tmp_path)))

    def size(text: str) -> int | None:
        return space.memory_bytes(Recipe.parse(text))

    float_, eight, four = size("finetune"), size("quantize"), size("resize(pixels=32) > finetune > quantize(bits=4)")
    assert float_ is not None and eight is not None and four is not None  # noqa: PT018
    assert eight < float_ < four
    assert size("quantize(size='1MB')") is None, "each layer has bits of its own"


def test_a_folder_is_predicted_as_the_file_that_it_becomes(resnet: Path, resnet_onnx: Path) -> None:
    folder, file = weights_of_checkpoint(Checkpoint(resnet)), weights_of(load(resnet_onnx))
    assert folder.memory_bytes == pytest.approx(file.memory_bytes, rel=0.02)
    space: Any = SearchSpace(load(resnet), None)  # type: ignore[arg-type]  # data decide nothing here
    assert space.memory_bytes(Recipe.parse("export > quantize")) < space.memory_bytes(Recipe.parse("export"))
    assert space.memory_bytes(Recipe.parse("prune > export")) is None, "shapes change"


def test_an_indented_tokenizer_takes_no_more_memory(tmp_path: Path) -> None:
    path, found = tmp_path / "tokenizer.json", {"model": {"vocab": {"a": 0, "ü": 1}}}
    sizes = set()
    for indent in (None, 2):
        path.write_text(json.dumps(found, indent=indent), encoding="utf-8")
        sizes.add(tokenizer_bytes(tmp_path))
    assert len(sizes) == 1
    path.write_text('{"model": ', encoding="utf-8")
    assert tokenizer_bytes(tmp_path) > 0
    assert tokenizer_bytes(tmp_path / "nowhere") == 0


def test_a_whisper_is_predicted_before_it_is_exported(tmp_path: Path) -> None:
    for name in ("torch", "transformers"):
        pytest.importorskip(name)
    from toy_seq2seq import write_whisper

    folder = tmp_path / "whisper"
    write_whisper(folder)
    space: Any = Speech(load(folder), None)  # type: ignore[arg-type]  # recordings would tell the window's length
    sizes = [space.memory_bytes(Recipe.parse(f"export(format='ct2', type='{type_}')")) for type_ in ("int8", "float32")]
    parameters = sum(math.prod(each.shape) for each in Checkpoint(folder).tensors.values())
    assert sizes[1] - sizes[0] == 3 * parameters
    assert space.memory_bytes(Recipe((Window(seconds=EACH), INT8))) is not None
    assert space.memory_bytes(Recipe.parse("trim(keep=100) > export(format='ct2')")) is None
