"""The kit: a run's models, timed and checked by a script that needs neither microbudget nor torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import MadeOnce
from microbudget import cli
from microbudget.kinds.text_classification import kit as text_kit
from microbudget.kinds.text_classification.data import TextTask
from microbudget.methods.export import Export
from microbudget.report.outcome import read_outcome
from microbudget.runs.candidates import Candidate
from microbudget.runtimes.loading import load
from microbudget.search.kit import make_kit
from microbudget.ship.kit import Timeable, write_kit
from microbudget.ship.time_models import middle
from microbudget.task import TO_TRAIN
from toy_texts import answers, built, context, write_classifier, write_table


@pytest.fixture(scope="module")
def kit(finished: Path, made_once: MadeOnce) -> Path:
    """Of a complete run. Do not write into it."""
    return made_once("kit", lambda folder: make_kit(finished, folder))


@pytest.fixture
def copied(kit: Path, tmp_path: Path) -> Path:
    """As on the other machine."""
    return Path(shutil.copytree(kit, tmp_path / "other machine"))


def linked(folder: Path, *names: str) -> Path:
    """A folder with nothing but these packages and what they require."""
    folder.mkdir()
    wanted, seen = list(names), set[str]()
    while wanted:
        if (name := wanted.pop()) in seen:
            continue
        seen.add(name)
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(package.locate_file(top))  # type: ignore[arg-type]
        wanted += [re.split(r"[^\w.-]", each)[0] for each in package.requires or () if "extra ==" not in each]
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As after `pip install onnxruntime`."""
    return linked(tmp_path_factory.mktemp("bare") / "packages", "onnxruntime", "numpy")


def python(packages: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A Python that sees the standard library and these packages only."""
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def kit_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    return found


def test_models_are_timed_and_checked_without_microbudget(copied: Path, bare: Path, finished: Path) -> None:
    assert python(bare, "-c", "import microbudget").returncode == 1
    assert python(bare, "-c", "import torch").returncode == 1
    done = python(bare, copied / "time_models.py", "--threads", "2", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    found = json.loads((copied / "timings.json").read_text(encoding="utf-8"))
    outcome = read_outcome(finished)
    candidates = {row.fingerprint: row for row in outcome.candidates}
    assert {each["fingerprint"] for each in found["models"]} == set(candidates)
    assert found["run"]["reference"] == outcome.reference.fingerprint
    assert (found["threads"], found["machine"]["cores"]) == (2, len(os.sched_getaffinity(0)))
    for row in found["models"]:
        assert row["recipe"] == candidates[row["fingerprint"]].recipe
        assert row["agrees"], row
        assert row["same_top"] == row["examples"] == 8
        assert 0 < row["latency_low_s"] <= row["latency_s"] <= row["latency_high_s"]
        assert 0 < row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert row["pairs"] >= 6
        assert row["memory_bytes"] > 0
        assert row["load_s"] > 0
        assert row["runtime"].startswith("onnxruntime ")
    base, *others = found["models"]
    assert base["base"]
    assert base["fingerprint"] == found["run"]["reference_as"], "the reference in float, exported"
    assert base["speedup"] == 1
    for row in others:
        assert row["latency_s"] == pytest.approx(base["latency_s"] / row["speedup"])


def test_the_answers_are_those_of_the_run(kit: Path, finished: Path) -> None:
    outcome = read_outcome(finished)
    rows = {row.fingerprint: row for row in outcome.rows}
    for each in kit_of(kit)["models"]:
        answers = json.loads((kit / each["answers"]).read_text(encoding="utf-8"))
        kept = outcome.run.answers(rows[each["fingerprint"]].fingerprint, "validation")
        assert kept is not None
        np.testing.assert_allclose(answers, kept[: len(answers)], atol=each["tolerance"])
        assert 0 < each["tolerance"] < 0.05 * np.ptp(answers)


def test_a_text_classifier_needs_no_tokenizer_there(tmp_path: Path, bare: Path, made_once: MadeOnce) -> None:
    table = write_table(tmp_path / "t.csv")
    given = load(made_once("text-classifier", write_classifier))
    model = built(Export(), given, context(table, tmp_path), tmp_path / "onnx")
    task = TextTask.open(table, TO_TRAIN)
    examples = task.examples("validation")[:4]
    work = text_kit.work(task, model, examples, 1)
    assert work is not None
    assert text_kit.work(task, given, examples, 1) is None, "a folder that torch opens"
    lengths = [call["input_ids"].shape[1] for call in work.calls]
    assert lengths[0] == sorted(lengths)[len(lengths) // 2], "the one of middle length is timed"
    expected = answers(model, [task.text_of(each)[0] for each in examples])
    np.testing.assert_allclose(sorted(work.answers), sorted(expected.tolist()), atol=1e-5)
    row = Candidate("export()", model.fingerprint, "")
    write_kit(tmp_path / "kit", {}, [Timeable("1", row, model, work)])
    done = python(bare, tmp_path / "kit" / "time_models.py", "--seconds", "0.05", "--threads", "1")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "kit" / "timings.json").read_text(encoding="utf-8"))["models"]
    assert found["agrees"]
    assert (found["same_top"], found["speedup"]) == (4, 1)


def test_only_some_models_are_timed_with_the_base(copied: Path, bare: Path) -> None:
    base, first, *_ = [each["name"] for each in kit_of(copied)["models"]]
    done = python(bare, copied / "time_models.py", "--only", first, "--seconds", "0.05", "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads((copied / "timings.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in found["models"]] == [base, first]
    done = python(bare, copied / "time_models.py", "--only", f"{first},best")
    assert done.returncode == 2
    assert "no model is called best" in done.stderr


def test_a_model_that_fails_there_is_recorded_and_the_others_go_on(copied: Path, bare: Path) -> None:
    """As one with operators that an older runtime does not have; and one that answers otherwise there."""
    content = kit_of(copied)
    _, broken, other = content["models"]
    (path,) = broken["files"]
    (copied / path).write_bytes(b"of a later version")
    broken["files"][path] = hashlib.sha256(b"of a later version").hexdigest()
    turned = [[-number for number in row] for row in json.loads((copied / other["answers"]).read_text("utf-8"))]
    (copied / other["answers"]).write_text(json.dumps(turned), encoding="utf-8")
    content["files"][other["answers"]] = hashlib.sha256((copied / other["answers"]).read_bytes()).hexdigest()
    (copied / "kit.json").write_text(json.dumps(content), encoding="utf-8")
    done = python(bare, copied / "time_models.py", "--seconds", "0.05", "--threads", "1")
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads((copied / "timings.json").read_text(encoding="utf-8"))["models"]
    assert "latency_s" in first
    assert "failure" in second
    assert "latency_s" not in second
    assert not third["agrees"]
    assert third["same_top"] < 8


def test_where_no_model_runs_the_script_says_so(copied: Path, bare: Path) -> None:
    content = kit_of(copied)
    for each in content["models"]:
        each["output"] = "absent"
    (copied / "kit.json").write_text(json.dumps(content), encoding="utf-8")
    done = python(bare, copied / "time_models.py", "--seconds", "0.05", "--threads", "1")
    assert done.returncode == 1
    assert "none of the models runs here" in done.stderr
    rows = json.loads((copied / "timings.json").read_text(encoding="utf-8"))["models"]
    assert all("absent" in row["failure"] for row in rows)


def test_a_changed_file_is_named(copied: Path, bare: Path) -> None:
    (path,) = kit_of(copied)["models"][1]["files"]
    with (copied / path).open("ab") as stream:
        stream.write(b"\0")
    done = python(bare, copied / "time_models.py")
    assert done.returncode == 2
    assert f"{path} is missing or has changed since the kit was made" in done.stderr


def test_a_missing_runtime_is_named(copied: Path, tmp_path: Path) -> None:
    done = python(linked(tmp_path / "packages", "numpy"), copied / "time_models.py")
    assert done.returncode == 2
    assert "python -m pip install onnxruntime" in done.stderr


def test_the_kit_is_small_and_whole(kit: Path, finished: Path) -> None:
    script = (kit / "time_models.py").read_text(encoding="utf-8")
    assert "microbudget" not in re.sub(r'""".*?"""|".*?"|`.*?`', "", script, flags=re.DOTALL), "an import of ours"
    assert len(script.splitlines()) <= 190
    content = kit_of(kit)
    known = {*content["files"], *(path for each in content["models"] for path in each["files"])}
    files = {path.relative_to(kit).as_posix() for path in kit.rglob("*") if path.is_file()}
    assert files - known == {"kit.json", "README.md", "time_models.py"}
    assert "pip install numpy onnxruntime" in (kit / "README.md").read_text(encoding="utf-8")
    for each in content["models"]:  # copies: delivering writes into an ONNX file
        row = next(row for row in read_outcome(finished).rows if row.fingerprint == each["fingerprint"])
        original, copy = finished / row.path / "model.onnx", kit / each["open"]
        assert original.read_bytes() == copy.read_bytes()
        assert not original.samefile(copy)


def test_the_median_has_the_interval_of_the_sign_test() -> None:
    """Ranks as tables have them: 1 and 6 of 6, 2 and 9 of 10, 6 and 15 of 20 values."""
    for count, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)):
        values = list(np.random.default_rng(count).permutation(np.arange(1, count + 1)))
        assert middle(values) == ((count + 1) / 2, low, high)


def test_what_is_wrong_is_said(finished: Path, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("models", "best", "front")))
    none, plain = tmp_path / "none", tmp_path / "plain"
    none.mkdir()
    plain.write_text("a file", encoding="utf-8")
    for arguments, said in (
        ([none], "is no run: it has no run.toml"),
        ([tmp_path / "nowhere"], "is no run: it has no run.toml"),
        ([finished, "--out", kit], "holds files: give another --out, or --force"),
        ([finished, "--out", plain], "is a file: give a folder"),
        ([finished, "--out", finished / "models" / "kit"], "lies in the run"),
        ([empty, "--out", tmp_path / "kit"], "no model that another machine can time. ref: its model is not there"),
    ):
        assert cli.main(["kit", *map(str, arguments)]) == 2
        assert said in capsys.readouterr().err
    (empty / "result.json").unlink()
    (empty / "candidates.jsonl").write_text("", encoding="utf-8")
    assert cli.main(["kit", str(empty)]) == 2
    assert "has no candidates yet" in capsys.readouterr().err


def test_the_command_says_what_is_in_the_kit(finished: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["kit", str(finished), "--out", str(tmp_path / "kit"), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base_is"] == "the reference in float, exported"
    assert found["rows"][0] == found["base"]
    assert found["left_out"] == {"ref": "hf files are not for a kit"}
    assert (tmp_path / "kit" / found["script"]).is_file()
    assert cli.main(["kit", str(finished), "--out", str(tmp_path / "kit"), "--force", "--quiet"]) == 0
    assert "copy it to the other machine" in capsys.readouterr().out
