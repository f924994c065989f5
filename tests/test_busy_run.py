"""A run on a busy machine: the row is timed again, and terminal, report, card and JSON have the same times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microbudget.cli.tables import print_run
from microbudget.runs.run import Run
from microbudget.search import evaluation, retiming
from microbudget.search.shrink import run_recipe
from microbudget.units import format_seconds, format_times
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")

RECIPE = "finetune(epochs=2) > quantize(samples=8)"
BUSY = "other programs had the processor for 90% of the time"


def test_a_row_of_a_busy_machine_is_timed_again_and_all_numbers_agree(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = evaluation.time_pair

    def loaded(*arguments: Any, **options: Any) -> Any:
        pair = original(*arguments, **options)
        return replace(pair, ratio=pair.ratio * 9, low=pair.low * 9, high=pair.high * 9, waited=0.9, busy=BUSY)

    monkeypatch.setattr(evaluation, "time_pair", loaded)
    monkeypatch.setattr(retiming, "time_pair", lambda *a, **o: replace(original(*a, **o), waited=0.0, busy=""))
    monkeypatch.setattr(retiming, "quiet_soon", lambda: False)
    out, durations = tmp_path / "run", replace(QUICK, again_s=0.2)
    first = run_recipe(resnet_onnx, RECIPE, photos, out=out, durations=durations, keep=True)
    assert first.best is not None
    assert first.best.busy == BUSY
    print_run(first)
    printed = capsys.readouterr().out
    assert "x* " in printed
    assert "timed on a busy machine: other programs had the processor" in " ".join(printed.split())
    assert BUSY in (out / "report.html").read_text(encoding="utf-8")
    assert BUSY in (out / "best" / "README.md").read_text(encoding="utf-8")

    monkeypatch.setattr(retiming, "quiet_soon", lambda: True)  # and the same command goes on
    again = run_recipe(resnet_onnx, RECIPE, photos, out=out, durations=durations, keep=True)
    assert again.best is not None
    assert not again.best.busy
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    ours, theirs = (result[name]["measurement"]["latency_s"] for name in ("best", "reference"))
    speedup = result["best"]["speed"]["speedup"]
    assert theirs / ours == pytest.approx(speedup)
    assert first.best.speed["speedup"] / speedup > 2
    card = (out / "best" / "README.md").read_text(encoding="utf-8")
    assert f"{format_seconds(ours)} | {format_seconds(theirs)} |" in card
    assert f"It is {format_times(speedup)} times as fast" in card
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"({format_seconds(ours)} instead of {format_seconds(theirs)})" in page
    assert f"{format_times(speedup)}×" in page
    assert BUSY not in page
    print_run(again)
    printed = capsys.readouterr().out
    assert f"{format_times(speedup)}x" in printed
    assert "x*" not in printed
    newest = {row.fingerprint: row for row in Run(out).candidates()}
    assert newest[again.best.fingerprint].speed["speedup"] == speedup
