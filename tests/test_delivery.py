"""What a run hands out: the front, any row, and the choice among the rows of several commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import SCALES
from microbudget import cli
from microbudget.kinds.image_classification import search_space
from microbudget.recipes.recipe import Recipe
from microbudget.report.outcome import read_outcome
from microbudget.runs.candidates import read
from microbudget.runtimes.loading import load
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a complete run with three candidates."""
    for name, value in (("SCALES", SCALES), ("PRUNED", ()), ("FEWER_BITS", ())):
        monkeypatch.setattr(search_space, name, value)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


def command(*arguments: str | Path) -> int:
    return cli.main([str(each) for each in arguments], durations=QUICK)


def another(run: Path) -> tuple[int, dict[str, Any]]:
    """The number of a row that does not ship, and the row."""
    result = result_of(run)
    numbered = enumerate(result["candidates"], 1)
    return next((n, row) for n, row in numbered if row["fingerprint"] != result["best"]["fingerprint"])


def test_any_row_is_delivered_tested_and_with_a_script_that_runs(
    run: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    number, row = another(run)
    out = tmp_path / "mine"
    assert command("deliver", run, number, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["row"]["recipe"] == row["recipe"]
    assert found["row"]["test"]["examples"] == result_of(run)["best"]["test"]["examples"]
    assert found["row"]["test_verdict"]["decision"] in ("within", "not shown", "exceeds")
    assert found["readings"] == 2, "the choice, and this one"
    assert {"model.onnx", "predict.py", "README.md", "microbudget.json", "labels.txt"} <= {
        each.name for each in out.iterdir()
    }
    card = (out / "README.md").read_text(encoding="utf-8")
    assert Recipe.parse(row["recipe"]).short() in card
    assert "the test split was read by 2 models of this run, next to the reference." in card
    photo = next((photos / "cat").iterdir()) if (photos / "cat").is_dir() else next(photos.rglob("*.png"))
    done = subprocess.run(
        [sys.executable, str(out / "predict.py"), str(photo)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert load(out).fingerprint == row["fingerprint"]
    assert "read by 2 models of this run" in (run / "report.html").read_text(encoding="utf-8")


def test_a_row_is_tested_once(run: Path, tmp_path: Path) -> None:
    number, row = another(run)
    for name in ("first", "second"):
        assert command("deliver", run, number, "--out", tmp_path / name, "--quiet") == 0
    tested = [one for one in read(run / "candidates.jsonl") if one.fingerprint == row["fingerprint"] and one.test]
    assert len(tested) == 1
    assert read_outcome(run).test_readings == 2


def test_a_row_is_named_by_its_recipe_too(run: Path, tmp_path: Path) -> None:
    _, row = another(run)
    assert command("deliver", run, row["recipe"], "--out", tmp_path / "mine") == 0
    assert load(tmp_path / "mine").fingerprint == row["fingerprint"]


def test_the_reference_is_a_row(run: Path, tmp_path: Path) -> None:
    assert command("deliver", run, "ref", "--out", tmp_path / "reference", "--quiet") == 0
    assert load(tmp_path / "reference").fingerprint == result_of(run)["reference"]["fingerprint"]


def test_what_cannot_be_delivered_is_refused(run: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    number, row = another(run)

    def refusal(*arguments: str | Path) -> str:
        assert command("deliver", *arguments) == 2
        return str(capsys.readouterr().err)

    assert "the run has no row '9'. It has ref: " in refusal(run, "9", "--out", tmp_path / "mine")
    assert "the run has no row 'prune()'" in refusal(run, "prune()", "--out", tmp_path / "mine")
    assert "lies in the run" in refusal(run, number, "--out", run / "mine")
    assert "is no run" in refusal(photos, number, "--out", tmp_path / "mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    assert "holds files: give another --out, or --force" in refusal(run, number, "--out", tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").is_file()
    shutil.rmtree(run / row["path"])
    assert f"the model of row {number} is not there any more" in refusal(run, number, "--out", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_without_the_data_nothing_is_delivered_untested(run: Path, tmp_path: Path, capsys: Any) -> None:
    number, _ = another(run)
    path = run / "run.toml"
    text = path.read_text(encoding="utf-8")
    data = str(read_outcome(run).settings["data"])
    path.write_text(text.replace(json.dumps(data), json.dumps(f"{data}-gone")), encoding="utf-8")
    assert command("deliver", run, number, "--out", tmp_path / "mine") == 2
    assert f"row {number} cannot be tested: the data {data}-gone are not there" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_the_front_is_delivered(finished: Path) -> None:
    """Each folder is a model; which of them has read the test split is said."""
    outcome = read_outcome(finished)
    folders = sorted(path.name for path in (finished / "front").iterdir() if path.is_dir())
    table = (finished / "front" / "README.md").read_text(encoding="utf-8")
    assert folders
    for name in folders:
        row = outcome.rows[int(name)]
        assert load(finished / "front" / name).fingerprint == row.fingerprint
        assert (finished / "front" / name / "predict.py").is_file()
        card = (finished / "front" / name / "README.md").read_text(encoding="utf-8")
        assert ("The test split was not read" in card) == (row.test is None)
        assert f"| {name} | `" in table


def test_a_second_command_adds_its_row_and_deletes_none(run: Path, resnet: Path, photos: Path, capsys: Any) -> None:
    """Without limits of its own it has those of before; the choice stays where nothing better is there."""
    before = result_of(run)
    recipe = "finetune(epochs=1, patience=1) > export()"
    assert command("run", resnet, recipe, "--data", photos, "--out", run, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["budget"]["max_drop"] == "90pt"
    assert "limits    as before: loss at most 90pt" in printed.err
    assert result["best"]["fingerprint"] == before["best"]["fingerprint"]
    assert "choice    as before: " in printed.err
    tried = [row["fingerprint"] for row in result["candidates"]]
    assert {row["fingerprint"] for row in before["candidates"]} < set(tried)
    assert len(tried) == len(before["candidates"]) + 1
    assert all((run / row["path"]).is_dir() for row in result["candidates"])


def test_the_choice_changes_where_the_limits_do(run: Path, resnet: Path, photos: Path, capsys: Any) -> None:
    sizes = {row["recipe"]: row["measurement"]["size_bytes"] for row in result_of(run)["candidates"]}
    largest = max(sizes, key=sizes.__getitem__)
    assert command("run", resnet, largest, "--data", photos, "--out", run, "--max-drop", "90pt", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["best"]["recipe"] != largest, "smaller rows of the first command hold too"
    code = command("run", resnet, largest, "--data", photos, "--out", run, "--max-size", "1kB", "--json")
    assert code == 1
    assert "size " in json.loads(capsys.readouterr().out)["unmet"][0]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--methods", "quantise", "there is no method quantise; there are distill"),
        ("--methods", " , ", "methods names none"),
        ("--methods", "trim", "no recipe for this model consists of trim alone: the recipes have distill, finetune"),
        ("--recipe", "quantize(samples=?)", "samples has no values to search over"),
        ("--recipe", "export() > quantize()", "let the recipe begin with finetune() or lora()"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    resnet: Path, photos: Path, tmp_path: Path, capsys: Any, option: str, value: str, said: str
) -> None:
    assert command("shrink", resnet, "--data", photos, "--out", tmp_path / "run", option, value) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_methods_and_open_options_say_what_is_tried(resnet: Path, photos: Path, run: Path, capsys: Any) -> None:
    """The run that has these rows already does not build them again."""
    start = ["shrink", resnet, "--data", photos, "--out", run, "--max-drop", "90pt", "--json"]
    assert command(*start, "--methods", "quantize") == 0
    rows = json.loads(capsys.readouterr().out)["candidates"]
    assert [row["recipe"].split("(")[0] for row in rows[:2]] == ["finetune", "finetune"]
    assert command(*start, "--recipe", "finetune() > export() > quantize(bits=?, samples=8)") == 0
    rows = json.loads(capsys.readouterr().out)["candidates"]
    assert [f"bits={bits}," in row["recipe"] for bits, row in zip((8, 4, 3, 2), rows, strict=False)] == [True] * 4
