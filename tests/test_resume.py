"""A recipe of five methods that is killed three times at random ends with the bytes of one that ran through."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from microbudget import train as training
from microbudget.build import CHECKPOINTS, build
from microbudget.errors import Diverged
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.recipe import Recipe
from microbudget.tasks.images import ImageTask
from test_distill import write_resnet
from test_methods import digest

RECIPE = (
    "resize(pixels=24) > finetune(epochs=3, unfreeze='all', deep_epochs=3) > "
    "distill(width=0.5, epochs=3, views=2) > export > quantize(samples=8)"
)
WORKER = """
import os, signal, sys
from microbudget import train as training
from test_resume import built
training.CHECKPOINT_EVERY_S = 0
model, photos, folder, fatal_step = sys.argv[1:]
steps, learn = [0], training._Loop._learn

def counted(self, rows, epoch, step):
    steps[0] += 1
    if steps[0] == int(fatal_step):
        os.kill(os.getpid(), signal.SIGKILL)
    learn(self, rows, epoch, step)

training._Loop._learn = counted
built(model, photos, folder)
"""


def built(model: str | Path, photos: str | Path, folder: str | Path) -> None:
    cache = Path(folder) / "cache"
    context = Context(ImageTask.open(photos, cache=cache), cache, threads=1)
    build(load(model), Recipe.parse(RECIPE), context, Path(folder) / "models")


def start(model: Path, photos: Path, folder: Path, fatal_step: int = 0) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", WORKER, str(model), str(photos), str(folder), str(fatal_step)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)


def test_killed_three_times_at_random_it_ends_with_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    model = write_resnet(tmp_path / "resnet")
    coin = random.Random()  # another moment every time: none may make a difference
    for step in (coin.randint(1, 4), coin.randint(2, 5)):  # of each process, in the middle of its training
        with start(model, photos, tmp_path / "killed", step) as process:
            assert process.wait() == -signal.SIGKILL
    with start(model, photos, tmp_path / "killed") as process:  # somewhere: at its start, in a method, between two
        try:
            process.wait(coin.uniform(2, 8))
        except subprocess.TimeoutExpired:
            process.kill()
    with start(model, photos, tmp_path / "killed") as process:
        assert process.wait() == 0
    built(model, photos, tmp_path / "whole")
    assert digest(tmp_path / "killed" / "models") == digest(tmp_path / "whole" / "models")
    assert not list((tmp_path / "killed" / "cache" / CHECKPOINTS).iterdir())


def test_the_checkpoint_of_a_failed_step_stays(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(write_resnet(tmp_path / "resnet"))
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0)
    context = Context(ImageTask.open(photos, cache=tmp_path), tmp_path, threads=1)
    teacher = build(model, Recipe.parse("finetune(epochs=3)"), context, tmp_path / "models")[-1]
    step = Distill(epochs=2, views=1, learning_rate=1.0)
    learn, steps = training._Loop._learn, [0]

    def failing(self, rows, epoch, step):
        steps[0] += 1
        if steps[0] == 2:
            raise training._NotFiniteError("the loss was nan")
        learn(self, rows, epoch, step)

    monkeypatch.setattr(training._Loop, "_learn", failing)
    with pytest.raises(Diverged, match=r"try a lower learning rate \(0.1 instead of 1\)"):
        build(teacher, Recipe((step,)), context, tmp_path / "models")
    kept = list((tmp_path / CHECKPOINTS).rglob("*.pt"))
    assert [file.name for file in kept] == ["distill.pt"]
    assert len(list((tmp_path / "models").iterdir())) == 1, "half a step was left among the models"
