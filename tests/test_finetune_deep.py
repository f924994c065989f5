"""finetune(unfreeze=...): what is trained, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from microbudget import classifiers
from microbudget.build import build_step
from microbudget.errors import InvalidOption, InvalidRecipe
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.model import Model
from microbudget.recipe import Recipe
from microbudget.runtimes.torch import load_network
from microbudget.tasks.images import ImageTask
from test_distill import vision_transformer, write_resnet


@pytest.fixture(scope="module")
def context(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, cache=cache), cache, threads=1)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet(tmp_path_factory.mktemp("resnet") / "resnet")


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


def test_the_last_block_of_a_mobilenet_takes_the_convolution_behind_it(hf_model: Path) -> None:
    network = load_network(hf_model)
    chosen = {id(parameter) for parameter in classifiers.last_block(network)}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in chosen]
    assert all(name.startswith(("mobilenet_v2.layer.15.", "mobilenet_v2.conv_1x1.", "classifier.")) for name in names)
    assert any(name.startswith("mobilenet_v2.conv_1x1.") for name in names)


def test_the_backbone_has_a_tenth_of_the_heads_rate(hf_model: Path) -> None:
    network = load_network(hf_model)
    (head, full), (body, share) = classifiers.groups(network, only_last_block=False, share=0.1)
    assert (full, share) == (1.0, 0.1)
    assert {id(p) for p in head} == {id(p) for p in network.classifier.parameters()}
    assert len(head) + len(body) == len(list(network.parameters()))
    classifiers.groups(network, only_last_block=True, share=0.1)
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


def test_onnx_and_mlp_cannot_be_unfrozen() -> None:
    with pytest.raises(InvalidRecipe, match=r"takes an hf folder, but gets onnx: put it before export"):
        Recipe.parse("export > finetune(unfreeze='all')").formats("hf")
    with pytest.raises(InvalidOption, match="unfreeze takes head='linear'"):
        Recipe.parse("finetune(unfreeze='last', head='mlp')").formats("hf")
    with pytest.raises(InvalidOption, match="must be one of None, 'last', 'all'"):
        Finetune(unfreeze="first")
