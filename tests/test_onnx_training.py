"""finetune, prune and distill of `.onnx` image classifiers: the same graph with other numbers, or fewer channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import write_onnx_model, write_resnet
from microbudget.errors import UnsupportedModel
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import read_metadata
from microbudget.task import DataOptions


@pytest.fixture(scope="session")
def context(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def given(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small network of random weights and two classes that are not the photos'."""
    folder = tmp_path_factory.mktemp("given")
    return load(write_onnx_model(write_resnet(folder / "resnet", ("cat", "dog")), folder / "onnx"))


@pytest.fixture(scope="session")
def taught(given: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The network with a head for the photos."""
    return build_step(given, Finetune(epochs=5), context, tmp_path_factory.mktemp("store"))


def graph_of(model: Model) -> Any:
    return onnx.load(str(model.weights)).graph


def nodes_of(model: Model) -> list[bytes]:
    """Without those that give an initializer another name."""
    return [node.SerializeToString() for node in graph_of(model).node if node.op_type != "Identity"]


def arrays(model: Model) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph_of(model).initializer}


def validation_answers(model: Model, context: Context) -> Any:
    session = open_session(model, threads=1)
    examples = context.task.examples("validation")
    return session.answer(context.task.collate(examples, model.record.preprocessing or {}))


def test_finetune_moves_every_layer_of_a_graph(given: Model, taught: Model, context: Context, tmp_path: Path) -> None:
    model = build_step(given, Finetune(epochs=5, unfreeze="all", deep_epochs=3), context, tmp_path)
    assert model.format == "onnx"
    before, after = arrays(taught), arrays(model)
    assert before.keys() <= after.keys(), "tensors that the exporter took for one, as they were equal, are their own"
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    assert nodes_of(model) == nodes_of(taught)
    history = model.record.history["finetune"]
    assert history["kept"] >= 1
    assert min(row["validation_loss"] for row in history["epochs"]) < history["before"]["loss"]
    right = context.task.score(validation_answers(model, context), context.task.examples("validation")).value
    assert right == pytest.approx(history["validation"]["accuracy"]), "the file answers otherwise than the module"
    labels, preprocessing = read_metadata(onnx.load(str(model.weights)))
    assert (labels, preprocessing) == (context.task.labels, given.record.preprocessing)


def test_finetune_of_the_last_block_leaves_the_rest(given: Model, context: Context, tmp_path: Path) -> None:
    step = Finetune(epochs=1, unfreeze="last", deep_epochs=3, deep_rate=0.002)
    model = build_step(given, step, context, tmp_path)
    before, after = arrays(given), arrays(model)
    moved = {name for name in after if not np.array_equal(before.get(name, 0 * after[name]), after[name])}
    order = [tensor for node in graph_of(model).node for tensor in node.input if tensor in after]
    assert moved == set(order[-len(moved) :]), "they are not those of the end"
    assert 4 < len(moved) < len(before)


def test_a_head_of_two_layers_is_trained_with_the_network(given: Model, context: Context, tmp_path: Path) -> None:
    step = Finetune(epochs=2, unfreeze="all", deep_epochs=1, head="mlp")
    model = build_step(given, step, context, tmp_path)
    assert [node.op_type for node in graph_of(model).node][-3:] == ["Gemm", "Relu", "Gemm"]


def test_the_same_seed_writes_the_same_bytes(given: Model, context: Context, tmp_path: Path) -> None:
    step = Finetune(epochs=2, unfreeze="all", deep_epochs=1)
    one, other = (build_step(given, step, context, tmp_path / name) for name in ("one", "other"))
    assert one.weights.read_bytes() == other.weights.read_bytes()


def test_a_quantized_graph_is_refused(taught: Model, context: Context, tmp_path: Path) -> None:
    model = build(taught, Recipe.parse("quantize(samples=8)"), context, tmp_path)[-1]
    with pytest.raises(UnsupportedModel, match="not in a linear layer of constant weights"):
        build_step(model, Finetune(epochs=1, unfreeze="all", deep_epochs=1), context, tmp_path)
