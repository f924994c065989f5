"""Distillation of image classifiers: the equations, the student's making, the teacher's passes, and bad input."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as examples_of
from hypothesis import strategies as st

from conftest import COLOURS, CONFIG, PIXELS, resnet_config, write_photos, write_resnet
from microbudget.errors import BadData, InvalidOption, InvalidRecipe, LabelsDisagree, ModelNotFound, UnsupportedModel
from microbudget.kinds.image_classification import student
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.schooling import Schooling
from microbudget.kinds.image_classification.teacher import TeacherAnswers
from microbudget.kinds.image_classification.views import FixedViews
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.distill.loss import feature_loss, mixed_loss, soft_label_loss
from microbudget.model import Model
from microbudget.recipes.build import build, build_step, step_fingerprint
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions

QUICK = Distill(epochs=2, views=2, patience=2)
LABELS = tuple(COLOURS)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photos of 3 classes and 9 without a label."""
    folder = write_photos(tmp_path_factory.mktemp("distill") / "photos")
    (folder / "unlabelled").mkdir()
    extra = write_photos(folder.parent / "extra", per_class=3, seed=5)
    for file in extra.rglob("*.png"):
        shutil.copyfile(file, folder / "unlabelled" / f"{file.parent.name}{file.name}")
    return folder


@pytest.fixture(scope="session")
def context(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(data, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def taught(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny residual network with a head for the photos: teacher and model to be cut."""
    folder = write_resnet(tmp_path_factory.mktemp("taught") / "resnet")
    return build(load(folder), Recipe.parse("finetune"), context, folder.parent / "store")[-1]


def naive(logits: np.ndarray, temperature: float) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64) / temperature)
    return odds / odds.sum(axis=1, keepdims=True)


@examples_of(st.integers(0, 1000), st.floats(0.5, 20))
def test_soft_labels_are_hintons_equation(seed: int, temperature: float) -> None:
    coin = np.random.default_rng(seed)
    ours, theirs = (coin.normal(0, 3, (4, 5)).astype("f") for _ in range(2))
    p, q = naive(theirs, temperature), naive(ours, temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    got = soft_label_loss(torch.from_numpy(ours), torch.from_numpy(theirs), temperature).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_soft_labels_keeps_its_size() -> None:
    """At a high temperature it is that of half the squared distance of the (centred) logits over their number."""
    ours = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    theirs = torch.tensor([[0.0, 3.0, -1.0]])
    soft_label_loss(ours, theirs, 1e3).sum().backward()
    apart = (ours - ours.mean()) - (theirs - theirs.mean())
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, apart.detach() / 3, rtol=0.01, atol=1e-3)


def test_rows_without_a_label_have_the_soft_part_alone() -> None:
    coin = np.random.default_rng(0)
    ours, theirs = (torch.from_numpy(coin.normal(size=(2, 3)).astype("f")) for _ in range(2))
    soft = soft_label_loss(ours, theirs, 2.0).numpy()
    true = -np.log(naive(ours.numpy(), 1.0)[0, 1])
    expected = (0.7 * soft[0] + 0.3 * true + 0.7 * soft[1]) / 2
    assert mixed_loss(ours, theirs, torch.tensor([1, -1]), 2.0, 0.3).item() == pytest.approx(expected, rel=1e-4)


def test_features_are_compared_in_the_teachers_deviations() -> None:
    theirs = torch.tensor([[0.0, 10.0], [20.0, 30.0]])
    off = feature_loss(theirs + 1, theirs).item()
    assert off == pytest.approx(1 / theirs.var().item())
    assert feature_loss(100 * theirs + 100, 100 * theirs).item() == pytest.approx(off)


def test_the_teacher_sees_each_picture_once_and_is_kept(
    taught: Model, context: Context, tmp_path: Path, images_answered: list[int]
) -> None:
    own = replace(context, cache=tmp_path / "cache")
    made = build_step(taught, replace(QUICK, epochs=4), own, tmp_path / "a")
    photos = len(own.task.examples("train")) + len(own.task.examples("unlabelled"))
    history = made.record.history["distill"]
    assert sum(images_answered) == history["teacher_passes"] == history["teacher_answers"] == 2 * photos
    assert history["unlabelled"] == 9
    more = build_step(taught, replace(QUICK, width=0.5, views=3), own, tmp_path / "b").record.history["distill"]
    assert sum(images_answered) == 3 * photos
    assert (more["teacher_passes"], more["teacher_answers"]) == (photos, 3 * photos)
    again = build_step(taught, replace(QUICK, epochs=4), own, tmp_path / "c").record.history["distill"]
    assert (again["teacher_passes"], again["teacher_answers"]) == (0, 2 * photos)
    assert sum(images_answered) == 3 * photos
    assert {example.key for example in own.task.examples("unlabelled")} <= set(made.record.seen)
    assert not {example.key for example in own.task.examples("test")} & set(made.record.seen)


def test_a_student_learns_what_the_teacher_knows(taught: Model, context: Context, tmp_path: Path) -> None:
    step = Distill(width=0.5, epochs=12, patience=12, learning_rate=3e-3)
    made = build_step(taught, step, context, tmp_path)
    history = made.record.history["distill"]
    assert made.labels == LABELS
    assert made.size_bytes < taught.size_bytes
    losses = [row["validation_loss"] for row in history["epochs"]]
    assert min(losses) < 0.5 * history["before"]["loss"]
    examples = context.task.examples("validation")
    logits = open_session(made).answer(context.task.collate(examples, made.record.preprocessing or {}))
    right = float((logits.argmax(1) == [example.label for example in examples]).mean())
    assert right == pytest.approx(history["validation"]["accuracy"])
    assert right > 0.6  # three colours: guessing gives a third


def test_the_teacher_and_a_named_student_are_part_of_the_hash(
    taught: Model, hf_model: Path, context: Context, tmp_path: Path
) -> None:
    named = shutil.copytree(taught.path, tmp_path / "named")
    (named / "microbudget.json").unlink()
    plain = step_fingerprint(taught, QUICK, context)
    referred = step_fingerprint(taught, QUICK, replace(context, reference=load(hf_model)))
    with_student = replace(QUICK, student=str(named))
    before = step_fingerprint(taught, with_student, context)
    config = json.loads((named / "config.json").read_text())
    (named / "config.json").write_text(json.dumps({**config, "initializer_range": 0.03}))
    after = step_fingerprint(taught, with_student, context)
    assert len({plain, referred, before, after}) == 4


def test_the_model_itself_is_the_student_without_cuts(taught: Model, context: Context) -> None:
    network, _ = student.cut(taught, 1.0, 1.0, LABELS, 0)
    inputs = context.task.collate(context.task.examples("validation")[:4], taught.record.preprocessing or {})
    with torch.inference_mode():
        ours = network(torch.from_numpy(inputs["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(ours, open_session(taught).answer(inputs), rtol=1e-4, atol=1e-5)


def test_a_narrower_student_begins_with_the_leading_channels(hf_model: Path) -> None:
    model = load(hf_model)
    whole, cut = (student.cut(model, 1.0, width, model.labels or (), 0)[0] for width in (1.0, 0.5))
    assert cut.config.depth_multiplier == whole.config.depth_multiplier / 2
    theirs = whole.state_dict()
    for name, tensor in cut.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name][tuple(slice(0, size) for size in tensor.shape)])


def vision_transformer(layers: int = 5) -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=PIXELS, patch_size=8, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=64, id2label=dict(enumerate(LABELS)),
        )
    ).eval()  # fmt: skip


def test_a_shallower_student_has_the_first_and_the_last_block() -> None:
    whole = vision_transformer()
    config = student.smaller_config(whole.config, 0.6, 0.5)
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (3, 2, 16)
    assert config.intermediate_size == 32
    cut = student.initialized(student.smaller_config(whole.config, 0.6, 1.0), LABELS, 0)
    student.inherit(cut, whole)
    theirs = whole.state_dict()
    blocks = {name.split(".layers.")[1].split(".")[0] for name in cut.state_dict() if ".layers." in name}
    assert blocks == {"0", "1", "2"}
    for ours, source in ((0, 0), (1, 2), (2, 4)):
        for name, tensor in cut.state_dict().items():
            if f".layers.{ours}." in name:
                torch.testing.assert_close(tensor, theirs[name.replace(f".layers.{ours}.", f".layers.{source}.")])


def test_a_resnet_can_be_cut_both_ways() -> None:
    from transformers import ResNetForImageClassification

    whole = ResNetForImageClassification(resnet_config(hidden_sizes=[16, 32], depths=[3, 3])).eval()
    smaller = student.smaller_config(whole.config, 0.67, 0.5)
    assert (smaller.depths, smaller.hidden_sizes, smaller.embedding_size) == ([2, 2], [8, 16], 8)
    cut = student.initialized(smaller, ("a", "b"), 0)
    whole.classifier[1] = torch.nn.Linear(32, 2)
    student.inherit(cut, whole)
    assert torch.isfinite(cut(torch.zeros(1, 3, 32, 32)).logits).all()
    ours, theirs = cut.resnet.encoder.stages[1].layers[1], whole.resnet.encoder.stages[1].layers[2]
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name][tuple(slice(0, size) for size in tensor.shape)])


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_student_of_another_kind_is_drawn_from_a_config(
    name: str, taught: Model, context: Context, tmp_path: Path
) -> None:
    folder = tmp_path / "transformer"
    vision_transformer(layers=1).config.save_pretrained(str(folder))
    made = build_step(taught, replace(QUICK, student=str(folder / name), features=0.5), context, tmp_path / "store")
    assert made.record.history["distill"]["student"] == "ViTForImageClassification"
    assert made.record.preprocessing == taught.record.preprocessing
    assert load(made.path).labels == LABELS
    assert {"network.", "projection."}.isdisjoint(n[:8] for n in safetensors_names(made.path))


def safetensors_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        return list(file.keys())


def test_a_quantized_teacher_teaches(taught: Model, context: Context, tmp_path: Path) -> None:
    quantized = build(taught, Recipe.parse("export > quantize(samples=8)"), context, tmp_path / "teacher")[-1]
    step = replace(QUICK, teacher=str(quantized.path))
    made = build_step(taught, step, context, tmp_path / "store")
    assert made.record.history["distill"]["teacher_fingerprint"] == quantized.fingerprint
    with pytest.raises(UnsupportedModel):
        build_step(taught, replace(step, features=1.0), context, tmp_path / "store")


def test_a_larger_teacher_shows_the_same_photos(taught: Model, context: Context, tmp_path: Path) -> None:
    """resize > distill, with the reference at full size."""
    smaller = build(taught, Recipe.parse("resize(pixels=24)"), context, tmp_path / "small")[-1]
    made = build_step(smaller, QUICK, replace(context, reference=taught), tmp_path / "store")
    assert made.record.preprocessing == smaller.record.preprocessing
    assert made.record.history["distill"]["teacher_fingerprint"] == taught.fingerprint


def test_with_and_without_a_teacher_at_several_shares_of_the_labels(
    taught: Model, context: Context, tmp_path: Path
) -> None:
    made = build_step(taught, replace(QUICK, curve=True, width=0.5), context, tmp_path)
    history = made.record.history["distill"]
    rows = history["with_and_without"]
    assert [row["labels_share"] for row in rows] == [1.0, 0.3, 0.1]
    assert all(row["gain_by_teacher"] == row["quality_with_teacher"] - row["quality_without_teacher"] for row in rows)
    assert all(0 <= row[key] <= 1 for row in rows for key in ("quality_with_teacher", "quality_without_teacher"))
    plain = build_step(taught, replace(QUICK, width=0.5), context, tmp_path)
    assert (plain.path / "model.safetensors").read_bytes() == (made.path / "model.safetensors").read_bytes()


def test_no_cell_of_the_curve_begins_with_a_head_that_knows_the_labels(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the cut model has learnt from all of them, whatever share a cell may see."""
    from microbudget.kinds.image_classification import distill as images

    heads: list[torch.Tensor] = []
    teach = images.train_student

    def noting(step, network, *arguments, **options):
        heads.append(network.classifier[1].weight.detach().clone())
        return teach(step, network, *arguments, **options)

    monkeypatch.setattr(images, "train_student", noting)
    build_step(taught, replace(QUICK, epochs=1, curve=True), context, tmp_path)
    own, *cells = heads
    assert len(cells) == 6
    assert all(torch.equal(cell, cells[0]) for cell in cells)
    assert not torch.equal(cells[0], own)


def test_without_a_teacher_only_labelled_photos_are_shown(taught: Model, context: Context) -> None:
    from microbudget.kinds.image_classification import distill as images

    data = images.distillation_data(context, taught.record.preprocessing or {})
    answers = TeacherAnswers((np.zeros((51, 3), "f"),) * 2, None)
    lessons = images.Lessons(data, FixedViews(data, answers), Schooling(2, QUICK.learning()))
    alone = images.objective(QUICK, lessons, images.Training(taught=False, fraction=0.3), 0)
    labels = alone.batch(np.arange(alone.examples), 0)["label"].numpy()
    assert len(labels) == len(data.examples) > data.labelled
    assert labels.min() >= 0
    shown = images.objective(QUICK, lessons, images.Training(fraction=0.3), 0)
    known = shown.batch(np.arange(len(data.examples)), 0)["label"].numpy()
    per_class = [int((known == label).sum()) for label in range(3)]
    train = [sum(e.label == label for e in context.task.examples("train")) for label in range(3)]
    assert per_class == [round(0.3 * count) for count in train]
    assert (known == -1).sum() == len(known) - sum(per_class)


def test_a_teacher_of_other_classes_is_refused(taught: Model, hf_model: Path, context: Context, tmp_path: Path) -> None:
    with pytest.raises(LabelsDisagree, match="the teacher cannot teach these classes: 3 of the data's 3 labels"):
        build_step(taught, replace(QUICK, teacher=str(hf_model)), context, tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_mean": [0.4, 0.5, 0.5]}, "the scale of the colours"),
        ({"do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, "resize and crop"),
        ({"resample": 3}, "resize and crop"),
    ],
)
def test_another_preprocessing_is_refused(
    changes: dict, named: str, taught: Model, context: Context, tmp_path: Path
) -> None:
    other = shutil.copytree(taught.path, tmp_path / "other")
    (other / "microbudget.json").unlink()
    (other / "preprocessor_config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises(InvalidOption, match=f"teacher and student differ in {named}"):
        build_step(taught, replace(QUICK, teacher=str(other)), context, tmp_path / "store")
    with pytest.raises(InvalidOption, match=f"teacher and student differ in {named}"):
        build_step(taught, replace(QUICK, student=str(other)), context, tmp_path / "store")


def test_a_class_without_training_photos_is_named(taught: Model, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split in ("train", "validation", "test"):
        write_photos(folder / split, per_class=6, seed=len(split))
    shutil.rmtree(folder / "train" / "red")
    own = Context(ImageTask.open(folder, DataOptions(cache=tmp_path / "cache")), tmp_path / "cache")
    with pytest.raises(BadData, match="no training example of red"):
        build_step(taught, QUICK, own, tmp_path / "store")


def test_without_validation_there_is_nothing_to_stop_on(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {**context.task._splits, "validation": ()}  # type: ignore[attr-defined]
    own = replace(context, task=replace(context.task, _splits=splits))  # type: ignore[type-var]
    with pytest.raises(BadData, match="no validation examples"):
        build_step(taught, QUICK, own, tmp_path)


def test_a_pruned_folder_is_a_student(taught: Model, context: Context, tmp_path: Path) -> None:
    """Its widths stand in its record alone, and have to stand in the student's."""
    pruned = build(taught, Recipe.parse("prune(sparsity=0.3, samples=8)"), context, tmp_path / "p")[-1]
    assert pruned.record.state["widths"]
    made = build_step(taught, replace(QUICK, student=str(pruned.path)), context, tmp_path / "store")
    assert made.record.state == pruned.record.state
    exported = build(made, Recipe.parse("export"), context, tmp_path / "store")[-1]
    assert exported.size_bytes < taught.size_bytes


PRUNE, LAYERS = "prune(sparsity=0.3, samples=8)", "prune(structure='layers', sparsity=0.1, samples=8)"
START, LEARN, INTEGERS = "finetune(epochs=1)", "distill(epochs=1, views=1)", "export > quantize(samples=8)"


def test_what_was_pruned_is_not_cut_by_its_configuration(
    taught: Model, hf_model: Path, context: Context, tmp_path: Path
) -> None:
    """It would come back with the blocks that were dropped."""
    for model, recipe in ((taught, PRUNE), (load(hf_model), f"{START} > {LAYERS}")):
        with pytest.raises(InvalidOption, match="leave them out to train it as it is, or put distill before prune"):
            build(model, Recipe.parse(f"{recipe} > distill(width=0.5, epochs=1)"), context, tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        f"resize(pixels=24) > {START} > {PRUNE} > {LEARN} > {INTEGERS}",
        f"{START} > {PRUNE} > {LEARN} > resize(pixels=24) > {INTEGERS}",
        f"{START} > {PRUNE} > {LEARN} > export > resize(pixels=24) > quantize(samples=8)",
        f"{START} > distill(width=0.5, epochs=1, views=1) > {PRUNE} > finetune(unfreeze='all', deep_epochs=1) > export",
        f"{START} > {LAYERS} > {LEARN} > {PRUNE} > {LEARN} > export",
    ],
)
def test_methods_combine_in_any_order(
    recipe: str, hf_model: Path, resnet: Path, context: Context, tmp_path: Path
) -> None:
    given = load(hf_model if LAYERS in recipe else resnet)  # the small one has no blocks to drop
    steps = build(given, Recipe.parse(recipe), context, tmp_path)
    examples, last = context.task.examples("validation"), steps[-1]
    logits = open_session(last).answer(context.task.collate(examples, last.record.preprocessing or {}))
    assert logits.shape == (len(examples), 3)
    assert np.isfinite(logits).all()
    for before, after in itertools.pairwise(steps):
        if after.record.recipe.endswith(str(Recipe.parse(LEARN).steps[0])):  # the student is the pruned model itself
            assert after.record.state == before.record.state
            assert np.isclose(after.size_bytes, before.size_bytes, rtol=0.01)


def test_what_a_configuration_cannot_say_is_reported(
    taught: Model, hf_model: Path, context: Context, tmp_path: Path
) -> None:
    network = student.load_network(hf_model)
    with pytest.raises(UnsupportedModel, match="mobilenet_v2 cannot express fewer blocks: use width"):
        student.smaller_config(network.config, 0.5, 1.0)
    with pytest.raises(InvalidOption, match="a named student is taken as it is"):
        build_step(taught, replace(QUICK, width=0.5, student=str(taught.path)), context, tmp_path)
    with pytest.raises(ModelNotFound, match=r"no/such/config\.json does not exist"):
        build_step(taught, replace(QUICK, student="no/such/config.json"), context, tmp_path)
    with pytest.raises(ModelNotFound):
        build_step(taught, replace(QUICK, teacher="no/such/teacher"), context, tmp_path)
    with pytest.raises(InvalidRecipe, match="distill takes hf or onnx, but gets gguf"):
        Recipe.parse("distill").formats("gguf")
    with pytest.raises(
        UnsupportedModel,
        match="does not support smelling, which these data are for, but image-",
    ):
        build_step(taught, QUICK, replace(context, task=replace(context.task, kind="smelling")), tmp_path)  # type: ignore[type-var]
