"""finetune(unfreeze=...): what is trained, what stays, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microbudget.errors import BadData, InvalidOption
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.hf.heads import head_of
from microbudget.runtimes.hf.image_classifier import load_network
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from microbudget.training import classifiers
from microbudget.training.objective import Trained
from test_distill import vision_transformer


@pytest.fixture(scope="session")
def context(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


def tuned(given: Path, context: Context, store: Path, **options: object) -> Model:
    step = Finetune(epochs=3, deep_epochs=3, **options)  # type: ignore[arg-type]
    return build_step(load(given), step, context, store)


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that differ."""
    old, new = (load_network(folder).state_dict() for folder in (before, after))
    return {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}


def test_all_moves_every_layer_and_no_statistics(resnet: Path, context: Context, tmp_path: Path) -> None:
    head_alone = build_step(load(resnet), Finetune(epochs=3), context, tmp_path)
    model = tuned(resnet, context, tmp_path, unfreeze="all")
    moved = changed(head_alone.path, model.path)
    names = {name for name, _ in load_network(model.path).named_parameters()}
    assert moved == names
    history = model.record.history["finetune"]
    assert history["kept"] >= 1
    best = min(row["validation_loss"] for row in history["epochs"])
    assert best < history["before"]["loss"]
    assert history["before"]["loss"] == pytest.approx(
        min(row["validation_loss"] for row in history["head_epochs"]), rel=1e-3
    ), "it does not go on from the finished head"
    assert history["validation"]["accuracy"] == history["epochs"][history["kept"] - 1]["validation_accuracy"]


def test_last_moves_the_last_block_alone(resnet: Path, context: Context, tmp_path: Path) -> None:
    head_alone = build_step(load(resnet), Finetune(epochs=3), context, tmp_path)
    model = tuned(resnet, context, tmp_path, unfreeze="last")
    moved = changed(head_alone.path, model.path)
    assert moved
    assert all(name.startswith(("resnet.encoder.stages.1.layers.0.", "classifier.")) for name in moved)


def test_the_last_block_of_a_mobilenet_takes_the_convolution_after_it(hf_model: Path) -> None:
    network = load_network(hf_model)
    chosen = {id(parameter) for parameter in classifiers.last_block(network)}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in chosen]
    assert all(name.startswith(("mobilenet_v2.layer.15.", "mobilenet_v2.conv_1x1.", "classifier.")) for name in names)
    assert any(name.startswith("mobilenet_v2.conv_1x1.") for name in names)


def test_the_backbone_has_a_tenth_of_the_heads_rate(hf_model: Path) -> None:
    network = load_network(hf_model)
    (head, full), (body, factor) = classifiers.groups(network, only_last_block=False, factor=0.1)
    assert (full, factor) == (1.0, 0.1)
    assert {id(p) for p in head} == {id(p) for p in network.classifier.parameters()}
    assert len(head) + len(body) == len(list(network.parameters()))
    classifiers.groups(network, only_last_block=True, factor=0.1)
    assert not network.mobilenet_v2.conv_stem.first_conv.convolution.weight.requires_grad


def test_the_last_block_of_a_transformer_takes_what_follows_it() -> None:
    network = vision_transformer(layers=3)
    chosen = {id(parameter) for parameter in classifiers.last_block(network)}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in chosen]
    assert names[0].startswith("vit.layers.2.")
    assert not any(f".layers.{earlier}." in name for earlier in (0, 1) for name in names)
    assert "classifier.weight" in names
    assert any("layernorm" in name and ".layers." not in name for name in names)


def test_the_last_block_of_a_resnet_is_the_last_of_its_last_stage() -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic")
    network = ResNetForImageClassification(config)
    chosen = {id(parameter) for parameter in classifiers.last_block(network)}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in chosen]
    assert names[0].startswith("resnet.encoder.stages.1.layers.1.")
    assert not any(".layers.0." in name for name in names)


def test_momentum_of_tensorflow_is_not_taken_for_torchs(hf_model: Path) -> None:
    """With 0.997 of the new value the statistics would be those of the last batch."""
    network = classifiers.for_training(load_network(hf_model))
    found = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert found == {0.1}


def test_an_mlp_head_cannot_be_unfrozen_in_a_folder() -> None:
    assert Recipe.parse("finetune(unfreeze='last', head='mlp')").formats("onnx") == ("onnx",)
    with pytest.raises(InvalidOption, match="unfreeze takes head='linear'"):
        Recipe.parse("finetune(unfreeze='last', head='mlp')").formats("hf")
    with pytest.raises(InvalidOption, match="must be one of None, 'last', 'all'"):
        Finetune(unfreeze="first")


def test_the_head_of_wide_features_takes_smaller_steps(hf_model: Path, resnet: Path) -> None:
    """Of 1,280 raw features each step moves a logit by the rate times their sum."""
    wide, narrow = load_network(hf_model), load_network(resnet)
    assert (head_of(wide)[1].in_features, head_of(narrow)[1].in_features) == (1280, 32)
    assert (classifiers.head_factor(wide), classifiers.head_factor(narrow)) == (0.1, 1.0)


def trained_with(given: Model, context: Context, store: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the loop is given: its settings, the shares of the groups, the mode."""
    from microbudget.training import train as training

    seen: dict[str, Any] = {}

    def noting(network: object, objective: object, settings: object, execution: object, **options: Any) -> Trained:
        seen.update(options, settings=settings, execution=execution)
        return Trained(kept=0)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", noting)
        build_step(given, Finetune(epochs=3, unfreeze="all"), context, store)
    return seen


def test_a_network_that_was_cut_learns_more(
    resnet: Path, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(resnet)
    pruned = build(whole, Recipe.parse("finetune(epochs=3) > prune(sparsity=0.3, samples=8)"), context, tmp_path)[-1]
    for given, backbone in ((whole, 1e-4), (pruned, 3e-4)):
        seen = trained_with(given, context, tmp_path / str(backbone), monkeypatch)
        rate = seen["settings"].learning_rate
        assert rate == pytest.approx(1e-3 * classifiers.head_factor(load_network(given.path)))
        assert [rate * share for _, share in seen["groups"]] == pytest.approx([rate, backbone])


def test_a_network_that_grew_too_sure_is_kept_for_what_it_answers(context: Context) -> None:
    """Its loss rises with its certainty; at its best temperature it falls with its errors."""
    from microbudget.training.objectives import calibrated_loss

    examples = context.task.examples("validation")
    targets = np.array([example.label for example in examples])

    def answered(wrong: int, margin: float) -> np.ndarray:
        """Logits (examples, 3) whose first answers are wrong, all by the same margin."""
        chosen = np.where(np.arange(len(targets)) < wrong, (targets + 1) % 3, targets)
        return margin * np.eye(3, dtype=np.float32)[chosen]

    few = len(examples) // 5
    assert few >= 1
    unsure, sure = answered(2 * few, 1), answered(few, 10)
    losses = [float(context.task.loss(logits, examples).mean()) for logits in (unsure, sure)]
    assert losses[1] > losses[0]
    calibrated = [calibrated_loss(context.task, logits, examples) for logits in (unsure, sure)]
    assert calibrated[1] < calibrated[0] <= losses[0]
    assert calibrated_loss(context.task, 3 * unsure, examples) == pytest.approx(calibrated[0], rel=0.01)


def test_a_loss_of_ones_own_decides_as_it_is(context: Context) -> None:
    from microbudget.training.objectives import calibrated_loss

    examples = context.task.examples("validation")

    class Own:
        def loss(self, outputs: np.ndarray, examples: Any) -> np.ndarray:
            return np.abs(outputs).sum(axis=1)

    logits = np.random.default_rng(0).normal(0, 5, (len(examples), 3))
    assert calibrated_loss(Own(), logits, examples) == pytest.approx(np.abs(logits).sum(axis=1).mean())  # type: ignore[arg-type]


def test_a_pruned_mobilenet_recovers_by_training_on(assets: Path, tmp_path: Path) -> None:
    """By the loss as it is no epoch was kept: the network had grown too sure of itself, and better.

    Of 29 photos 16 are right after so hard a cut and 25 after the training: far more than other arithmetic moves.
    """
    cache = tmp_path / "cache"
    photos = tmp_path / "photos"
    for folder in sorted((assets / "images" / "flowers12").iterdir()):
        (photos / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:16]:
            (photos / folder.name / file.name).write_bytes(file.read_bytes())
    own = Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)
    recipe = "resize(pixels=64) > finetune > prune(sparsity=0.6, samples=8) > finetune(unfreeze='all', deep_epochs=8)"
    history = build(load(assets / "models" / "mobilenet_v2"), Recipe.parse(recipe), own, tmp_path / "models")[
        -1
    ].record.history["finetune"]
    assert history["kept"] >= 1
    kept = history["epochs"][history["kept"] - 1]
    assert kept["validation_calibrated_loss"] < 0.9 * history["before"]["calibrated_loss"]
    assert history["validation"]["accuracy"] > history["before"]["accuracy"]


@pytest.mark.parametrize("unfreeze", [None, "all"])
def test_without_validation_there_is_nothing_to_stop_on(
    unfreeze: str | None, resnet: Path, context: Context, tmp_path: Path
) -> None:
    splits = {**context.task._splits, "validation": ()}  # type: ignore[attr-defined]
    own = replace(context, task=replace(context.task, _splits=splits))  # type: ignore[type-var]
    with pytest.raises(BadData, match="no validation examples: add some, so that training knows when to stop"):
        tuned(resnet, own, tmp_path, unfreeze=unfreeze)
