"""A quantization that is killed goes on after the last stage of layers, to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from microbudget.kinds.image_classification.data import ImageTask
from microbudget.machine.journal import Journal
from microbudget.methods import Context
from microbudget.methods.quantize import sensitivity
from microbudget.methods.quantize.layer_rounding import LayerRounder
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_networks import batches, depthwise, images, residual

IMAGES = batches(images(24))


class Kill(BaseException):
    """In place of SIGKILL."""


def killed_after(patch: pytest.MonkeyPatch, calls: int, place: Any, name: str) -> list[int]:
    """Let a function of a module or class be called so often; returns a list with a number for each call."""
    original, made = getattr(place, name), list[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        if len(made) == calls:
            raise Kill
        made.append(len(made))
        return original(*arguments, **options)

    patch.setattr(place, name, counted)
    return made


def whole(folder: Path, model: Any, **options: Any) -> bytes:
    """The file of a quantization that nothing disturbs, without a journal."""
    onnx.save(model, str(folder / "float.onnx"))
    quantize_graph(folder / "float.onnx", IMAGES, folder / "whole.onnx", threads=1, **options)
    return (folder / "whole.onnx").read_bytes()


def quantized(folder: Path, name: str, journal: Path | None, **options: Any) -> Any:
    """The same, with what a journal has."""
    kept = None if journal is None else Journal(journal)
    return quantize_graph(folder / "float.onnx", IMAGES, folder / f"{name}.onnx", threads=1, journal=kept, **options)


@pytest.mark.parametrize("network", [residual, depthwise])
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_kill_costs_one_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Any, calls: int) -> None:
    options: dict[str, Any] = {"bits": 4, "corrections": ("scales", "gptq", "bias")}
    expected, journal = whole(tmp_path, network(), **options), tmp_path / "checkpoints" / "quantize.jsonl"
    with monkeypatch.context() as patch:
        killed_after(patch, calls, LayerRounder, "round")
        with pytest.raises(Kill):
            quantized(tmp_path, "a", journal, **options)
    assert not (tmp_path / "a.onnx").exists()
    rounded = killed_after(monkeypatch, 10_000, LayerRounder, "round")
    found = quantized(tmp_path, "a", journal, **options)
    assert (tmp_path / "a.onnx").read_bytes() == expected
    assert len(rounded) == len(found.layers) - calls, "each of these layers is a stage"
    again = quantized(tmp_path, "b", journal, **options)
    assert again.layers == found.layers, "with their errors and reasons"
    assert len(rounded) == len(found.layers) - calls, "nothing is rounded twice"


def test_the_losses_of_mixed_precision_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_kl": 0.05, "keep_float_activations": 1}
    expected, journal = whole(tmp_path, residual(), **options), tmp_path / "quantize.jsonl"
    with monkeypatch.context() as patch:
        killed_after(patch, 7, sensitivity, "mean_kl")
        with pytest.raises(Kill):
            quantized(tmp_path, "a", journal, **options)
    whole_run = killed_after(monkeypatch, 10_000, sensitivity, "mean_kl")
    quantized(tmp_path, "a", journal, **options)
    assert (tmp_path / "a.onnx").read_bytes() == expected
    kept = len(whole_run)
    quantized(tmp_path, "b", None, **options)
    assert len(whole_run) - kept == kept + 7, "without a journal it measures all of them"


def test_layers_that_share_their_weights_share_them_again(tmp_path: Path) -> None:
    from microbudget.methods.quantize import rounded_stage
    from microbudget.methods.quantize.plan import Plan, Weights

    one = Weights(np.arange(6, dtype=np.int8).reshape(2, 3), np.ones(2, np.float32), 4, 3)
    plan = Plan({}, weights={"a": one, "b": one}, biases={"b": np.zeros(2, np.float32)})
    back = Plan({})
    rounded_stage.unpack(rounded_stage.packed(plan, ["a"]), back)
    rounded_stage.unpack(rounded_stage.packed(plan, ["b"]), back)
    assert back.weights["a"] is back.weights["b"]
    np.testing.assert_array_equal(back.weights["a"].q, one.q)
    assert back.weights["a"].q.dtype == np.int8
    assert list(back.biases) == ["b"]


def test_a_step_of_a_recipe_goes_on_after_a_kill(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(ImageTask.open(photos, DataOptions(cache=tmp_path / "index")), tmp_path / "cache", threads=1)
    given, recipe = load(resnet_onnx), Recipe.parse("quantize(bits=4, samples=8)")
    with monkeypatch.context() as patch:
        killed_after(patch, 3, LayerRounder, "round")
        with pytest.raises(Kill):
            build(given, recipe, context, tmp_path / "models")
    assert len(list((tmp_path / "cache").rglob("quantize.jsonl"))) == 1
    rounded = killed_after(monkeypatch, 10_000, LayerRounder, "round")
    made = build(given, recipe, context, tmp_path / "models")[-1]
    first = len(rounded)
    assert not list((tmp_path / "cache").rglob("quantize.jsonl"))
    again = build(given, recipe, replace(context, cache=tmp_path / "other"), tmp_path / "others")[-1]
    assert made.weights.read_bytes() == again.weights.read_bytes()
    assert first < len(rounded) - first
