"""A recipe of five methods that is killed three times at random ends with the bytes of one that ran through."""

from __future__ import annotations

import math
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import preloaded
from conftest import write_resnet
from microbudget.errors import DiskFull, Diverged
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.resize import Resize
from microbudget.recipes.build import CHECKPOINTS, build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from microbudget.training import loop
from test_methods import digest

METHODS = ("finetune", "prune", "distill", "export", "quantize")
RECIPE = (
    "finetune(epochs=3, unfreeze='all', deep_epochs=3) > prune(sparsity=0.3, samples=8) > distill(epochs=3, views=2) >"
    " export > quantize(samples=8)"
)
STEPS = 6  # of each training: three epochs of two batches
WORKER = """
import os, signal, sys
from torch.optim import AdamW
from microbudget import methods
from microbudget.training import loop
from test_resume import built
loop.CHECKPOINT_EVERY_S = 0
model, photos, folder, fatal, fatal_step = sys.argv[1:]
steps, step = [0], AdamW.step

def counted(self, *arguments):
    steps[0] += 1
    if steps[0] == int(fatal_step):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

def last(self, *arguments):
    if int(fatal_step):
        AdamW.step = counted
    apply(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

if fatal:
    method = methods.find(fatal)
    apply, method.apply = method.apply, last
built(model, photos, folder)
"""


def built(model: str | Path, photos: str | Path, folder: str | Path) -> None:
    cache = Path(folder) / "cache"
    context = Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)
    build(load(model), Recipe.parse(RECIPE), context, Path(folder) / "models")


def build_and_die(model: Path, photos: Path, folder: Path, fatal: str = "", step: int = 0) -> int | None:
    """Build in a process that kills itself in the step-th step of a training, or (0) when a method has written.

    Returns its exit status.
    """
    return preloaded.status(preloaded.start(WORKER, [str(model), str(photos), str(folder), fatal, str(step)]))


def test_five_methods_killed_three_times_at_random_end_with_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    model = write_resnet(tmp_path / "resnet")
    seed = int(os.environ.get("KILLED_WITH_SEED") or random.randrange(10**6))  # another moment every time
    print(f"KILLED_WITH_SEED={seed}")
    coin = random.Random(seed)
    for index in sorted(coin.sample(range(len(METHODS)), 3)):
        method = METHODS[index]
        step = coin.randint(1, STEPS) if method in ("finetune", "distill") else 0
        assert build_and_die(model, photos, tmp_path / "killed", method, step) == -signal.SIGKILL, (
            f"{method}, step {step}"
        )
    assert build_and_die(model, photos, tmp_path / "killed") == 0
    built(model, photos, tmp_path / "whole")
    assert len(list((tmp_path / "whole" / "models").iterdir())) == len(METHODS)
    assert digest(tmp_path / "killed" / "models") == digest(tmp_path / "whole" / "models")
    assert not list((tmp_path / "killed" / "cache" / CHECKPOINTS).iterdir())


def test_a_full_disk_while_a_model_is_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors says so in an error of its own, which is no OSError; its other errors are as they were."""
    context = Context(ImageTask.open(photos, DataOptions(cache=tmp_path)), tmp_path, threads=1)
    model = load(write_resnet(tmp_path / "resnet"))
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    for text, raised in ((full, DiskFull), ("Error while serializing: NaN", SafetensorError)):

        def writing(self: Resize, *_: object, text: str = text) -> None:
            raise SafetensorError(text)

        monkeypatch.setattr(Resize, "apply", writing)
        with pytest.raises(raised):
            build(model, Recipe((Resize(pixels=16),)), context, tmp_path / "models")
        assert not list((tmp_path / "models").iterdir())


def test_the_checkpoint_of_a_failed_step_stays(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(write_resnet(tmp_path / "resnet"))
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0)
    context = Context(ImageTask.open(photos, DataOptions(cache=tmp_path)), tmp_path, threads=1)
    teacher = build(model, Recipe.parse("finetune(epochs=3)"), context, tmp_path / "models")[-1]
    step = Distill(epochs=2, views=1, learning_rate=1.0)

    def broken(optimizer: torch.optim.AdamW, *_: object) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(Diverged, match=r"try a lower learning rate \(0.1 instead of 1\)"):
        build(teacher, Recipe((step,)), context, tmp_path / "models")
    kept = list((tmp_path / CHECKPOINTS).rglob("*.pt"))
    assert [file.name for file in kept] == ["distill.pt"]
    assert len(list((tmp_path / "models").iterdir())) == 1, "half a step was left among the models"
