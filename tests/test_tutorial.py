"""The method of docs/tutorial.md, written to a file and used as the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx
import pytest

import test_methods
from microbudget import methods
from microbudget.cli import main
from microbudget.errors import UnsupportedModel
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
METHOD, TEST, OUTSIDE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[methods.Method]:
    """The page's class, found by its file's name in a folder that the page's last lines add."""
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "half.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", list(methods.__path__))
    monkeypatch.setitem(sys.modules, "microbudget.methods.half", None)  # remembers that there was none
    monkeypatch.delitem(sys.modules, "microbudget.methods.half")
    monkeypatch.chdir(tmp_path)
    exec(compile(OUTSIDE, PAGE.name, "exec"), {})
    return methods.find("half")


@pytest.fixture
def context(photos: Path, tmp_path: Path) -> Context:
    return Context(ImageTask.open(photos, DataOptions(cache=tmp_path)), tmp_path, threads=1)


def test_it_is_found_and_described() -> None:
    assert "half" in methods.names()
    described = methods.describe("half")
    assert described["formats"] == {"onnx": "onnx"}
    assert [spec["name"] for spec in described["options"]] == ["smallest"]
    assert str(Recipe.parse("half")) == "half(smallest=1024)"


def test_it_keeps_the_contract(half: type[methods.Method], onnx_model: Path, context: Context, tmp_path: Path) -> None:
    test_methods.test_contract("", half(smallest=1), {"": load(onnx_model)}, context, tmp_path)


def test_the_pages_own_test_passes(onnx_model: Path, photos: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(TEST, PAGE.name, "exec"), names)
    names["test_half_the_bytes_and_nearly_the_same_answers"](onnx_model, photos, tmp_path)  # type: ignore[operator]


def test_small_tensors_stay_float32(
    half: type[methods.Method], onnx_model: Path, context: Context, tmp_path: Path
) -> None:
    made = build_step(load(onnx_model), half(smallest=1_000_000_000), context, tmp_path / "steps")
    assert made.record.history["half"] == {"tensors": 0, "largest_error": 0.0}
    kinds = {tensor.data_type for tensor in onnx.load(str(made.weights)).graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds


def test_values_beyond_its_range_are_refused(
    half: type[methods.Method], onnx_model: Path, context: Context, tmp_path: Path
) -> None:
    proto = onnx.load(str(onnx_model / "model.onnx"))
    tensor = next(t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (tmp_path / "large").mkdir()
    onnx.save(proto, str(tmp_path / "large" / "model.onnx"))
    with pytest.raises(UnsupportedModel, match="beyond float16's range"):
        build_step(load(tmp_path / "large"), half(smallest=1), context, tmp_path / "steps")


def test_it_is_a_step_of_a_recipe(onnx_model: Path, context: Context, tmp_path: Path) -> None:
    recipe = Recipe.parse("finetune(epochs=3) > half(smallest=1)")
    trained, made = build(load(onnx_model), recipe, context, tmp_path / "steps")
    assert made.size_bytes < 0.7 * trained.size_bytes
    assert made.record.recipe == str(recipe)
    assert set(made.record.history) == {"finetune", "half"}


def test_the_command_line_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "half"]) == 0
    listed = capsys.readouterr().out
    assert "half" in listed
    assert "smallest" in listed
