"""A run on disk for the report's tests, written by the real classes: photos, answers, rows, a model that ships."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from microbudget.judge.budget import Budget, Measurement
from microbudget.judge.judging import Scoring, judging_of
from microbudget.judge.verdict import judge_pair
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.model import Record
from microbudget.report import write_report
from microbudget.report.outcome import Outcome
from microbudget.runs.candidates import Candidate
from microbudget.runs.reading_order import reading_order
from microbudget.runs.run import LAYOUT, Run
from microbudget.runtimes.loading import load
from microbudget.search.result import Shrunk
from microbudget.ship import deliver
from microbudget.task import DataOptions
from microbudget.training.learning_curve import LearningCurve
from microbudget.units import Drop

PIXELS = 8
CONFIG = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": PIXELS, "width": PIXELS},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
HOSTILE = "<script>alert('x')</script> & \"co\""
RED = "red & co" if sys.platform == "win32" else HOSTILE.replace("/", "")  # as the name of a folder
LABELS = tuple(sorted(("blue", "green", RED)))
COLOURS = ((40, 60, 200), (50, 180, 60), (200, 50, 40))
SMALL, FLOAT, TINY = "5ma11", "f10a7", "71ny"
RECIPE = "finetune(head='linear') > export() > quantize(bits=8)"


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text without tags."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr", "path", "use"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def section(self, name: str) -> str:
        """The source of one section."""
        return self.source.split(f'<section id="{name}">')[1].split("</section>")[0]


@dataclass
class Made:
    """A run on disk, and what it was made from."""

    run: Run
    task: ImageTask
    shrunk: Shrunk

    def page(self) -> Page:
        return Page(write_report(self.run.folder).read_text(encoding="utf-8"))


def write_photos(root: Path, per_class: int = 24, unlabelled: int = 0) -> Path:
    rng = np.random.default_rng(0)
    for label, colour in zip(LABELS, COLOURS, strict=True):
        (root / label).mkdir(parents=True)
        for number in range(per_class):
            write_photo(root / label / f"{number:02}.png", colour, rng)
    (root / LABELS[0] / "00.png").rename(root / LABELS[0] / "a & b <i>.png")
    for number in range(unlabelled):
        (root / "unlabelled").mkdir(exist_ok=True)
        write_photo(root / "unlabelled" / f"new{number}.png", COLOURS[number % 3], rng)
    return root


def write_photo(path: Path, colour: tuple[int, ...], rng: np.random.Generator) -> None:
    pixels = np.array(colour) + rng.normal(0, 30, (12, 16, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_model(folder: Path, fingerprint: str, history: dict) -> None:
    """A linear classifier of 8 x 8 pixels."""
    folder.mkdir(parents=True)
    W = np.random.default_rng(0).normal(size=(3 * PIXELS * PIXELS, len(LABELS))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "classifier.weight"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, PIXELS, PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [numpy_helper.from_array(W, "classifier.weight")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    record = Record(
        task="image-classification",
        labels=LABELS,
        preprocessing=CONFIG,
        recipe=RECIPE,
        history=history,
        versions={"microbudget": "0.1.0", "onnx": onnx.__version__},
        fingerprint=fingerprint,
    )
    record.save(folder)


def history() -> dict:
    curve = LearningCurve([18, 36, 50], [0.8, 0.9, 0.95], 40, gain=0.021, gain_low=0.004, gain_high=0.05)
    epochs = [
        {"epoch": e + 1, "train_loss": 1 / (e + 1), "validation_loss": 1 / (e + 1) + 0.05 * (e - 4) ** 2,
         "validation_accuracy": 0.9 + e / 100}
        for e in range(6)
    ]  # fmt: skip
    layers = [
        {"name": f"conv{n} {HOSTILE}", "bits": 8, "weight_error": 0.001 * n, "saturation": 0.0005, "reason": None}
        for n in range(3)
    ]
    return {
        "finetune": {"epochs": epochs, "validation": {"accuracy": 0.95, "f1": 0.94}, "learning_curve": curve.as_dict()},
        "export": {"examples": 32, "difference": 1.5e-5, "same_top1": 1.0},
        "quantize": {"bits": 8, "samples": 50, "layers": layers},
    }


def measurement(task: ImageTask, logits: NDArray, split: str, size_bytes: int, latency_s: float | None) -> Measurement:
    tally = Scoring(judging_of(task))
    tally.add(read(task, split), logits)
    judged = tally.quality()
    return Measurement(
        model="given",
        format="onnx",
        runtime="onnxruntime 1.31.1",
        task=task.kind,
        examples=len(logits),
        metric=judged.scores.metric,
        quality=judged.scores.value,
        quality_low=judged.low,
        quality_high=judged.high,
        extra=judged.extra,
        size_bytes=size_bytes,
        latency_s=latency_s,
        latency_low_s=latency_s and latency_s * 0.97,
        latency_high_s=latency_s and latency_s * 1.04,
        memory_bytes=3 * size_bytes,
        threads=2,
        machine={"cpu": f"Imagined {HOSTILE}", "cores": 2},
    )


def read(task, split: str) -> list:
    """The examples of a split in the order of the rows of the run's answers."""
    return reading_order(task.examples(split), 0)


def logits_of(task: ImageTask, split: str, wrong: dict[int, int], sure: float = 3.0) -> NDArray[np.float32]:
    """Right answers but for the rows of `wrong`, which get that class."""
    examples = read(task, split)
    logits = np.random.default_rng(1).normal(0, 0.3, (len(examples), len(task.labels))).astype(np.float32)
    for row, example in enumerate(examples):
        said = wrong.get(row, example.label or 0)
        logits[row, said] += sure + 0.1 * row
    return logits


def candidate(task, store, fingerprint, recipe, size_bytes, latency_s, wrong, reference=None, speed=None) -> Candidate:
    """A measured row with its answers to all splits."""
    limit, logits = Drop(0.01), {}
    for split in ("validation", "test", "unlabelled"):
        if task.examples(split):
            logits[split] = logits_of(task, split, wrong)
            store.mkdir(exist_ok=True)
            np.save(store / f"{fingerprint}.{split}.npy", logits[split])
    row = Candidate(
        recipe,
        fingerprint,
        f"models/{fingerprint}",
        measurement(task, logits["validation"], "validation", size_bytes, latency_s),
        speed=speed or {},
        test=measurement(task, logits["test"], "test", size_bytes, latency_s),
        seconds=61.0,
    )
    if reference is None:
        return row
    scores = {split: task.score(logits[split], read(task, split)) for split in ("validation", "test")}
    base = {split: task.score(np.load(store / f"{reference}.{split}.npy"), read(task, split)) for split in scores}
    verdicts = [judge_pair(base[split], scores[split], limit) for split in ("validation", "test")]
    return replace(row, verdict=verdicts[0], test_verdict=verdicts[1])


def make_run(root: Path, *, unlabelled: int = 0, wrong: dict[int, int] | None = None, **budget) -> Made:
    """A finished run with a reference, two measured candidates of which one ships, and a failed one."""
    data = write_photos(root / "data", unlabelled=unlabelled)
    task = ImageTask.open(data, DataOptions(cache=root / "pixels"))
    run = Run(root / "run")
    run.folder.mkdir()
    settings = {"model": f"given {HOSTILE}", "model_fingerprint": "abc", "data": str(data), "seed": 0, "layout": LAYOUT}
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in (settings | {"data_fingerprint": task.fingerprint}).items()
    ]
    (run.folder / "run.toml").write_text("\n".join(lines), encoding="utf-8")
    store = run.folder / "answers"
    reference = candidate(task, store, FLOAT, "finetune(head='linear')", 9_120_000, 0.0136, {3: 1, 5: 0})
    speed = {"speedup": 6.41, "low": 6.3, "high": 6.52, "verdict": "faster"}
    wrong = {0: 1, 1: 0, 2: 2, 5: 0} if wrong is None else wrong
    small = candidate(task, store, SMALL, RECIPE, 2_600_000, 0.00213, wrong, FLOAT, speed)
    tiny = candidate(
        task, store, TINY, f"resize(pixels=96) > {RECIPE}", 2_590_000, None, dict.fromkeys(range(6), 2), FLOAT
    )
    failed = Candidate("finetune() > prune()", "", "", failure=f"no such layer {HOSTILE}", seconds=1.0)
    for row in (reference, small):
        write_model(run.folder / row.path, row.fingerprint, history())
    limits = Budget(max_size_bytes=4_000_000, max_drop=Drop(0.01), **budget)
    for row in (reference, small, tiny):
        run.add(row)
    deliver(run, load(run.folder / small.path), small, limits, task, reference)
    shrunk = Shrunk(run.folder, reference, [small, tiny, failed], small, limits)
    made = Made(run, task, shrunk)
    write_result(made)
    return made


def of_rows(outcome: Outcome, count: int) -> Outcome:
    """The outcome of a run with that many measured candidates: the shipped one's row with other numbers."""
    best = outcome.best
    rows = []
    for n in range(1, count):
        size, latency = (
            best.measurement.size_bytes + 100_000 * n,
            best.measurement.latency_s * (1 + (7 * n % count) / 9),
        )
        quality = best.measurement.quality - 0.001 * n
        measured = replace(
            best.measurement, size_bytes=size, latency_s=latency, quality=quality, quality_low=quality - 0.05
        )
        recipe = f"resize(pixels={32 * n}) > {RECIPE}"
        rows.append(replace(best, recipe=recipe, fingerprint=f"row{n}", measurement=measured, test=None))
    return replace(outcome, candidates=(best, *rows))


def write_result(made: Made, **changes) -> None:
    made.shrunk = replace(made.shrunk, **changes)
    (made.run.folder / "result.json").write_text(json.dumps(made.shrunk.as_dict()), encoding="utf-8")
