"""What goes wrong during a run: processes that are killed, hang or eat memory give a row with the reason, no more."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microbudget import Budget
from microbudget.errors import BrokenModel, DiskFull, Failed
from microbudget.judge.judging import Judging
from microbudget.kinds.image_classification import search_space
from microbudget.recipes.recipe import Recipe
from microbudget.search import evaluation
from microbudget.search.shrink import run_recipe, shrink
from microbudget.units import Drop
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")

RECIPE = "finetune(epochs=2) > quantize(samples=8)"
FLOAT = "finetune(epochs=2)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes."""
    recipes = [Recipe.parse(RECIPE), Recipe.parse(FLOAT)]
    monkeypatch.setattr(search_space.SearchSpace, "recipes", lambda self, first: recipes)


def test_a_reference_that_dies_while_it_is_timed_is_not_the_candidates_fault(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, killed = evaluation.time_pair, []

    def bereft(reference: Any, *arguments: Any, **options: Any) -> Any:
        if not killed:
            killed.append(reference.pid)
            os.kill(reference.pid, signal.SIGKILL)
        return original(reference, *arguments, **options)

    monkeypatch.setattr(evaluation, "time_pair", bereft)
    result = run_recipe(resnet_onnx, RECIPE, photos, out=tmp_path / "run", durations=QUICK)
    assert killed
    assert result.best is not None
    assert result.best.failure is None


def test_a_reference_whose_process_died_is_opened_again(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies while a candidate is built: it is opened once more, and the candidate is measured."""
    start_worker, build, workers = Judging.start_worker, evaluation.build, []

    def recorded(*arguments: Any) -> Any:
        workers.append(start_worker(*arguments))
        return workers[-1]

    def bereft(*arguments: Any) -> Any:
        (reference,) = workers  # no other was started so far
        os.kill(reference.pid, signal.SIGKILL)
        while reference.alive:
            time.sleep(0.001)
        return build(*arguments)

    monkeypatch.setattr(Judging, "start_worker", recorded)
    monkeypatch.setattr(evaluation, "build", bereft)
    result = run_recipe(resnet_onnx, RECIPE, photos, out=tmp_path / "run", durations=QUICK)
    died, again, *_ = workers
    assert died.pid != again.pid
    assert result.best is not None
    assert result.best.failure is None


def _killed(worker: Any) -> None:
    os.kill(worker.pid, signal.SIGKILL)


def _hung(worker: Any) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    worker.timeout_s = 0.3


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize(("trouble", "reason"), [(_killed, "killed by SIGKILL"), (_hung, "hung: no answer within")])
@pytest.mark.parametrize("stage", ["time_pair", "cost_fields"])
def test_a_candidate_whose_worker_ends_is_a_row_with_the_reason_and_the_run_goes_on(
    resnet_onnx: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Any], None],
    reason: str,
    stage: str,
) -> None:
    """The first candidate's worker is killed, or stands still, before it is timed or after: the other one ships."""
    original, hit = getattr(evaluation, stage), []

    def struck(first: Any, second: Any, *arguments: Any, **options: Any) -> Any:
        is_candidate = stage == "time_pair" or "quantize" in str(second.model.record.recipe)
        worker = second if stage == "time_pair" else second.worker
        if is_candidate and not hit:
            hit.append(worker.pid)
            trouble(worker)
        return original(first, second, *arguments, **options)

    monkeypatch.setattr(evaluation, stage, struck)
    result = shrink(resnet_onnx, photos, Budget(max_drop=Drop(0.9)), out=tmp_path / "run", durations=QUICK)
    assert hit
    assert reason in (result.candidates[0].failure or "")
    assert result.best is not None
    assert result.best.fingerprint == result.candidates[1].fingerprint


def test_a_candidate_above_the_memory_limit_is_a_row_and_the_run_goes_on(
    resnet_onnx: Path, photos: Path, tmp_path: Path
) -> None:
    result = shrink(
        resnet_onnx, photos, Budget(max_drop=Drop(0.9), max_memory_bytes=1), out=tmp_path / "run", durations=QUICK
    )
    assert len(result.candidates) == 2
    rounded, whole = (row.failure or "" for row in result.candidates)
    assert "used more than 1 B of memory, stopped" in rounded
    assert "not built: about" in whole, "it is larger, by its prediction"
    assert result.best is None
    assert not result.met


@pytest.mark.parametrize(
    ("error", "ends"), [(BrokenModel("it diverged"), False), (Failed("no"), False), (DiskFull("full"), True)]
)
def test_a_build_that_fails_is_a_row_unless_the_disk_is_full(
    resnet_onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Failed, ends: bool
) -> None:
    from microbudget.methods import quantize

    def broken(*_: object) -> object:
        raise error

    monkeypatch.setattr(quantize.Quantize, "apply", broken)
    if ends:
        with pytest.raises(DiskFull):
            run_recipe(resnet_onnx, RECIPE, photos, out=tmp_path / "run", durations=QUICK)
        return
    result = run_recipe(resnet_onnx, RECIPE, photos, out=tmp_path / "run", durations=QUICK)
    assert [row.failure for row in result.candidates] == [str(error)]
