"""finetune, prune and distill of `.onnx` image classifiers: the same graph with other numbers, or fewer channels."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import write_onnx_model, write_resnet
from microbudget.errors import InvalidOption, UnsupportedModel
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.finetune import Finetune
from microbudget.methods.prune import Prune
from microbudget.model import Model, Record
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


@pytest.fixture(scope="session")
def pruned(taught: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return build_step(taught, Prune(sparsity=0.5, samples=16), context, tmp_path_factory.mktemp("store"))


def test_prune_writes_a_smaller_graph_of_the_same_nodes(taught: Model, pruned: Model, context: Context) -> None:
    onnx.checker.check_model(str(pruned.weights), full_check=True)
    assert [node.op_type for node in graph_of(pruned).node] == [
        node.op_type for node in graph_of(taught).node if node.op_type != "Identity"
    ]
    before, after = (sum(array.size for array in arrays(model).values()) for model in (taught, pruned))
    report = pruned.record.history["prune"]
    assert after / before == pytest.approx(report["parameters_left"], abs=0.01)
    assert after < 0.7 * before
    assert pruned.record.state == {}
    assert read_metadata(onnx.load(str(pruned.weights))) == (context.task.labels, taught.record.preprocessing)
    assert validation_answers(pruned, context).shape == (len(context.task.examples("validation")), 3)


def test_a_graph_without_batch_norms_is_repaired_as_one_with_them(pruned: Model) -> None:
    report = pruned.record.history["prune"]
    assert report["moments_matched"] or report["layers_fitted"]
    assert report["divergence"] < report["divergence_before_repair"]


def test_single_weights_of_a_graph_stay_zero_in_training(taught: Model, context: Context, tmp_path: Path) -> None:
    recipe = "prune(structure='weights', samples=8) > finetune(epochs=2, unfreeze='all', deep_epochs=2)"
    sparse, trained = build(taught, Recipe.parse(recipe), context, tmp_path)
    zeros = {name: array == 0 for name, array in arrays(sparse).items() if array.ndim == 4}
    assert all(zero.mean() >= 0.4 for zero in zeros.values())
    after = arrays(trained)
    assert all((after[name][zero] == 0).all() and (after[name] != 0).any() for name, zero in zeros.items())


def test_prune_measures_the_latency_of_a_graph(taught: Model, context: Context, tmp_path: Path) -> None:
    target = Prune(sparsity=0.5, samples=8).part(context, taught).open_target(None, taught, context, examples(context))
    assert target.onnx is not None
    found = onnx.load_from_string(target.onnx(target.network))
    assert [node.op_type for node in found.graph.node].count("Conv") == 9
    del tmp_path


def examples(context: Context) -> Any:
    return context.task.examples("train")[:8]


def test_blocks_of_a_graph_cannot_be_dropped(taught: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no row of blocks"):
        build_step(taught, Prune(structure="layers", samples=8), context, tmp_path)


def test_a_pruned_graph_learns_again_from_its_teacher(
    taught: Model, pruned: Model, context: Context, tmp_path: Path
) -> None:
    step = Distill(epochs=3, views=2)
    model = build_step(pruned, step, replace(context, reference=taught), tmp_path)
    assert model.format == "onnx"
    assert nodes_of(model) == nodes_of(pruned), "batch norms of the training are left in the file"
    history = model.record.history["distill"]
    assert history["kept"] >= 1
    right = context.task.score(validation_answers(model, context), context.task.examples("validation")).value
    assert right == pytest.approx(history["validation"]["accuracy"])


def test_a_graph_of_other_labels_is_taught_with_a_new_head(
    given: Model, taught: Model, context: Context, tmp_path: Path
) -> None:
    model = build_step(given, Distill(epochs=1, views=1), replace(context, reference=taught), tmp_path)
    assert model.labels == context.task.labels
    assert validation_answers(model, context).shape[1] == 3


def test_a_graph_is_not_cut_by_its_configuration(taught: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOption, match=r"an \.onnx file has none: prune\(\) before distill\(\), or name a student"
    ):
        build_step(taught, Distill(width=0.5, epochs=1), context, tmp_path)


def test_a_named_student_of_a_graph_is_a_folder() -> None:
    assert Recipe.parse("distill(student='some/net') > export").formats("onnx") == ("hf", "onnx")
    assert Recipe.parse("prune > distill > quantize").formats("onnx") == ("onnx", "onnx", "onnx")


@pytest.mark.parametrize("step", [Prune(), Distill()])
def test_graphs_of_texts_are_refused(step: Any, context: Context) -> None:
    model = Model(Path("texts.onnx"), "onnx", Record(task="text-classification"))
    texts = replace(context, task=replace_kind(context.task))
    with pytest.raises(UnsupportedModel, match=r"takes hf, but gets onnx \(texts\.onnx\): put it before export"):
        step.part(texts, model)


def replace_kind(task: Any) -> Any:
    other = copy.copy(task)
    other.kind = "text-classification"
    return other
