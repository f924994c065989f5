"""The main job, from the command line: shrink, run, measure, compare; killed, resumed, stopped and out of luck."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from filelock import FileLock

import preloaded
from conftest import SCALES, write_onnx_model, write_photos, write_resnet
from microbudget import Budget, cli
from microbudget.kinds.image_classification import search_space
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.report import write_report
from microbudget.report.outcome import read_outcome
from microbudget.runs.candidates import append, read
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.search import evaluation
from microbudget.search.evaluation import Evaluation
from microbudget.search.shrink import run_recipe, shrink
from microbudget.task import DataOptions
from microbudget.units import Drop
from quick import QUICK

RECIPE = "finetune(epochs=20) > quantize(samples=8)"  # of an onnx model


@pytest.fixture(autouse=True)
def _quick(without_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One input size, nothing pruned, and pages without plots but for the run that is shared."""
    monkeypatch.setattr(search_space, "SCALES", (1.0,))
    monkeypatch.setattr(search_space, "PRUNED", ())
    monkeypatch.setattr(search_space, "FEWER_BITS", ())


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a command that must end with status 2."""
    assert cli.main([str(argument) for argument in arguments], durations=QUICK) == 2
    return capsys.readouterr().err


def test_a_finished_run_holds_everything(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"run.toml", "candidates.jsonl", "result.json", "report.html", "best", "front", "models", "answers"} <= names
    assert "cache" not in names
    best = {path.name for path in (finished / "best").iterdir()}
    assert {"model.onnx", "predict.py", "README.md", "microbudget.json", "labels.txt"} <= best
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    assert result["met"] is True
    assert len(result["candidates"]) == 3
    assert result["best"]["test"]["examples"] == result["reference"]["test"]["examples"]
    rows = list(read(finished / "candidates.jsonl"))
    expected = [row["fingerprint"] for row in [result["reference"], *result["candidates"]]]
    assert [row.fingerprint for row in rows if row.test is None] == expected
    tested = [result[name]["fingerprint"] for name in ("reference", "best")]
    assert [row.fingerprint for row in rows if row.test is not None] == tested, "these two have read the test split"
    kept = {path.name for path in (finished / "models").iterdir()}
    assert kept == {row.fingerprint for row in rows}, "only candidates and the reference are kept"
    card = (finished / "best" / "README.md").read_text(encoding="utf-8")
    assert Recipe.parse(result["best"]["recipe"]).short() in card
    assert "onnxruntime" in card


def test_best_is_the_smallest_that_holds(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    sizes = [row["measurement"]["size_bytes"] for row in result["candidates"]]
    assert result["best"]["measurement"]["size_bytes"] <= min(sizes) * 1.01


def test_each_goal_ships_its_own_best(
    finished: Path, resnet: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The same rows with costs of the test's own: the fastest, the most frugal and the best are three models."""
    monkeypatch.setattr(search_space, "SCALES", SCALES)
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    rows = [row for row in read(out / "candidates.jsonl") if row.test is None][1:]
    distances = [row.measurement.divergence or 0.0 for row in rows if row.measurement]  # of few photos: these decide
    good = min(range(3), key=distances.__getitem__)
    fast, frugal = (place for place in range(3) if place != good)
    for place, row in enumerate(rows):
        assert row.measurement is not None
        ours = {
            "size_bytes": 1000 if place == good else 2000,  # of several that are as good the smallest is chosen
            "latency_s": 0.001 if place == fast else 0.002,
            "energy_j": 0.001 if place == frugal else 0.002,
        }
        measured = dataclasses.replace(row.measurement, **ours)
        append(out / "candidates.jsonl", dataclasses.replace(row, measurement=measured, speed={}))  # it decides latency
    command = ["shrink", str(resnet), "--data", str(photos), "--out", str(out), "--max-drop", "90pt", "--json"]
    for goal, expected in (("latency", fast), ("energy", frugal), ("quality", good)):
        assert cli.main([*command, "--quiet", "--keep", "--goal", goal], durations=QUICK) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["budget"]["goal"] == goal
        assert result["best"]["recipe"] == rows[expected].recipe, goal
        shipped, built = (onnx.load(out / path / "model.onnx") for path in ("best", rows[expected].path))
        assert shipped.graph == built.graph  # the file that ships has metadata for predict.py as well


def test_the_same_command_again_does_nothing_anew(
    finished: Path, resnet: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_space, "SCALES", SCALES)
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    monkeypatch.setattr(ImageTask, "prepare", lambda *_, **__: pytest.fail("photos were decoded for nothing"))
    command = ["shrink", str(resnet), "--data", str(photos), "--out", str(out), "--max-drop", "90pt"]
    assert cli.main(command, durations=QUICK) == 0
    assert (out / "candidates.jsonl").read_bytes() == (finished / "candidates.jsonl").read_bytes(), "a row was added"
    assert (out / "best" / "model.onnx").read_bytes() == (finished / "best" / "model.onnx").read_bytes()


def test_predict_answers_like_the_model(finished: Path, photos: Path, tmp_path: Path) -> None:
    alone = tmp_path / "somewhere else"
    shutil.copytree(finished / "best", alone)
    paths = [photos / "red" / "003.png", photos / "blue" / "007.png"]
    script = [sys.executable, "-I", str(alone / "predict.py"), *map(str, paths)]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    model = load(finished / "best")
    task = ImageTask.open(photos, DataOptions(splits=False))
    by_name = {task.path_of(example): example for example in task.examples("test")}
    inputs = task.collate([by_name[path] for path in paths], model.record.preprocessing or {})
    logits = open_session(model).answer(inputs)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    for path, line, row in zip(paths, lines, odds, strict=True):
        printed_path, label, probability = line.split("\t")
        assert printed_path == str(path)
        assert label == (model.labels or ())[int(row.argmax())]
        assert float(probability) == pytest.approx(float(row.max()), abs=2e-4)


def test_predict_is_short_and_says_what_is_no_photo(finished: Path, tmp_path: Path) -> None:
    script = finished / "best" / "predict.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
    (tmp_path / "note.jpg").write_text("no photo", encoding="utf-8")
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "note.jpg")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no image" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("fresh_workers")
def test_measure_leaves_out_what_the_model_has_seen(
    finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["measure", str(finished / "best"), "--data", str(photos), "--json", "--quiet"], durations=QUICK) == 0
    )
    row = json.loads(capsys.readouterr().out)
    seen = len(load(finished / "best").record.seen)
    assert row["examples_left_out"] == seen > 0
    assert row["examples"] + seen == 60
    assert row["format"] == "onnx"
    assert 0 <= row["quality_low"] <= row["quality"] <= row["quality_high"] <= 1
    assert {"precision", "recall", "f1"} <= set(row["extra"])
    assert row["size_bytes"] == (finished / "best" / "model.onnx").stat().st_size
    assert row["latency_s"] > 0
    assert row["memory_bytes"] > 0


def test_compare_tells_both_ways(finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(read(finished / "candidates.jsonl"))
    floats, small = finished / rows[0].path, finished / "best"
    command = ["compare", str(floats), str(small), "--data", str(photos), "--max-drop", "50pt", "--json", "--quiet"]
    assert cli.main(command, durations=QUICK) == 0
    row = json.loads(capsys.readouterr().out)
    fields = "a b size_ratio speedup speedup_low speedup_high speed_verdict quality_change quality_change_low"
    assert set(row) == {*fields.split(), "quality_change_high", "verdict", "extra"}
    assert row["size_ratio"] > 1
    assert row["verdict"] in ("within", "exceeds", "not shown")
    assert {"kl", "same_top1"} <= set(row["extra"])


def test_tables_are_printed_for_people(finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["measure", str(finished / "best"), "--data", str(photos), "--ledger", "--batch", "2,3"], durations=QUICK
        )
        == 0
    )
    printed = capsys.readouterr().out
    for word in ("accuracy", "latency", "batch of 2", "batch of 3", "multiply-adds", "where the bytes are"):
        assert word in printed
    for word in ("slowest tenth", "throughput", "threads", "load", "graph", f"{load(finished / 'best').size_bytes} b"):
        assert word in printed.replace("\n", " ")
    assert re.search(r"energy .*\((rapl|estimate, .* to .*)\)", printed)
    both = [str(finished / "best"), str(finished / "best"), "--data", str(photos), "--max-drop", "1pt"]
    assert cli.main(["compare", *both], durations=QUICK) == 0
    printed = capsys.readouterr()
    assert "cannot show a loss within 1pt" in printed.err
    assert re.search(r"timed in \d+ pairs of blocks, \d opening\(s\), threads \d", printed.out)
    assert re.search(r"verdict: not shown: .* more like them would", printed.out.replace("\n", " "))
    assert cli.main(["methods"], durations=QUICK) == 0
    assert "finetune" in capsys.readouterr().out
    assert cli.main(["report", str(finished)], durations=QUICK) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_a_budget_that_cannot_be_met_still_delivers(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(resnet_onnx), RECIPE, "--data", str(photos), "--out", str(tmp_path / "run"), "--json"]
    assert cli.main([*command, "--max-size", "1kB", "--quiet"], durations=QUICK) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["met"] is False
    assert "above 1.00 kB" in result["unmet"][0]
    assert (tmp_path / "run" / "best" / "model.onnx").is_file()


def test_prove_tells_before_the_start(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(
        capsys, "shrink", resnet_onnx, "--data", photos, "--out", tmp_path / "run", "--max-drop", "1pt", "--prove"
    )
    assert "321" in message
    assert "unlabelled" in message
    assert "--max-drop" in error_of(capsys, "shrink", resnet_onnx, "--data", photos, "--out", tmp_path / "b", "--prove")


def test_a_model_that_knows_the_labels_is_not_finetuned(photos: Path, tmp_path: Path) -> None:
    known = write_resnet(tmp_path / "hf", ("red", "green", "blue"))
    model = write_onnx_model(known, tmp_path / "onnx")
    result = shrink(model, photos, Budget(max_drop=Drop(0.9)), out=tmp_path / "run", durations=QUICK)
    assert result.reference.recipe == ""
    assert all("finetune" not in candidate.recipe for candidate in result.candidates)


def test_a_recipe_must_teach_unknown_labels(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, "run", resnet_onnx, "quantize()", "--data", photos, "--out", tmp_path / "run")
    assert "finetune() > quantize(" in message


@pytest.mark.parametrize("verb", ["measure", "compare"])
def test_labels_that_disagree_are_refused(
    verb: str, resnet_onnx: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [resnet_onnx] if verb == "measure" else [resnet_onnx, resnet_onnx]
    assert "finetune" in error_of(capsys, verb, *models, "--data", photos)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "{model}", "prune(", "--data", "{photos}", "--out", "{out}"], "does not parse"),
        (["run", "{model}", "export()", "--data", "{photos}", "--out", "{out}"], "takes hf"),
        (["run", "{model}", "finetune(epochs=-1)", "--data", "{photos}", "--out", "{out}"], "epochs must be"),
        (["run", "{model}", "polish()", "--data", "{photos}", "--out", "{out}"], "no method 'polish'"),
        (["shrink", "{model}", "--data", "{photos}/nothing", "--out", "{out}"], "nothing"),
        (["shrink", "{photos}/nothing", "--data", "{photos}", "--out", "{out}"], "no folder"),
        (["measure", "{photos}", "--data", "{photos}"], "holds no model"),
        (["report", "{photos}"], "no run"),
    ],
)
def test_bad_input_is_status_2_and_leaves_nothing(
    arguments: list[str],
    words: str,
    resnet_onnx: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"model": resnet_onnx, "photos": photos, "out": tmp_path / "run"}
    assert words in error_of(capsys, *(text.format(**places) for text in arguments))
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("text", ["--max-size=4 parsecs", "--max-drop=1", "--max-latency=fast", "--threads=0"])
def test_units_are_checked_on_the_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["shrink", "model", "--data", "data", "--out", "run", text], durations=QUICK)
    assert ended.value.code == 2
    assert text.partition("=")[2] in capsys.readouterr().err


@pytest.mark.parametrize("sizes", ["0", "4,", "two", "-1"])
def test_batch_sizes_are_checked(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["measure", "model", "--data", "data", f"--batch={sizes}"], durations=QUICK)
    assert ended.value.code == 2
    assert "batch sizes are numbers from 1" in capsys.readouterr().err


def test_a_run_of_other_data_is_refused_unless_forced(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, others = tmp_path / "run", write_photos(tmp_path / "others", seed=5)
    assert cli.main(["run", str(resnet_onnx), RECIPE, "--data", str(photos), "--out", str(out)], durations=QUICK) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = ["run", resnet_onnx, RECIPE, "--data", others, "--out", out]
    assert "another data" in error_of(capsys, *command)
    assert {path: path.read_bytes() for path in before} == before, "a refused command changed the run"
    stale = {path.name for path in (out / "answers").iterdir()}
    assert cli.main([*map(str, command), "--force"], durations=QUICK) == 0
    assert len({row.fingerprint for row in read(out / "candidates.jsonl")}) == 2
    assert not stale & {path.name for path in (out / "answers").iterdir()}, "answers to other photos were kept"


def test_a_run_in_use_is_refused(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        message = error_of(capsys, "run", resnet_onnx, RECIPE, "--data", photos, "--out", tmp_path / "run")
    assert "in use" in message


def test_a_folder_that_is_no_run_is_left_alone(
    resnet_onnx: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert "no run" in error_of(capsys, "run", resnet_onnx, RECIPE, "--data", photos, "--out", tmp_path)
    assert "is a file" in error_of(
        capsys, "run", resnet_onnx, RECIPE, "--data", photos, "--out", tmp_path / "thesis.txt"
    )
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_full_disk_loses_nothing(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fills up while the last step is written: the steps before it stand, and the same command goes on."""
    command = ["run", str(resnet_onnx), RECIPE, "--data", str(photos), "--out", str(tmp_path / "run")]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("microbudget.methods.quantize.Quantize.apply", full)
        assert cli.main(command, durations=QUICK) == 3
    assert "no space left" in capsys.readouterr().err
    steps = sorted((tmp_path / "run" / "models").iterdir())
    assert len(steps) == 1
    assert not [step for step in steps if step.name.startswith(".partial")]
    times = {step: step.stat().st_mtime_ns for step in steps}
    assert cli.main([*command, "--keep"], durations=QUICK) == 0
    assert {step: step.stat().st_mtime_ns for step in steps} == times


def test_ctrl_c_delivers_the_best_so_far(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, calls = evaluation.Evaluation.candidate, []

    def interrupted(self: evaluation.Evaluation, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation.Evaluation, "candidate", interrupted)
    command = ["shrink", str(resnet_onnx), "--data", str(photos), "--out", str(tmp_path / "run"), "--max-drop", "90pt"]
    assert cli.main(command, durations=QUICK) == 130
    assert (tmp_path / "run" / "best" / "model.onnx").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    assert "best so far" in capsys.readouterr().err


def test_float_is_kept_where_quantizing_makes_it_slower(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quantized model whose every call is timed as twice as long: the float one ships, unless a limit forbids it."""
    original = evaluation.time_pair

    def slow(reference: Any, candidate: Any, *arguments: Any, **options: Any) -> Any:
        pair = original(reference, candidate, *arguments, **options)
        return dataclasses.replace(pair, ratio=0.5, low=0.4, high=0.6)

    monkeypatch.setattr(evaluation, "time_pair", slow)
    timed = dataclasses.replace(QUICK, float_s=0.2)
    result = shrink(resnet_onnx, photos, Budget(max_drop=Drop(0.9)), out=tmp_path / "run", durations=timed)
    assert result.best is not None
    assert "quantize" not in result.best.recipe
    rows = {candidate.recipe: candidate for candidate in result.candidates}
    for recipe, candidate in rows.items():
        if "quantize" in recipe:
            assert candidate.slower_than_float
            assert str(Recipe(Recipe.parse(recipe).steps[:-1])) in rows, "the same without quantize was not tried"
    largest = min(c.measurement.size_bytes for c in rows.values() if c.measurement and not c.slower_than_float) - 1
    tight = ["--max-size", f"{largest}B", "--max-drop", "90pt"]
    assert (
        cli.main(
            ["shrink", str(resnet_onnx), "--data", str(photos), "--out", str(tmp_path / "run"), *tight], durations=QUICK
        )
        == 0
    )
    assert "0.50 times the speed of the same model in float" in capsys.readouterr().out
    assert "0.50× the speed of the same model in float" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_a_run_that_was_cut_short_knows_its_budget(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    """The result of an earlier command is none of the one that began after it."""
    out = tmp_path / "run"
    run_recipe(resnet_onnx, RECIPE, photos, Budget(max_drop=Drop(0.9)), out=out, durations=QUICK)
    assert read_outcome(out).ended
    asked = Budget(max_drop=Drop(0.5), max_size_bytes=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "on_test", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_recipe(resnet_onnx, RECIPE, photos, asked, out=out, durations=QUICK)
    outcome = read_outcome(out)
    assert (outcome.ended, outcome.budget) == (False, asked)
    assert "1.00 kB" in write_report(out).read_text(encoding="utf-8")


def test_every_candidate_tells_its_energy(finished: Path) -> None:
    for row in read(finished / "candidates.jsonl"):
        assert row.measurement is not None
        assert row.measurement.energy_j is not None
        assert row.measurement.energy_j > 0
        assert row.measurement.energy_source in ("rapl", "nvml", "estimate")


def test_time_that_is_up_keeps_the_first(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    result = shrink(
        resnet_onnx, photos, Budget(max_drop=Drop(0.9), minutes=1e-6), out=tmp_path / "run", durations=QUICK
    )
    assert len(result.candidates) == 1
    assert result.best is not None


def test_a_candidate_that_breaks_is_a_row_with_its_reason(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantized model answers NaN: the run goes on and ships the other one."""
    from microbudget.methods import quantize

    original = quantize.Quantize.apply

    def damaged(self: quantize.Quantize, model: object, context: object, out: Path) -> object:
        record = original(self, model, context, out)  # type: ignore[arg-type]
        proto = onnx.load(str(out / "model.onnx"))
        scales = {node.input[1] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
        for tensor in proto.graph.initializer:
            if tensor.name in scales:
                broken = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(onnx.numpy_helper.from_array(broken, tensor.name))
        onnx.save(proto, str(out / "model.onnx"))
        return record

    monkeypatch.setattr(quantize.Quantize, "apply", damaged)
    result = shrink(resnet_onnx, photos, Budget(max_drop=Drop(0.9)), out=tmp_path / "run", durations=QUICK)
    assert "NaN" in (result.candidates[0].failure or "")
    assert result.best is not None
    assert "quantize" not in result.best.recipe


DRIVER = """
import sys
sys.stderr = open(sys.argv.pop(1), "w", buffering=1)
from microbudget import cli
from microbudget.kinds.image_classification import search_space
from microbudget.report import plots
from quick import QUICK
search_space.SCALES, search_space.PRUNED, search_space.FEWER_BITS = (1.0,), (), ()
plots.available = lambda: False
sys.exit(cli.main(sys.argv[1:], durations=QUICK))
"""


def test_a_killed_run_goes_on_and_delivers_the_same_model(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed without warning after each of its steps, and started again."""
    options = ["shrink", str(resnet_onnx), "--data", str(photos), "--max-drop", "90pt", "--verbose", "--out"]
    whole, killed, log, pipe = (tmp_path / name for name in ("whole", "killed", "log", "pipe"))
    assert preloaded.status(preloaded.start(DRIVER, [str(log), *options, str(whole)])) == 0, log.read_text("utf-8")
    os.mkfifo(pipe)
    for line in ("finetune  ", "quantize  ", "[1/2]"):
        process = preloaded.start(DRIVER, [str(pipe), *options, str(killed)])
        with pipe.open(encoding="utf-8") as stderr:
            for shown in stderr:
                if shown.startswith(line):
                    break
            process.kill()
            assert preloaded.status(process) == -signal.SIGKILL
    assert preloaded.status(preloaded.start(DRIVER, [str(log), *options, str(killed)])) == 0, log.read_text("utf-8")
    one, two = (hashlib.sha256((out / "best" / "model.onnx").read_bytes()).hexdigest() for out in (whole, killed))
    assert one == two
    assert not list((killed / "models").glob(".partial-*"))


def test_progress_is_silent_when_quiet_and_plain_in_a_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        progress = Progress(stream)
        assert list(progress.track([1, 2, 3], "things")) == [1, 2, 3]
        progress.warn("careful")
        Progress(stream, quiet=True).say("nothing")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "warning: careful\n"


def test_the_demo_needs_its_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.datasets'] = None\n"
        f"from microbudget import cli; sys.exit(cli.main(['demo', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2
    assert "microbudget[demo]" in done.stderr


@pytest.mark.parametrize("verb", ["demo", "shrink", "run", "measure", "compare", "report", "methods"])
def test_every_verb_takes_the_common_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"], durations=QUICK)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--json", "--quiet", "--seed", "--threads"))
