"""EfficientNet-Lite0 as people have it, on ImageNet photos: 8 and 4 bits against onnxruntime; part of `real.py`.

    python benchmarks/real_images.py                  both folds; can be killed and goes on (about ten minutes)
    python benchmarks/real_images.py --part tables    print the table

The 260 photos are cut into two halves, seeded. Each half calibrates once and is judged once, by models that were
calibrated on the other: nothing is judged on photos that anything was fitted to. Needs ../shared/assets and the weights
of `../shared/real/make.py efficientnet-lite0`. Runs in runs/real_images/.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from markdown import ROOT, table
from microbudget import metrics
from microbudget.judge.judging import Opening, judging_of
from microbudget.judge.timing import time_pair
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import Example
from results import Results

STORE = ROOT / "runs" / "real_images"
MODEL = Path.home() / ".cache" / "microbudget-real" / "efficientnet-lite0"
PHOTOS = ROOT.parent / "shared" / "assets" / "images" / "imagenet_val"
FOLDS, VALIDATION, SECONDS = 2, 20, 6.0  # validation: photos that the layout needs; they are judged too
OURS = {"ours, 8 bits": "quantize()", "ours, 4 bits": "quantize(bits=4)"}
PEER = "onnxruntime, 8 bits, min/max"
GOALS = {
    "ours, 8 bits": "at most .0020 nats",
    "ours, 4 bits": "at most .090 nats and 1.5 points at 2.7 MB",
    PEER: "",
}


def fold(number: int) -> Path:
    """A folder whose train split is the half that calibrates, and whose other splits are the half that is judged."""
    folder = STORE / f"fold{number}"
    if folder.is_dir():
        return folder
    rows = shuffled()
    judged = rows[number::FOLDS]
    kept = [row for place, row in enumerate(rows) if place % FOLDS != number]
    with whole_folder(folder) as partial:
        write_splits(partial, {"train": kept, "validation": judged[:VALIDATION], "test": judged[VALIDATION:]})
    return folder


def shuffled() -> list[dict[str, str]]:
    """The rows of the photos' metadata, in a seeded order."""
    with (PHOTOS / "metadata.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    random.Random(0).shuffle(rows)
    return rows


def write_splits(folder: Path, splits: Mapping[str, Sequence[dict[str, str]]]) -> None:
    """A folder for each split, with its photos and their metadata."""
    for split, rows in splits.items():
        (folder / split).mkdir()
        with (folder / split / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        for row in rows:
            shutil.copyfile(PHOTOS / row["file_name"], folder / split / row["file_name"])


def built(name: str, given: Model, task: ImageTask, number: int) -> tuple[Path, float]:
    """The file of one way on one fold, and the seconds that it took to make."""
    context, started = Context(task, STORE / f"cache{number}"), time.monotonic()
    if name in OURS:
        made = build(given, Recipe.read(OURS[name]), context, STORE / f"models{number}")[-1]
        return made.path, time.monotonic() - started
    folder = STORE / f"peer{number}"
    if not folder.is_dir():
        with whole_folder(folder) as partial:
            _static(given, task, partial)
    return folder, time.monotonic() - started


def _static(given: Model, task: ImageTask, out: Path) -> None:
    """The documented recipe: pre-processed, QDQ, unsigned activations, signed weights a channel, min/max."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from microbudget.judge.answering import collated

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self._rest: Iterator[Example] = iter(task.examples("train"))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            example = next(self._rest, None)
            return None if example is None else collated(task, given, [example])

    for file in given.path.iterdir():
        if file.suffix != ".onnx":
            shutil.copyfile(file, out / file.name)
    ready = out / "ready.onnx"
    quant_pre_process(str(given.weights), str(ready))
    quantize_static(
        str(ready),
        str(out / given.weights.name),
        Photos(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    ready.unlink()


def measured(name: str, number: int) -> dict[str, Any]:
    """Size, seconds, and for each judged photo the divergence from float and whether each is right; the speed."""
    task, given = ImageTask.open(fold(number)), load(MODEL)
    judging = judging_of(task)
    given = judging.resolved(given)
    path, seconds = built(name, given, task, number)
    model = judging.resolved(load(path))
    examples = [*task.examples("validation"), *task.examples("test")]
    labels = np.array([example.label for example in examples])
    with judging.opened(given, None, Opening(2)) as one, judging.opened(model, None, Opening(2)) as other:
        theirs, ours = (judging.answers(each, examples, worker) for each, worker in ((given, one), (model, other)))
        inputs = [judging.timing_input(each, examples) for each in (given, model)]
        pair = time_pair(one, other, *inputs, seconds=SECONDS)
    return {
        "size_bytes": model.weights.stat().st_size,
        "seconds": seconds,
        "kl": metrics.kl_divergence(theirs, ours).tolist(),
        "float_right": (theirs.argmax(1) == labels).tolist(),
        "right": (ours.argmax(1) == labels).tolist(),
        "speedup": [pair.ratio, pair.low, pair.high],
    }


def summary(results: Results) -> str:
    """The table in Markdown, with the goals; `real.py` puts it on its page."""
    rows = []
    for name, goal in GOALS.items():
        parts = [results.rows[f"{name}/{number}"] for number in range(FOLDS)]
        kl = np.concatenate([part["kl"] for part in parts])
        right, before = (np.concatenate([part[key] for part in parts]) for key in ("right", "float_right"))
        rows.append(
            [
                name,
                f"{np.mean([part['size_bytes'] for part in parts]) / 1e6:.2f}",
                f"{kl.mean():.4f}",
                f"{100 * right.mean():.1f}",
                f"{100 * (right.mean() - before.mean()):+.1f}",
                f"{np.mean([part['speedup'][0] for part in parts]):.2f}",
                f"{np.mean([part['seconds'] for part in parts]):.0f}",
                goal,
            ]
        )
    head = ("way", "MB", "nats", "accuracy %", "points", "times as fast as float", "s to build", "goal")
    return f"{table(head, rows)}\n\nOn {len(kl)} photos, each judged by models that were not calibrated on it."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tables",))
    options = parser.parse_args()
    if not (MODEL.is_dir() and PHOTOS.is_dir()):
        sys.exit(f"needs {MODEL} (../shared/real/make.py efficientnet-lite0) and {PHOTOS}")
    STORE.mkdir(parents=True, exist_ok=True)
    results = Results(STORE / "results.json")
    if options.part is None:
        for name in GOALS:
            for number in range(FOLDS):
                results.fill(f"{name}/{number}", lambda name=name, number=number: measured(name, number), float("inf"))
    print(summary(results))


if __name__ == "__main__":
    main()
