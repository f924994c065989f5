"""shrink of a language model, from the command line: levels, KL, a GGUF file with a Modelfile, a report."""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import MadeOnce
from microbudget import cli
from microbudget.errors import BadData, InvalidOption
from microbudget.judge.budget import Budget
from microbudget.kind import facet, names
from microbudget.kinds.language_modelling import judging
from microbudget.kinds.language_modelling import search_space as ladder
from microbudget.runs.candidates import read
from microbudget.runs.choice import best
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.search import evaluation
from microbudget.search.samples import read_prompts
from microbudget.units import Drop
from quick import QUICK
from toy_language_models import train_byte_level, write_network

LEVELS = ("Q8_0", "Q2_K")


@pytest.fixture(scope="session")
def text(made_once: MadeOnce) -> Path:
    source = inspect.getsource(argparse)[:40_000]
    return made_once("source.txt", lambda path: path.write_text(source, encoding="utf-8"))


@pytest.fixture(scope="session")
def finished(text: Path, made_once: MadeOnce) -> Path:
    """A complete run. Do not write into it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        train_byte_level(folder / "llama")
        write_network(folder / "llama", "llama", hidden_size=256, intermediate_size=512)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ladder, "LEVELS", LEVELS)
            command = ["shrink", str(folder / "llama"), "--data", str(text), "--out", str(folder / "run")]
            assert cli.main([*command, "--max-drop", "90%", "--threads", "1"], durations=QUICK) == 0

    return made_once("language", make) / "run"


def test_answers_stand_side_by_side(finished: Path) -> None:
    """Held-out text goes on, since the model was not made to chat; what differs from the reference is marked."""
    asked = json.loads((finished / "prompts.json").read_text(encoding="utf-8"))
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in (finished / "answers").glob("*.written.json")]
    measured = [row for row in read(finished / "candidates.jsonl") if row.recipe and row.test is None]
    assert len(measured) == len(LEVELS)  # and no float form, whatever was faster
    assert len(rows) == 1 + len(measured)
    for row in rows:
        assert row["prompts"] == asked["prompts"]
        assert len(row["answers"]) == len(asked["prompts"])
        assert all(answer["failure"] is None and answer["tokens"] > 0 for answer in row["answers"])
    page = (finished / "report.html").read_text(encoding="utf-8")
    section = page.partition('id="answers"')[2].partition("</section>")[0]
    assert section.count('class="reply reference"') == len(asked["prompts"])
    for level in LEVELS:
        assert section.count(f"<b>{level}</b>") == len(asked["prompts"])
    assert "<mark>" in section
    assert "<b>reference</b>" in section


def test_predictions_stand_beside_what_was_measured(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    section = page.partition('id="predicted"')[2].partition("</section>")[0]
    rows = [row for row in read(finished / "candidates.jsonl") if row.recipe and row.test is None]
    for row, level in zip(rows, LEVELS, strict=True):
        assert row.measurement is not None
        predicted = row.measurement.extra["predicted"]
        assert predicted["size_bytes"] == row.measurement.size_bytes
        assert predicted["memory_bytes"] > predicted["size_bytes"]
        assert predicted["decode_tokens_per_s"] > 0
        assert f"<td>{level}</td>" in section
        assert section.count(f"{predicted['size_bytes']:,}") == 2


def test_the_plots_name_the_levels(finished: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
    section = (
        (finished / "report.html").read_text(encoding="utf-8").partition('id="plots"')[2].partition("</section>")[0]
    )
    for words in ("more bits per byte than the reference", "KL (nats a token)", "tokens written per second"):
        assert words in section
    for level in LEVELS:
        assert section.count(f">{level}") == 3


@pytest.mark.usefixtures("without_plots")
def test_the_reference_is_read_once(
    finished: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again with other prompts: rows stand, only the answers are written anew, and no passage is read."""
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    monkeypatch.setattr(ladder, "LEVELS", LEVELS)
    monkeypatch.setattr(judging, "keep_predictions", None)
    monkeypatch.setattr(judging, "compare_with_kept", None)
    prompts = out.parent / "prompts.txt"
    prompts.write_text("def add(a, b):\nimport os\n", encoding="utf-8")
    command = ["shrink", str(finished.parent / "llama"), "--data", str(text), "--out", str(out), "--max-drop", "90%"]
    monkeypatch.setattr(evaluation.Evaluation, "on_test", lambda self, candidate, *_: candidate)
    assert cli.main([*command, "--threads", "1", "--prompts", str(prompts)], durations=QUICK) == 0
    for path in (out / "answers").glob("*.written.json"):
        row = json.loads(path.read_text(encoding="utf-8"))
        assert [prompt["text"] for prompt in row["prompts"]] == ["def add(a, b):", "import os"]


def test_a_prompt_that_does_not_fit_is_bad_input(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("fine\n" + "word " * 5000 + "\n", encoding="utf-8")
    command = [
        "run",
        str(finished / "best"),
        "quantize(type='Q2_K')",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "r"),
    ]
    assert cli.main([*command, "--threads", "1", "--prompts", str(prompts)], durations=QUICK) == BadData.exit_status
    assert "the reference cannot answer prompt 2" in capsys.readouterr().err


def test_prompts_are_for_language_models(tmp_path: Path, hf_model: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Why?\n", encoding="utf-8")
    with pytest.raises(InvalidOption, match=r"prompts are for language-modelling, and .* is for image-classification"):
        read_prompts(tmp_path / "prompts.txt", load(hf_model))


def test_every_level_is_measured_against_the_reference(finished: Path) -> None:
    reference, *levels = read(finished / "candidates.jsonl")
    assert reference.measurement is not None
    assert (reference.measurement.format, reference.measurement.metric) == ("hf", "bits per byte")
    measured = {row.recipe.partition("type='")[2].partition("'")[0]: row.measurement for row in levels}
    for level in LEVELS:
        row = measured[level]
        assert row is not None
        assert row.format == "gguf"
        assert {"kl", "same_top1", "perplexity"} <= set(row.extra)
    q8, q2 = (measured[level] for level in LEVELS)
    assert q8 is not None
    assert q2 is not None
    assert q2.size_bytes < q8.size_bytes < reference.measurement.size_bytes
    assert 0 < q8.extra["kl"] < q2.extra["kl"]


def test_bytes_decide_among_levels(finished: Path) -> None:
    """Not whether float would be faster, unless speed is the goal: then the faster one is chosen anyway."""
    slower = {"over_float": {"speedup": 0.5, "low": 0.4, "high": 0.6, "verdict": "slower"}}
    levels = [row for row in read(finished / "candidates.jsonl") if row.recipe and row.test is None]
    rows = [replace(row, speed=slower) if "Q2_K" in row.recipe else row for row in levels]
    chosen = best(rows, Budget(max_drop=Drop(0.9, relative=True)))
    assert chosen is not None
    assert "Q2_K" in chosen.recipe
    assert not any("over_float" in row.speed for row in levels)


def test_what_ships_is_a_gguf_that_writes(finished: Path) -> None:
    best = finished / "best"
    assert {"model.gguf", "Modelfile", "README.md", "microbudget.json"} <= {path.name for path in best.iterdir()}
    assert "FROM ./model.gguf" in (best / "Modelfile").read_text(encoding="utf-8")
    card = (best / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card
    assert " %" in card
    assert " pt against" not in card
    session = open_session(load(best), threads=1)
    try:
        assert len(session.generate("def parse(", tokens=8).tokens) > 0  # type: ignore[attr-defined]
    finally:
        session.close()


def test_its_report_shows_no_photos(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert 'id="photos"' not in page
    assert "session.generate(" in page
    assert json.loads((finished / "result.json").read_text(encoding="utf-8"))["met"]


@pytest.mark.parametrize("verb", ["compare", "shrink", "run"])
def test_points_are_no_measure_of_bits(
    verb: str, finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is measured."""
    best, out = str(finished / "best"), ["--out", str(tmp_path / "run")]
    more = {"compare": [best], "shrink": out, "run": ["quantize(type='Q2_K')", *out]}[verb]
    assert (
        cli.main([verb, best, *more, "--data", str(text), "--max-drop", "1pt"], durations=QUICK)
        == InvalidOption.exit_status
    )
    printed = capsys.readouterr().err
    assert "bits per byte cannot be in points" in printed
    assert "timing" not in printed


def test_the_default_limit_is_relative() -> None:
    default = {kind: facet(kind, "search_space").SearchSpace.default_drop.relative for kind in names()}
    assert default["language-modelling"]
    assert not default["image-classification"]
