"""The Python API: results as dictionaries, tables and figures; models that answer; names that do not exist."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import replace
from pathlib import Path

import pytest

import microbudget
from conftest import write_hf_model
from microbudget import Budget, Recipe, load, read_run
from microbudget.data.splitting import walk
from microbudget.errors import BadInput, InvalidOption, InvalidRecipe, ModelNotFound
from microbudget.judge.comparing import Comparison
from microbudget.judge.tabular import Tabular
from microbudget.progress import SILENT, NotebookProgress, shown
from microbudget.search.chosen import Chosen
from microbudget.search.options import RunOptions
from microbudget.search.result import Shrunk

PACKAGE = Path(microbudget.__file__).parent
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def result(finished: Path) -> Shrunk:
    return read_run(finished)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_are_true(path: Path) -> None:
    name = ".".join(["microbudget", *path.relative_to(PACKAGE).with_suffix("").parts])
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted
    assert not tried.failed


def test_a_run_is_read_as_the_call_returned_it(result: Shrunk, finished: Path) -> None:
    assert result.met
    assert result.best is not None
    assert result.to_dict() == result.as_dict()
    assert "folder" not in result.to_dict()["best"]
    rows = result.rows()
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert [row["recipe"] for row in rows if row["ships"]] == [result.best.short]
    with pytest.raises(BadInput, match="is no run"):
        read_run(finished / "best")


def test_results_become_tables(result: Shrunk) -> None:
    table = result.to_pandas()
    assert len(table) == len(result.rows())
    assert table[table.ships].size_bytes.iloc[0] == result.best.measurement.size_bytes  # type: ignore[union-attr]
    (row,) = result.best.measurement.to_pandas().to_dict("records")  # type: ignore[union-attr]
    assert row["metric"] == "accuracy"
    assert "verdict.decision" in result.best.to_pandas()  # type: ignore[union-attr]


def test_results_become_figures_that_a_notebook_shows(result: Shrunk) -> None:
    best = result.best
    assert best is not None
    assert best.verdict is not None
    assert best.measurement is not None
    for each in (result, best.measurement, best.verdict):
        assert each.plot()._repr_png_().startswith(PNG)  # type: ignore[attr-defined]
    axes = result.plot().axes
    assert [one.get_xlabel() for one in axes] == ["size (MB)", "latency (ms)"]
    assert axes[0].get_ylabel() == "accuracy on validation (%)"
    named = [text.get_text() for text in axes[0].texts]
    assert len(named) == len([row for row in result.rows() if row["quality"] is not None])
    assert any(name.endswith("ships") for name in named)


def test_every_result_is_tabular() -> None:
    for kind in (Shrunk, Chosen, Comparison, microbudget.Measurement, microbudget.Candidate):
        assert issubclass(kind, Tabular)


def test_the_choice_and_a_model_answer(result: Shrunk, photos: Path, tmp_path: Path) -> None:
    files = [path for path in walk(photos) if path.suffix == ".png"][:3]
    assert result.best is not None
    one, several = result.best.predict(files[0]), result.best.predict(files)
    assert one == several[0]
    assert [each.input for each in several] == [str(path) for path in files]
    assert load(result.folder).predict(files[:1]) == [one]
    model = load(write_hf_model(tmp_path / "m", labels=("a", "b", "c")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.png").write_bytes(files[0].read_bytes())
    assert [each.input for each in model.predict(tmp_path / "mine")] == [str(tmp_path / "mine" / "x.png")]


def test_a_model_that_a_run_did_not_keep_is_named(result: Shrunk) -> None:
    for folder in (None, result.folder / "steps" / "gone"):
        with pytest.raises(ModelNotFound, match="microbudget deliver"):
            replace(result.reference, folder=folder).predict("photo.jpg")


@pytest.mark.parametrize("verb", ["shrink", "measure", "compare"])
def test_a_wrong_name_is_answered_with_the_nearest_one(verb: str, tmp_path: Path) -> None:
    given = {"shrink": {"out": tmp_path / "r"}}.get(verb, {})
    models = ("a", "b") if verb == "compare" else ("a",)
    with pytest.raises(InvalidOption, match="did you mean threads"):
        getattr(microbudget, verb)(*models, "data", thread=2, **given)


def test_a_limit_that_is_none_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(BadInput, match="1pt"):
        microbudget.compare("no-such-model", "nor-this", "data", max_drop="one")
    with pytest.raises(InvalidOption, match="max_drop"):
        Budget(max_drop=1.0)  # type: ignore[arg-type]


def test_a_recipe_says_which_name_is_nearest() -> None:
    with pytest.raises(InvalidRecipe, match=r"no method 'quantise': did you mean quantize\?"):
        Recipe("quantise")  # type: ignore[arg-type]
    with pytest.raises(InvalidRecipe, match=r"no option 'bit' \(did you mean bits\?\); .*microbudget methods quantize"):
        Recipe("quantize(bit=8)")  # type: ignore[arg-type]


def test_progress_is_shown_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown() is SILENT  # pytest's stderr is no terminal
    assert RunOptions().progress is SILENT
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", object())
    monkeypatch.setitem(__import__("sys").modules, "IPython", object())
    assert isinstance(shown(), NotebookProgress)
