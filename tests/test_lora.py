"""lora: what is trained, what is written, text and conversations, and what cannot be."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_resnet
from microbudget.errors import BadData, InvalidOption, ModelNotFound, UnsupportedModel
from microbudget.judge.ledger import ledger
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.methods.lora import Lora
from microbudget.methods.lora.memory import HEAP, saved_bytes, training_bytes
from microbudget.methods.prune import Prune
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.hf import causal
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_language_models import text_context, train_byte_level, write_network

QUICK = Lora(rank=2, epochs=2, length=64, batch_size=4)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "llama"
    train_byte_level(folder)
    write_network(folder, "llama", hidden_size=64, intermediate_size=96)
    return load(folder)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return text_context(tmp_path_factory)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Enough text to take a few steps."""
    return text_context(tmp_path_factory, 8_000)


@pytest.fixture(scope="session")
def images(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def quick(reader: Model, few: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """What QUICK makes of `reader`. Do not write into it."""
    return build_step(reader, QUICK, few, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="session")
def apart(reader: Model, few: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An adapter of `reader`, kept apart from it. Do not write into it."""
    return build_step(reader, Lora(rank=2, epochs=1, length=64, merge=False), few, tmp_path_factory.mktemp("apart"))


def logits(model: Model) -> np.ndarray:
    tokens = torch.arange(20)[None] + 3
    with torch.inference_mode():
        return causal.load_network(model.path)(tokens).logits.numpy()


def bits(model: Model, context: Context) -> float:
    examples = context.task.examples("test")
    return context.task.score(open_session(model, threads=1).answer(context.task.collate(examples, {})), examples).value


def test_a_language_model_learns_and_goes_on_to_gguf(reader: Model, text: Context, tmp_path: Path) -> None:
    adapted, exported = build(
        reader, Recipe.parse("lora(rank=4, epochs=4, length=64) > export(format='gguf')"), text, tmp_path
    )
    assert bits(adapted, text) < 0.9 * bits(reader, text)
    assert bits(exported, text) == pytest.approx(bits(adapted, text), rel=0.01)
    history = adapted.record.history["lora"]
    assert 0 < history["trained"] < 0.3 * history["parameters"]
    assert history["epochs"][-1]["validation_loss"] < history["epochs"][0]["validation_loss"]
    assert not (adapted.path / "adapter_config.json").exists()
    assert set(text.task.examples("train")[0].key.split()) <= set(adapted.record.seen)


def test_merged_and_kept_apart_answer_the_same(quick: Model, reader: Model, few: Context, tmp_path: Path) -> None:
    merged = quick
    kept = build_step(reader, Lora(rank=2, epochs=2, length=64, batch_size=4, merge=False), few, tmp_path / "k")
    np.testing.assert_allclose(logits(load(kept.path)), logits(merged), rtol=1e-4, atol=1e-4)
    assert np.abs(logits(merged) - logits(reader)).max() > 0.01
    own = sum(file.stat().st_size for file in kept.path.iterdir())
    assert own < 0.2 * reader.size_bytes
    assert kept.size_bytes > reader.size_bytes  # inference needs the backbone as well
    assert ledger(kept).size_bytes == kept.size_bytes
    assert bits(kept, few) == pytest.approx(bits(merged, few), rel=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_opens_in_peft_itself(apart: Model) -> None:
    from peft import AutoPeftModelForCausalLM

    with torch.inference_mode():
        theirs = AutoPeftModelForCausalLM.from_pretrained(str(apart.path))(torch.arange(20)[None] + 3).logits.numpy()
    np.testing.assert_allclose(logits(apart), theirs, rtol=1e-4, atol=1e-4)


def test_a_folder_with_adapter_and_backbone_is_its_own(apart: Model, tmp_path: Path) -> None:
    """As RUN/best has it: all files that inference needs beside each other."""
    kept = apart
    together = tmp_path / "together"
    together.mkdir()
    for file in kept.files:
        (together / file.name).write_bytes(file.read_bytes())
    kept.record.save(together)
    np.testing.assert_allclose(logits(load(together)), logits(kept), rtol=1e-4, atol=1e-4)


def test_a_missing_backbone_is_reported(reader: Model, few: Context, tmp_path: Path) -> None:
    kept = build_step(reader, Lora(rank=2, epochs=1, length=64, merge=False), few, tmp_path)
    path = kept.path / "adapter_config.json"
    path.write_text(path.read_text().replace(str(reader.path.resolve()), "/nowhere"), encoding="utf-8")
    with pytest.raises(ModelNotFound, match="is an adapter for /nowhere, which is not there"):
        load(kept.path)


def test_an_adapter_is_not_exported_without_its_backbone(reader: Model, few: Context, tmp_path: Path) -> None:
    recipe = Recipe.parse("lora(rank=2, epochs=1, length=64, merge=False) > export(format='gguf')")
    with pytest.raises(UnsupportedModel, match="is an adapter: export it with its backbone"):
        build(reader, recipe, few, tmp_path)


def test_an_adapter_of_an_intermediate_model_is_refused(reader: Model, few: Context, tmp_path: Path) -> None:
    recipe = Recipe.parse("lora(rank=2, epochs=1, length=64) > lora(rank=2, epochs=1, length=64, merge=False)")
    with pytest.raises(InvalidOption, match="put lora first in the recipe"):
        build(reader, recipe, few, tmp_path)


def test_targets_that_match_nothing_are_listed(reader: Model, few: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"targets='queries' matches no layer; there are q_proj, k_proj, v_proj"):
        build_step(reader, Lora(targets="q_proj, queries", epochs=1), few, tmp_path)


def test_only_the_targets_are_trained(reader: Model, few: Context, tmp_path: Path) -> None:
    adapted = build_step(reader, Lora(rank=2, targets="q_proj,v_proj", epochs=1, length=64), few, tmp_path)
    assert adapted.record.history["lora"]["layers"] == 4
    before, after = (causal.load_network(one.path).state_dict() for one in (reader, adapted))
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj"}


def test_checkpointing_changes_memory_and_not_the_result(
    quick: Model, reader: Model, few: Context, tmp_path: Path
) -> None:
    plain = quick
    frugal = build_step(
        reader, Lora(rank=2, epochs=2, length=64, batch_size=4, checkpointing=True), few, tmp_path / "b"
    )
    losses = [[row["validation_loss"] for row in one.record.history["lora"]["epochs"]] for one in (plain, frugal)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
    estimates = [one.record.history["lora"]["memory_estimate_bytes"] for one in (plain, frugal)]
    assert estimates[1] < estimates[0]


def test_saved_bytes_are_those_of_the_graph() -> None:
    """A linear layer keeps its input and nothing else; a weight is not counted."""
    layer = torch.nn.Linear(100, 10)
    x = torch.randn(7, 100, requires_grad=True)
    assert saved_bytes(layer, lambda network: network(x).sum()) == (2800, 2800)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert saved_bytes(layer, lambda network: network(x).sum()) == (0, 0)
    assert training_bytes(layer, rows=3, row_bytes=100, largest=10) == 4 * 1010 + HEAP * 3 * 120


def test_images_get_a_head_and_adapters(images: Context, tmp_path: Path) -> None:
    adapted, exported = build(
        load(write_resnet(tmp_path / "resnet")),
        Recipe.parse("lora(rank=4, epochs=15, patience=15, learning_rate=0.01) > export"),
        images,
        tmp_path,
    )
    examples = [*images.task.examples("train"), *images.task.examples("validation")]
    found = open_session(exported).answer(images.task.collate(examples, adapted.record.preprocessing or {}))
    assert adapted.labels == images.task.labels
    assert (found.argmax(1) == [example.label for example in examples]).mean() > 0.6  # guessing gives a third


def test_the_head_comes_first(resnet: Path, images: Context, tmp_path: Path) -> None:
    """As finetune fits it: what the adapters go on from is no random head."""
    adapted = build_step(load(resnet), Lora(rank=2, epochs=1), images, tmp_path)
    alone = build_step(load(resnet), Finetune(), images, tmp_path)
    before = adapted.record.history["lora"]["before"]
    assert before["loss"] == pytest.approx(
        min(row["validation_loss"] for row in alone.record.history["finetune"]["epochs"]), rel=1e-3
    )


def test_labels_in_another_order_keep_their_rows(resnet: Path, images: Context, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    known = build_step(load(resnet), Finetune(epochs=3), images, tmp_path)
    turned = tmp_path / "turned"
    shutil.copytree(known.path, turned)
    (turned / "microbudget.json").unlink()
    order = [2, 0, 1]
    config = json.loads((turned / "config.json").read_text())
    labels = [images.task.labels[place] for place in order]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: place for place, label in enumerate(labels)}}
    (turned / "config.json").write_text(json.dumps(config))
    tensors = load_file(str(turned / "model.safetensors"))
    tensors |= {name: tensors[name][order].clone() for name in ("classifier.1.weight", "classifier.1.bias")}
    save_file(tensors, str(turned / "model.safetensors"), metadata={"format": "pt"})
    adapted = build_step(load(turned), Lora(rank=2, epochs=1, learning_rate=1e-8), images, tmp_path)
    examples = images.task.examples("validation")
    given = images.task.collate(examples, known.record.preprocessing or {})
    ours, theirs = (open_session(one, threads=1).answer(given) for one in (adapted, known))
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(np.abs(theirs).max()))


def test_the_head_takes_smaller_steps_than_the_adapters(hf_model: Path) -> None:
    from microbudget.methods.lora import adapting
    from microbudget.runtimes.hf.image_classifier import load_network

    network = load_network(hf_model)
    names = adapting.chosen(network, None, "classifier")
    learner = adapting.adapted(network, names, 2, 2.0, "classifier", 0)
    (adapters, full), (head, share) = adapting.groups(learner, 0.1)
    assert (full, share, len(adapters), len(head)) == (1.0, 0.1, 2 * len(names), 2)
    assert len(adapters) + len(head) == sum(one.requires_grad for one in learner.parameters())


def test_photos_without_validation_are_warned_of(
    resnet: Path, images: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {**images.task._splits, "validation": ()}  # type: ignore[attr-defined]
    own = replace(images, task=replace(images.task, _splits=splits), progress=Progress())  # type: ignore[type-var]
    adapted = build_step(load(resnet), Lora(rank=2, epochs=2), own, tmp_path)
    assert "lora: there is no validation split: all epochs run" in capsys.readouterr().err
    assert adapted.record.history["lora"]["kept"] == 2


def test_a_class_without_training_photos_is_named(resnet: Path, images: Context, tmp_path: Path) -> None:
    red = images.task.labels.index("red")
    splits = {**images.task._splits}  # type: ignore[attr-defined]
    splits["train"] = tuple(example for example in splits["train"] if example.label != red)
    own = replace(images, task=replace(images.task, _splits=splits))  # type: ignore[type-var]
    with pytest.raises(BadData, match="no training example of red"):
        build_step(load(resnet), Lora(rank=2, epochs=1), own, tmp_path)


def test_pruned_zeros_stay(resnet: Path, images: Context, tmp_path: Path) -> None:
    recipe = Recipe.parse(
        "finetune(epochs=1) > prune(structure='weights', samples=8) > finetune(unfreeze='all', deep_epochs=3)"
        " > lora(rank=2, epochs=3)"
    )
    from microbudget.runtimes.hf.image_classifier import load_network

    steps = build(load(resnet), recipe, images, tmp_path)
    networks = [load_network(step.path) for step in steps]
    names = steps[-1].record.state["zeros"]
    assert names == steps[1].record.state["zeros"]
    moved = 0.0
    for before, after in ((1, 2), (2, 3)):
        for name in names:
            old, new = (networks[index].get_parameter(name) for index in (before, after))
            assert torch.equal(old == 0, new == 0)
            moved += float((old - new).detach().abs().sum())
    assert moved > 0


def test_what_is_judged_beside_zeros_is_what_is_written(resnet: Path, images: Context, tmp_path: Path) -> None:
    """The adapters do not fill pruned zeros in the training either, so the scores are those of the merged one."""
    from microbudget.runtimes.hf.image_classifier import load_network
    from microbudget.training import objectives

    recipe = Recipe.parse(
        "finetune(epochs=1) > prune(structure='weights', sparsity=0.8, samples=8)"
        " > lora(rank=4, epochs=6, patience=6, learning_rate=0.003)"
    )
    adapted = build(load(resnet), recipe, images, tmp_path)[-1]
    history = adapted.record.history["lora"]
    assert history["kept"], "an epoch was kept"
    objective = objectives.labelled(images.task, adapted.record.preprocessing or {})
    assert objective.validate is not None
    with torch.no_grad():
        found = objective.validate(load_network(adapted.path).eval())
    kept_row = history["epochs"][history["kept"] - 1]
    assert float(found["loss"]) == pytest.approx(kept_row["validation_loss"], rel=1e-3)


def test_an_adapter_of_a_model_that_was_made_before_keeps_it_as_its_backbone(
    quick: Model, few: Context, tmp_path: Path
) -> None:
    """RUN/best of another run, given as the model."""
    earlier = quick
    kept = build_step(load(earlier.path), Lora(rank=2, epochs=1, length=64, merge=False), few, tmp_path / "now")
    backbone = json.loads((kept.path / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(backbone) == earlier.path.resolve()
    assert bits(load(kept.path), few) < 1.05 * bits(earlier, few)


def test_checkpointing_of_images_is_estimated_to_take_less(tmp_path: Path, images: Context) -> None:
    """What enters a block is measured: not guessed from the pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=4, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(str(tmp_path / "vit"))
    shutil.copy(write_resnet(tmp_path / "resnet") / "preprocessor_config.json", tmp_path / "vit")
    estimates = [
        build_step(
            load(tmp_path / "vit"), Lora(rank=2, epochs=1, checkpointing=checkpointing), images, tmp_path
        ).record.history["lora"]["memory_estimate_bytes"]
        for checkpointing in (False, True)
    ]
    assert estimates[1] < 0.5 * estimates[0]


def test_an_adapter_would_fill_zeros(resnet: Path, images: Context, tmp_path: Path) -> None:
    pruned = build_step(load(resnet), Prune(structure="weights", samples=8), images, tmp_path)
    with pytest.raises(InvalidOption, match=r"put lora first"):
        build_step(pruned, Lora(merge=False, epochs=1), images, tmp_path)
    with pytest.raises(InvalidOption, match=r"fill the zeros"):
        build_step(pruned, Lora(merge=False, epochs=1), images, tmp_path / "another")


def test_a_killed_training_goes_on(
    quick: Model, reader: Model, few: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its checkpoint, and made again: the same bytes as one that ran through."""
    from microbudget.training import loop

    whole = quick
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    step, steps = torch.optim.AdamW.step, []

    def killed(self: torch.optim.AdamW, *arguments: object) -> object:
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        build_step(reader, QUICK, few, tmp_path / "b")
    again = build_step(reader, QUICK, few, tmp_path / "b")
    names = ("model.safetensors", "config.json")
    assert all((again.path / name).read_bytes() == (whole.path / name).read_bytes() for name in names)
    assert len(steps) <= 2 * math.ceil(whole.record.history["lora"]["rows"] / 4) + 1  # one step was begun twice


def test_photos_are_no_text(reader: Model, images: Context, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="learns from text, and the data are for image-classification"):
        build_step(reader, QUICK, images, tmp_path)


def test_neurons_and_heads_of_a_language_model_stand_in_its_config(
    reader: Model, text: Context, tmp_path: Path
) -> None:
    """An ordinary folder, which transformers and llama.cpp open."""
    from transformers import AutoModelForCausalLM

    recipe = Recipe.parse("prune(size='0.8x', samples=8) > export(format='gguf')")
    pruned, exported = build(reader, recipe, text, tmp_path)
    config = json.loads((pruned.path / "config.json").read_text())
    assert (config["intermediate_size"], config["num_key_value_heads"]) != (96, 2)
    assert "widths" not in pruned.record.state
    network = AutoModelForCausalLM.from_pretrained(str(pruned.path), dtype=torch.float32)
    whole = sum(one.numel() for one in causal.load_network(reader.path).parameters())
    assert sum(one.numel() for one in network.parameters()) <= 0.8 * whole
    assert bits(exported, text) == pytest.approx(bits(pruned, text), rel=0.01)


def test_layers_of_a_language_model_stand_in_its_config(reader: Model, text: Context, tmp_path: Path) -> None:
    recipe = Recipe.parse("prune(structure='layers', samples=8) > export(format='gguf')")
    pruned, exported = build(reader, recipe, text, tmp_path)
    assert json.loads((pruned.path / "config.json").read_text())["num_hidden_layers"] == 1
    assert bits(exported, text) == pytest.approx(bits(pruned, text), rel=0.01)
