"""Models that cannot be used: one sentence that names the file and what to do, and exit status 2 in every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import CONFIG, write_photos
from microbudget.errors import BadInput, UnsupportedModel, what_it_said
from microbudget.kinds.image_classification.search_space import SearchSpace
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import OnnxSession
from microbudget.search.shrink import shrink
from quick import QUICK


def classifier(path: Path, pixels: int = 8, quantized: bool = False) -> onnx.ModelProto:
    """A linear classifier of three classes; quantized: with QuantizeLinear and DequantizeLinear before it."""
    w = np.random.default_rng(0).normal(size=(3 * pixels * pixels, 3)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    if quantized:
        nodes.append(helper.make_node("QuantizeLinear", ["flat", "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    nodes.append(helper.make_node("MatMul", ["d" if quantized else "flat", "w"], ["y"]))
    scalars = [numpy_helper.from_array(np.array(0.02, np.float32), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, pixels, pixels])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w, "w"), *(scalars if quantized else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return model


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("ir", r"net\.onnx is of ONNX's IR version 99, .* set ir_version = \d+"),
        ("opset", r"operator set 99, .*opset_v"),
    ],
)
def test_a_file_that_is_newer_than_the_runtime_is_named_with_what_to_do(what: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = classifier(path)
    if what == "ir":
        model.ir_version = 99
    else:
        model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(UnsupportedModel, match=words) as raised:
        OnnxSession(path)
    assert "onnxruntime_src" not in str(raised.value)
    assert "const " not in str(raised.value)


def test_what_a_library_said_has_neither_paths_nor_functions_of_its_sources() -> None:
    text = (
        "Load failed:/src/core/model.cc:256 ns::Model::Model(ns::Proto&&, const std::function<void(int)>&)"
        " Unsupported version: 9"
    )
    assert what_it_said(ValueError(text)) == "Load failed:Unsupported version: 9"
    assert what_it_said(ValueError("see b.h:3 void a::b(int, bool) bad")) == "see b.h:3 void a::b(int, bool) bad"


def test_shrink_ends_with_bad_input_where_no_recipe_can_be_built_from_the_file(tmp_path: Path) -> None:
    classifier(tmp_path / "net.onnx", quantized=True)
    config = CONFIG | {"size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    photos = write_photos(tmp_path / "photos", per_class=8, size=8)
    with pytest.raises(BadInput, match=r"none of the \d recipes can be built .*already quantized") as raised:
        shrink(tmp_path / "net.onnx", photos, out=tmp_path / "run", durations=QUICK)
    assert raised.value.exit_status == 2
    assert str(raised.value).count("already quantized") == 1


def test_channels_in_groups_that_cannot_be_cut_are_refused_before_the_training(tmp_path: Path) -> None:
    """After hours of finetune it was."""
    import torch
    from transformers import BitConfig, BitForImageClassification

    config = BitConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_groups=4, layer_type="preactivation")
    torch.manual_seed(0)
    BitForImageClassification(config).save_pretrained(tmp_path)
    sized = CONFIG | {"size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sized), encoding="utf-8")
    space = SearchSpace(load(tmp_path), None)  # type: ignore[arg-type] # data take no part in this

    def check(recipe: str) -> None:
        space.check([Recipe.parse(recipe)], Path, tmp_path)

    with pytest.raises(UnsupportedModel, match=r"no channel .* its GroupNorm layers need groups of equal size"):
        check("finetune() > prune(size='0.7x') > export()")
    check("finetune() > prune(structure='weights') > export()")
    check("finetune() > export() > quantize()")
    check("prune() > export()")  # which fails by itself, at once


def test_weights_of_another_shape_than_the_configuration_are_named(hf_model: Path, tmp_path: Path) -> None:
    """transformers says "look at the above report", which is in its log."""
    from microbudget.runtimes.hf.image_classifier import load_network

    folder = shutil.copytree(hf_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "cat"}}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"2 weights .* classifier\.bias: it is \[2\], and \[1\]"):
        load_network(folder)


@pytest.mark.parametrize(("key", "value"), [("num_channels", -3), ("depth_multiplier", -1.0)])
def test_a_negative_width_is_passed_on_in_one_sentence(key: str, value: float, hf_model: Path, tmp_path: Path) -> None:
    from microbudget.runtimes.hf.image_classifier import load_network

    folder = shutil.copytree(hf_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"cannot open .*model as an image classifier: .*(negative|greater)"):
        load_network(folder)


def test_convolutions_in_groups_are_pruned_group_by_group() -> None:
    """Each group keeps its inputs, and the smaller network answers as the one with silent channels."""
    import torch

    from microbudget.methods.prune.graph import trace

    class Grouped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 8, 1)
            self.grouped = torch.nn.Conv2d(8, 16, 3, groups=4, padding=1)
            self.last = torch.nn.Conv2d(16, 2, 1)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.last(self.grouped(self.first(pixel_values))).mean((2, 3))

    found = trace(Grouped(), {"pixel_values": torch.zeros(2, 3, 4, 4)})
    (site,) = found.sites
    assert site.width == 4, "one for each group"
    kept = {name: places[0] for name, places in found.kept(site.bundles[:1]).items()}
    assert kept["first.weight"].tolist() == list(range(2, 8))
    assert kept["grouped.weight"].tolist() == list(range(4, 16))
