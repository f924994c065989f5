"""prune as a method: what it writes opens, answers the same everywhere, composes, and refuses what cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from conftest import CONFIG, PIXELS, write_photos
from microbudget.errors import BadInput, InvalidOption, UnsupportedModel
from microbudget.judge.ledger import ledger
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.prune import open_target
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.methods.prune import Prune, blocks, latency, sensitivity
from microbudget.methods.prune.allocate import allocate, step_of, widths
from microbudget.methods.prune.graph import trace
from microbudget.methods.prune.importance import importance
from microbudget.methods.prune.sensitivity import Curve, Family
from microbudget.methods.prune.target import PruningTarget, choose_examples
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.report.steps import steps
from microbudget.runtimes import open_session
from microbudget.runtimes.hf.image_classifier import load_network
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from random_graphs import random_net

HARD = "prune(sparsity=0.7, samples=8)"  # so many that every layer of `taught` loses some, the last one too


@pytest.fixture(scope="session")
def context(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def taught(resnet: Path, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A residual network of few layers, with the photos' labels."""
    return build_step(load(resnet), Recipe.parse("finetune(epochs=3)").steps[0], context, tmp_path_factory.mktemp("s"))


@pytest.fixture(scope="session")
def mobilenet(hf_model: Path, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny MobileNetV2 with the photos' labels: depthwise layers, and many blocks."""
    return build_step(
        load(hf_model), Recipe.parse("finetune(epochs=3)").steps[0], context, tmp_path_factory.mktemp("s")
    )


@pytest.fixture(scope="session")
def blocky(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A residual network with blocks to drop and the photos' labels."""
    folder = tmp_path_factory.mktemp("blocky")
    step = Recipe.parse("finetune(epochs=3)").steps[0]
    return build_step(load(write_classifier(folder / "resnet", "resnet")), step, context, folder)


def write_classifier(folder: Path, kind: str) -> Path:
    """A tiny random classifier of a kind, as transformers saves it."""
    import transformers as t

    small = {"hidden_sizes": [16, 24], "depths": [2, 2]}
    vit = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 3}
    made: dict[str, Any] = {
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=16, layer_type="basic", **small)
        ),
        "bottleneck": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2])
        ),
        "regnet": lambda: t.RegNetForImageClassification(t.RegNetConfig(embedding_size=16, groups_width=4, **small)),
        "convnext": lambda: t.ConvNextForImageClassification(t.ConvNextConfig(num_stages=2, **small)),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(image_size=PIXELS, patch_size=8, **vit)),
    }
    torch.manual_seed(0)
    network = made[kind]()
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(pixel_values=torch.randn(8, 3, PIXELS, PIXELS))
    network.eval().save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def answers(model: Model, context: Context) -> np.ndarray:
    examples = context.task.examples("validation")[:4]
    return open_session(model, threads=1).answer(context.task.collate(examples, model.record.preprocessing or {}))


def parameters(model: Model) -> int:
    return sum(one.numel() for one in load_network(model.path).parameters())


@pytest.mark.parametrize("kind", ["resnet", "bottleneck", "regnet", "convnext", "vit"])
def test_every_architecture_gets_narrower_and_exports(kind: str, context: Context, tmp_path: Path) -> None:
    given = load(write_classifier(tmp_path / kind, kind))
    pruned, exported = build(
        given, Recipe.parse("prune(sparsity=0.4, samples=8) > export"), context, tmp_path / "store"
    )
    assert parameters(pruned) < parameters(given)
    assert exported.size_bytes < build(given, Recipe.parse("export"), context, tmp_path / "store")[-1].size_bytes
    np.testing.assert_allclose(answers(exported, context), answers(pruned, context), rtol=1e-3, atol=1e-3)
    report = pruned.record.history["prune"]
    assert report["channels_left"] == pytest.approx(0.6, abs=0.15)
    assert any(layer["after"] < layer["before"] for layer in report["layers"])
    assert all(layer["after"] > 0 for layer in report["layers"])


def test_the_widths_stand_in_the_record_and_onnx_is_ordinary_again(
    taught: Model, context: Context, tmp_path: Path
) -> None:
    pruned, exported = build(taught, Recipe.parse(f"{HARD} > export"), context, tmp_path)
    widths = pruned.record.state["widths"]
    assert widths["tensors"]["classifier.1.weight"][0] is None  # the classes are the config's to say
    from transformers import AutoModelForImageClassification

    with pytest.raises(Exception, match="mismatch"):
        AutoModelForImageClassification.from_pretrained(str(pruned.path))
    dims = {tuple(tensor.dims) for tensor in onnx.load(str(exported.weights)).graph.initializer}
    assert dims != {
        tuple(t.dims)
        for t in onnx.load(str(build(taught, Recipe.parse("export"), context, tmp_path)[-1].weights)).graph.initializer
    }
    assert ledger(pruned).size_bytes == pruned.size_bytes
    assert ledger(pruned).parameters < ledger(taught).parameters


def test_methods_go_on_from_a_pruned_folder(taught: Model, context: Context, tmp_path: Path) -> None:
    text = (
        "prune(sparsity=0.3, samples=8) > finetune(epochs=2) > resize(pixels=24) > prune(sparsity=0.3, samples=8)"
        " > export > quantize(samples=8)"
    )
    steps = build(taught, Recipe.parse(text), context, tmp_path)
    assert [step.format for step in steps] == ["hf"] * 4 + ["onnx"] * 2
    assert parameters(steps[3]) < parameters(steps[0]) < parameters(taught)
    assert np.isfinite(answers(steps[-1], context)).all()


def test_size_is_a_share_of_the_parameters(taught: Model, context: Context, tmp_path: Path) -> None:
    pruned = build_step(taught, Prune(size="0.6x", samples=8), context, tmp_path)
    assert parameters(pruned) <= 0.6 * parameters(taught)
    assert pruned.record.history["prune"]["parameters_left"] == pytest.approx(parameters(pruned) / parameters(taught))


def test_latency_is_measured_once_and_the_decision_kept(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopwatch that says how many bytes the networks have: another one would decide otherwise."""
    calls: list[float] = []

    def by_size(before: bytes, after: bytes, inputs: dict[str, np.ndarray], threads: int) -> latency.Ratio:
        assert inputs["pixel_values"].shape == (1, 3, PIXELS, PIXELS)
        calls.append(len(after) / len(before))
        return latency.Ratio(calls[-1])

    monkeypatch.setattr(latency, "time_ratio", by_size)
    method = Prune(latency="0.7x", samples=8)
    first = build_step(taught, method, context, tmp_path / "one")
    assert first.record.history["prune"]["latency_left_measured"] == max(call for call in calls if call <= 0.7)
    monkeypatch.setattr(latency, "time_ratio", lambda *_: 1 / 0)
    again = build_step(taught, method, context, tmp_path / "two")
    assert (first.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()


def test_what_was_decided_on_a_busy_machine_is_measured_again_on_a_quiet_one(tmp_path: Path) -> None:
    path = tmp_path / "decision.json"
    quiet, busy = latency.Decision((3, 1), 0.5, 0.0), latency.Decision((4, 2), 0.45, 0.6)
    quiet.save(path)
    assert latency.Decision.read(path, lambda: 0.9) == latency.Decision.read(path, lambda: 0.0) == quiet
    busy.save(path)
    assert latency.Decision.read(path, lambda: 0.9) == busy
    assert latency.Decision.read(path, lambda: 0.0) is None
    path.write_text('{"counts": [3, 1], "measured": 0.5}')  # of an earlier version
    assert latency.Decision.read(path, lambda: 0.0) == quiet


class Killed(Progress):
    """Progress that ends everything when so many parts of the work that it tracks are done; 0: never."""

    def __init__(self, parts: int = 0) -> None:
        super().__init__(quiet=True)
        self.parts = parts

    def track(self, items: Any, what: str, total: int | None = None) -> Iterator[Any]:
        for done, item in enumerate(items):
            if self.parts and done == self.parts:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("structure", ["channels", "layers"])
def test_a_kill_between_layers_costs_one_of_them_and_changes_no_byte(
    structure: str, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = load(write_classifier(tmp_path / "vit", "vit"))
    measured: list[int] = []
    module, name = {"channels": (sensitivity, "_nats"), "layers": (blocks, "_loss")}[structure]
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: measured.append(1) or original(*arguments))
    method = Prune(structure=structure, sparsity=0.6, samples=4)
    whole = build_step(given, method, replace(context, cache=tmp_path / "a"), tmp_path / "whole")
    at_once = len(measured)
    measured.clear()
    killed = replace(context, cache=tmp_path / "b", progress=Killed(1))
    with pytest.raises(KeyboardInterrupt):
        build_step(given, method, killed, tmp_path / "parts")
    before = len(measured)
    assert 0 < before < at_once
    parts = build_step(given, method, replace(killed, progress=Killed()), tmp_path / "parts")
    assert len(measured) == at_once
    assert (parts.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert parts.record.history == whole.record.history
    assert not (killed.cache / "checkpoints" / parts.path.name).exists()


def test_blocks_go_until_it_is_fast_enough(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer than that; the number is kept, like that of channels."""
    given = load(write_classifier(tmp_path / "vit", "vit"))
    calls: list[float] = []

    def by_size(before: bytes, after: bytes, inputs: dict[str, np.ndarray], threads: int) -> latency.Ratio:
        calls.append(len(after) / len(before))
        return latency.Ratio(calls[-1])

    monkeypatch.setattr(latency, "time_ratio", by_size)
    method = Prune(structure="layers", latency="0.6x", samples=8)
    first = build_step(given, method, context, tmp_path / "one")
    report = first.record.history["prune"]
    assert len(report["dropped"]) == len(calls) == 2
    assert report["latency_left_measured"] == calls[-1] <= 0.6 < calls[0]
    monkeypatch.setattr(latency, "time_ratio", lambda *_: 1 / 0)
    again = build_step(given, method, context, tmp_path / "two")
    assert (first.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()
    assert again.record.history["prune"]["latency_left_measured"] == report["latency_left_measured"]
    monkeypatch.setattr(latency, "time_ratio", lambda *_: latency.Ratio(0.9))
    with pytest.raises(InvalidOption, match="cannot be reached by dropping blocks: 2 of 3 are too few"):
        build_step(given, replace(method, latency="0.5x"), context, tmp_path / "three")


def test_each_step_of_a_name_keeps_its_report(blocky: Model, context: Context, tmp_path: Path) -> None:
    text = "prune(structure='weights', sparsity=0.1) > prune(structure='layers', sparsity=0.2) > prune(sparsity=0.2)"
    made = build(blocky, Recipe.parse(text.replace(")", ", samples=4)")), context, tmp_path)[-1].record
    assert list(made.history) == ["finetune", "prune 1", "prune 2", "prune"]
    assert [made.history[name]["structure"] for name in list(made.history)[1:]] == ["weights", "layers", "channels"]
    assert [step.name for step in steps(made)] == list(made.history)


@pytest.mark.parametrize(("structure", "share"), [("weights", 0.1), ("layers", 0.1), ("channels", 0.3)])
def test_a_backbone_learns_faster_where_it_lost_channels(
    structure: str,
    share: float,
    taught: Model,
    blocky: Model,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from microbudget.training import classifiers

    shares: list[float] = []

    def groups(network: Any, last: bool, share: float) -> Any:
        shares.append(share * classifiers.head_factor(network))
        return real(network, last, share)

    real = classifiers.groups
    monkeypatch.setattr(classifiers, "groups", groups)
    pruned = Prune(structure=structure, sparsity=0.2, samples=4)
    given = blocky if structure == "layers" else taught  # the smaller one has no blocks to drop
    build(given, Recipe((pruned, Finetune(unfreeze="all", epochs=1, deep_epochs=1))), context, tmp_path)
    assert shares == [pytest.approx(share)]


def test_importance_by_batch_norm_wants_one(context: Context, tmp_path: Path) -> None:
    given = load(write_classifier(tmp_path / "vit", "vit"))
    with pytest.raises(InvalidOption, match="ViTForImageClassification has none after its layers"):
        build_step(given, Prune(importance="batchnorm", samples=4), context, tmp_path / "s")


@pytest.mark.parametrize("importance", ["magnitude", "wanda"])
def test_a_share_below_one_weight_is_refused(importance: str, taught: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="nothing would change"):
        build_step(
            taught, Prune(structure="weights", sparsity=1e-8, importance=importance, samples=4), context, tmp_path
        )


def test_the_decision_outlives_the_cleaning_of_a_run(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the cache goes at the end; a step that is made again is the same."""
    from microbudget.runs.run import Run
    from microbudget.search.search import remove_unused_models

    run = Run(tmp_path / "run")
    own = replace(context, cache=run.cache)
    monkeypatch.setattr(latency, "time_ratio", lambda before, after, *_: latency.Ratio(len(after) / len(before)))
    method = Prune(latency="0.7x", samples=8)
    first = build_step(taught, method, own, tmp_path / "one")
    (run.cache / "features").mkdir()
    (run.cache / "note").write_text("")
    remove_unused_models(run, taught, [])
    assert [path.name for path in run.cache.iterdir()] == ["decisions"]
    monkeypatch.setattr(latency, "time_ratio", lambda *_: 1 / 0)
    again = build_step(taught, method, own, tmp_path / "two")
    assert (first.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()


def test_a_vits_neurons_stand_in_its_config(context: Context, tmp_path: Path) -> None:
    """Equally many in every block, since it has one number for them."""
    given = load(write_classifier(tmp_path / "vit", "vit"))
    pruned = build_step(given, Prune(sparsity=0.3, samples=8), context, tmp_path / "s")
    layers = [row for row in pruned.record.history["prune"]["layers"] if row["before"] == 32]
    assert len(layers) == 1, "each block's neurons are a layer of their own"
    network = load_network(pruned.path)
    widths = {len(tensor) for name, tensor in network.named_parameters() if name.endswith("mlp.fc1.bias")}
    assert widths == {layers[0]["after"]}


def test_a_latency_out_of_reach_is_reported(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "time_ratio", lambda *_: latency.Ratio(0.93))
    with pytest.raises(InvalidOption, match=r"latency='0.5x' cannot be reached by removing channels: 0.93x"):
        build_step(taught, Prune(latency="0.5x", samples=8), context, tmp_path)


def test_the_stopwatch_compares_two_files(taught: Model, context: Context, tmp_path: Path) -> None:
    file = build(taught, Recipe.parse("export"), context, tmp_path)[-1].weights.read_bytes()
    pixels = np.zeros((1, 3, PIXELS, PIXELS), np.float32)
    assert latency.time_ratio(file, file, {"pixel_values": pixels}, 1).times == pytest.approx(1, abs=0.7)


@pytest.mark.parametrize("kind", ["magnitude", "taylor", "batchnorm"])
def test_channels_that_say_nothing_are_the_least_important(kind: str) -> None:
    program = [("conv", 0, 8, 1, 3), ("norm", 1), ("relu", 2), ("conv", 3, 12, 1, 3), ("relu", 4)]
    network = random_net(program, False, 5)
    quiet = torch.tensor([1, 4, 6])
    with torch.no_grad():
        network.layers[1].weight[quiet] *= 1e-3
        network.layers[1].bias[quiet] *= 1e-3
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 4, 4)).astype(np.float32))
    target = PruningTarget(network, [{"pixel_values": pixels}])
    graph = trace(network, target.example)
    scores = importance(kind, target, graph)
    channels = graph.axes["layers.0.weight"][0]
    assert set(np.argsort(scores[channels])[:3].tolist()) == set(quiet.tolist())


@pytest.mark.parametrize("importance", ["magnitude", "batchnorm"])
def test_a_channel_of_small_weights_is_the_least_important(importance: str, context: Context, taught: Model) -> None:
    """Every weight that makes, scales or reads one channel of each layer is made small: its score must be the least."""
    from microbudget.methods.prune.channels import plan
    from microbudget.methods.prune.importance import importance as score

    target = open_target(Prune(), taught, context, choose_examples(context, 4))
    made = plan(target, importance, context.progress, uniform=True)
    small = {int(site.bundles[len(site.bundles) // 2]): site for one in made.families for site in one.sites}
    state = made.target.network.state_dict()
    for name, axes in made.graph.axes.items():
        for axis, ids in enumerate(axes):
            for place in np.flatnonzero(np.isin(ids, list(small))):
                state[name].select(axis, int(place)).mul_(1e-3)
    scores = score(importance, made.target, made.graph)
    for bundle, site in small.items():
        assert scores[bundle] == scores[site.bundles].min() < np.median(scores[site.bundles]) / 10


def family(width: int, step: int = 1) -> Family:
    from microbudget.methods.prune.graph import Site

    site = Site(f"layer{width}", np.arange(width), ("w", 0), (("w", 0),))
    return Family(site.name, (site,), (np.arange(width),), step)


def test_the_rate_follows_the_sensitivity() -> None:
    families = [family(16), family(16)]
    curves = [
        Curve(np.array([0.0, 8, 12]), np.array([0.0, 1, 2])),
        Curve(np.array([0.0, 8, 12]), np.array([0.0, 0.01, 0.1])),
    ]
    counts = allocate(families, curves, lambda stays: float(stays.sum()), 20)
    assert sum(counts) == 12
    assert counts[1] == 12  # all of them from the layer that hardly shows it


def test_widths_end_on_multiples() -> None:
    families = [family(30, 8), family(20, 4)]
    flat = Curve(np.array([0.0, 15]), np.array([0.0, 1.0]))
    counts = allocate(families, [flat, flat], lambda stays: float(stays.sum()), 30)
    left = widths(families, counts)
    assert left[0] % 8 == 0
    assert left[1] % 4 == 0
    assert [step_of(width, False) for width in (960, 24, 16, 8, 3)] == [8, 8, 4, 2, 1]
    assert step_of(768, True) == 256


def test_a_layer_never_loses_its_last_channel(taught: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"would take the last channels of .*; at most \d+% can go"):
        build_step(taught, Prune(sparsity=0.99, samples=8), context, tmp_path)


@pytest.mark.parametrize("sparsity", [0, 0.0, 1, 1.0, 1.5, -0.1])
def test_sparsity_is_a_share(sparsity: float) -> None:
    with pytest.raises(InvalidOption, match="sparsity must be above 0 and below 1"):
        Prune(sparsity=sparsity)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune(latency='2x')", "latency must be a fraction of the model's own below 1"),
        ("prune(size='half')", "size must be a fraction"),
        ("prune(size='0.0x')", "size must be a fraction"),
        ("prune(latency='0.5x', sparsity=0.5)", "sparsity and latency are targets of the same cut"),
        ("prune(structure='layers', size='0.5x')", "takes sparsity"),
        ("prune(structure='weights', latency='0.5x')", "takes sparsity"),
        ("prune(importance='wanda')", "'wanda' is not for structure='channels'"),
        ("prune(structure='weights', importance='taylor')", "'taylor' is not for structure='weights'"),
        (
            "prune(structure='layers', importance='taylor')",
            "structure='layers': blocks are dropped by",
        ),
        ("prune(structure='planes')", "must be one of 'channels', 'layers', 'weights'"),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Recipe.parse(text)


def test_one_example_is_not_enough(hf_model: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", per_class=3)
    own = Context(ImageTask.open(folder, DataOptions(cache=tmp_path / "c")), tmp_path / "c", threads=1)
    object.__setattr__(own.task, "_splits", {"train": own.task.examples("train")[:1]})
    with pytest.raises(BadInput, match="compares answers on training examples, and there are 1"):
        build_step(load(hf_model), Prune(), own, tmp_path / "s")


@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit"])
def test_dropped_blocks_stand_in_the_config(kind: str, context: Context, tmp_path: Path) -> None:
    """An ordinary folder: transformers opens it, and answers like the network whose blocks are passed over."""
    from transformers import AutoModelForImageClassification

    from microbudget.runtimes.hf.widths import drop

    given = load(write_classifier(tmp_path / kind, kind))
    pruned = build_step(given, Prune(structure="layers", sparsity=0.3, samples=8), context, tmp_path / "s")
    assert "dropped" not in pruned.record.state
    pixels = torch.randn(2, 3, PIXELS, PIXELS)
    whole = load_network(given.path)
    drop(whole, pruned.record.history["prune"]["dropped"])
    with torch.inference_mode():
        found = AutoModelForImageClassification.from_pretrained(str(pruned.path)).eval()(pixel_values=pixels).logits
        torch.testing.assert_close(found, whole(pixel_values=pixels).logits, rtol=1e-4, atol=1e-5)


def test_blocks_that_no_config_can_drop_stand_in_the_record(mobilenet: Model, context: Context, tmp_path: Path) -> None:
    steps = build(
        mobilenet,
        Recipe.parse(
            "prune(structure='layers', sparsity=0.3, samples=8) > prune(sparsity=0.3, samples=8)"
            " > prune(structure='layers', sparsity=0.2, samples=8) > export"
        ),
        context,
        tmp_path,
    )
    assert steps[0].record.state["dropped"]
    assert steps[1].record.state["dropped"] == steps[0].record.state["dropped"]
    assert len(steps[2].record.state["dropped"]) > len(steps[1].record.state["dropped"])
    assert parameters(steps[2]) < parameters(steps[1]) < parameters(steps[0]) < parameters(mobilenet)
    np.testing.assert_allclose(answers(steps[3], context), answers(steps[2], context), rtol=1e-3, atol=1e-3)


def test_the_block_that_shows_least_goes_first(context: Context, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "vit", "vit")
    from safetensors.torch import load_file, save_file

    tensors = load_file(str(folder / "model.safetensors"))
    for name in tensors:  # a block that adds nothing
        if ".1." in name and ("o_proj" in name or "fc2" in name or "output" in name):
            tensors[name].zero_()
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    pruned = build_step(load(folder), Prune(structure="layers", sparsity=0.3, samples=8), context, tmp_path / "s")
    (dropped,) = pruned.record.history["prune"]["dropped"]
    assert dropped.endswith(".1")
    assert pruned.record.history["prune"]["divergence"] == pytest.approx(0, abs=1e-6)


def test_all_blocks_cannot_go(context: Context, tmp_path: Path) -> None:
    given = load(write_classifier(tmp_path / "vit", "vit"))
    with pytest.raises(InvalidOption, match="would drop all 3 blocks"):
        build_step(given, Prune(structure="layers", sparsity=0.95, samples=8), context, tmp_path / "s")


@pytest.mark.parametrize("importance", ["magnitude", "wanda"])
def test_weights_become_zero_and_save_nothing_here(
    importance: str, taught: Model, context: Context, tmp_path: Path
) -> None:
    method = Prune(structure="weights", sparsity=0.5, importance=importance, samples=8)
    pruned = build_step(taught, method, context, tmp_path)
    network = load_network(pruned.path)
    for name in pruned.record.state["zeros"]:
        share = float((network.get_parameter(name) == 0).float().mean())
        assert share <= 0.5
        assert share > 0.2 or network.get_parameter(name)[0].numel() < 16  # rows of nine weights: four of them
    report = pruned.record.history["prune"]
    assert pruned.size_bytes >= taught.size_bytes - 100  # zeros that are stored save no byte
    assert report["compressed_share"] < 0.8
    assert "classifier.weight" not in pruned.record.state["zeros"]


def test_wanda_is_the_papers_equation(context: Context, taught: Model) -> None:
    """|W| * ||X||, the smallest of each row: naively, with the inputs that a hook sees."""
    from microbudget.methods.prune import zeros

    target = open_target(Prune(), taught, context, choose_examples(context, 8))
    seen: dict[str, torch.Tensor] = {}
    modules = dict(target.network.named_modules())
    name = next(
        name for name, module in zeros.prunable(target.network) if module.kernel_size == (1, 1) and module.groups == 1
    )
    module = modules[name.removesuffix(".weight")]
    hook = module.register_forward_pre_hook(lambda _, x: seen.__setitem__("x", x[0].clone()))
    target.logits()
    hook.remove()
    before = module.weight.detach().clone()
    zeros.prune(target, 0.5, "wanda")
    X = seen["x"].permute(1, 0, 2, 3).reshape(before.shape[1], -1)
    score = before[:, :, 0, 0].abs() * X.norm(dim=1)
    for row, values in enumerate(score):
        gone = set(values.argsort()[: len(values) // 2].tolist())
        assert {i for i, w in enumerate(module.weight[row, :, 0, 0].tolist()) if w == 0} == gone


def test_a_folder_whose_weights_do_not_fit_its_widths_is_refused(
    taught: Model, context: Context, tmp_path: Path
) -> None:
    pruned = build_step(taught, Recipe.parse(HARD).steps[0], context, tmp_path)
    path = pruned.path / "microbudget.json"
    record = json.loads(path.read_text())
    record["state"]["widths"]["tensors"]["classifier.1.weight"][1] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(UnsupportedModel, match="do not have the widths"):
        load_network(pruned.path)
