"""Train it back: what a cut costs, what least squares bring back at once, and what patient distillation brings back.

    python benchmarks/train_back.py --splits 1               one split of the photos (about 50 minutes on 2 quiet cores)
    python benchmarks/train_back.py --part recovery          one part (see PARTS)
    python benchmarks/train_back.py --part tables            only write docs/results/train_back.md again

MobileNetV2 on flowers12 at 160 pixels. Accuracy is of the test photos of the splits together; nothing was chosen by
them. What trains takes MINUTES: the epochs of each way are what fits. Rows stay in runs/train_back/; a call goes on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import prune as peers_cut
import train_back_tables
import train_smaller_peers as peers
from markdown import ROOT
from microbudget.judge import Worker, time_pair
from microbudget.judge.judging import judging_of
from microbudget.kinds.image_classification import distill as images
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.prune import open_target
from microbudget.kinds.image_classification.schooling import with_views
from microbudget.kinds.image_classification.teacher import Teacher
from microbudget.kinds.image_classification.views import FixedViews, FreshViews
from microbudget.machine.journal import Journal
from microbudget.methods import Context
from microbudget.methods.distill import FIXED_VIEWS, FRESH, Distill
from microbudget.methods.prune import Prune
from microbudget.methods.prune.channels import plan
from microbudget.methods.prune.least_squares import refit
from microbudget.methods.prune.moments import match
from microbudget.methods.prune.target import choose_examples
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.hf.image_classifier import load_network
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from microbudget.training import objectives
from microbudget.training.trial import timed
from results import Results

ASSETS, STORE = ROOT.parent / "shared" / "assets", ROOT / "runs" / "train_back"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
SPLITS, THREADS, MINUTES = (1, 2, 0), 2, 10.0  # minutes of each training
SIZES = (0.5, 0.35)
REFERENCE, START = "finetune", "resize(pixels=160) > finetune"
CUT = "prune(size='0.35x')"
INTEGERS = "export > quantize"
PARTS = ("recovery", "epoch", "train", "peer", "latency", "tables")
WAYS = {  # how the cut network learns
    "repaired, not trained": "",
    "fixed views": f"distill(views={FIXED_VIEWS}, epochs={{epochs}})",
    "patient": f"distill(views='{FRESH}', epochs={{epochs}})",
}


@cache
def context(split: int) -> Context:
    """With the teacher."""
    task = ImageTask.open(PHOTOS, DataOptions(seed=split, cache=STORE / "cache"))
    bare = Context(task, STORE / "cache", split, threads=THREADS, progress=Progress())
    return replace(bare, reference=build(load(MODEL), Recipe.parse(REFERENCE), bare, STORE / "models")[-1])


def built(recipe: str, split: int) -> Model:
    """Finished steps are not made again."""
    return build(load(MODEL), Recipe.parse(recipe), context(split), STORE / "models")[-1]


def right(model: Model, split: int) -> list[int]:
    """1 for each test photo that the model answers rightly."""
    task = context(split).task
    examples = task.examples("test")
    return [int(value) for value in task.score(judging_of(task).answers(model, examples), examples).numerator]


def network_right(network: Any, split: int, preprocessing: dict[str, Any]) -> list[int]:
    """As `right`, of a torch module."""
    task = context(split).task
    examples = task.examples("test")
    answers = objectives.answers(network.eval(), task, preprocessing, examples)
    return [int(value) for value in task.score(answers, examples).numerator]


def recovery(size: float, split: int) -> dict[str, Any]:
    """Without training: the bare cut, matched statistics, least squares; Torch-Pruning's cut with new statistics."""
    torch.set_num_threads(THREADS)
    about, given = context(split), built(START, split)
    preprocessing, step = given.record.preprocessing or {}, Prune(size=f"{size:g}x")
    target = open_target(step, given, about, choose_examples(about, step.samples))
    journal = Journal(STORE / f"sensitivity{split}.jsonl")
    made = plan(target, step.importance, about.progress, uniform=False, journal=journal)
    counts = made.for_size(size)
    removed, bare = made.removed(counts), made.cut(counts)
    matched, fitted = copy.deepcopy(bare), copy.deepcopy(bare)
    match(target, matched, made.graph, removed)
    more = open_target(step, given, about, choose_examples(about, step.repair))
    inputs = {name: torch.cat([batch[name] for batch in more.batches]) for name in more.batches[0]}
    began = time.monotonic()
    refit(target, fitted, made.graph, removed, inputs)
    match(target, fitted, made.graph, removed)
    seconds = time.monotonic() - began
    pixels = torch.from_numpy(about.task.collate(about.task.examples("train")[:2], preprocessing)["pixel_values"])
    theirs = peers_cut.torch_pruning(load_network(given.path), pixels, size, everywhere=False)
    peers_cut.new_statistics(theirs, about, preprocessing)
    cuts = {"whole": target.network, "bare": bare, "matched": matched, "fitted": fitted, "torch-pruning": theirs}
    rows = {name: network_right(network, split, preprocessing) for name, network in cuts.items()}
    return {**rows, "seconds": seconds, "examples": len(next(iter(inputs.values())))}


def lessons_of(views: int | str, split: int) -> tuple[Any, images.Lessons]:
    """The cut network, and what it learns from."""
    about, step = context(split), Distill(views=views)
    network, own = images._student(step, built(f"{START} > {CUT}", split), about)
    data = images.distillation_data(about, own.preprocessing or {})
    assert about.reference is not None
    teacher = Teacher.open(about.reference, about.task.labels, features=False)
    if views == FRESH:
        shown: Any = FreshViews(data, teacher, split, THREADS)
    else:
        shown = FixedViews(data, images.teacher_answers(teacher, data, about, views=int(views)))
    return network, images.Lessons(data, shown, with_views(step, views, network))


def epoch(split: int) -> dict[str, float]:
    """Seconds of an epoch: fresh views with the teacher in ONNX Runtime and in torch eager, and fixed views."""
    torch.set_num_threads(THREADS)
    about, found = context(split), {}
    network, fresh = lessons_of(FRESH, split)
    _, fixed = lessons_of(FIXED_VIEWS, split)
    assert about.reference is not None
    slow, eager = copy.copy(fresh.views), load_network(about.reference.path)

    def in_torch(inputs: dict[str, Any]) -> Any:
        with torch.no_grad():
            return eager(**objectives.tensors(inputs)).logits.numpy()

    slow._answer = in_torch  # type: ignore[method-assign]
    slow._teacher = replace(slow._teacher, logits_of=lambda rows: rows)
    ways = {"onnxruntime": fresh, "torch": replace(fresh, views=slow), "fixed views": fixed}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, lessons in ways.items():
            learner = images._Student(images.for_training(network), 0)
            objective = images.objective(Distill(), lessons, images.Training(), split)
            seconds[name].append(timed(learner, objective, Distill().batch_size, THREADS).epoch_s)
    found = {name: statistics.median(each) for name, each in seconds.items()}
    return found


def epochs_in(minutes: float, way: str, seconds: dict[str, float]) -> int:
    return max(1, int(60 * minutes / seconds["onnxruntime" if way == "patient" else "fixed views"]))


def train(way: str, split: int, seconds: dict[str, float]) -> dict[str, Any]:
    """The cut network after as many epochs as take MINUTES, in 8-bit integers."""
    step = WAYS[way].format(epochs=epochs_in(MINUTES, way, seconds))
    began = time.monotonic()
    recipe = " > ".join(part for part in (START, CUT, step, INTEGERS) if part)
    model = built(recipe, split)
    taken = time.monotonic() - began
    about = model.record.history.get("distill", {})
    return {
        "right": right(model, split),
        "reference": right(context(split).reference or model, split),
        "size_bytes": model.size_bytes,
        "reference_bytes": float_bytes(split),
        "path": str(model.path),
        "recipe": recipe,
        "seconds": taken,
        "epochs": [
            {name: row[name] for name in ("epoch", "validation_accuracy") if name in row}
            for row in about.get("epochs", [])
        ],
    }


def float_bytes(split: int) -> int:
    """Of the reference in float32, as torch runs it."""
    reference = context(split).reference
    assert reference is not None
    return 4 * sum(tensor.numel() for tensor in load_network(reference.path).parameters())


def peer(name: str, split: int, seconds: dict[str, float]) -> dict[str, Any]:
    """A peer that learns from the labels for as many epochs as take MINUTES by an epoch of fixed views."""
    epochs = epochs_in(MINUTES, "fixed views", seconds)
    began = time.monotonic()
    model = peers.PEERS[name].make(built(peers.START, split), context(split), STORE / "peer" / str(split), epochs)
    taken = time.monotonic() - began
    return {"right": right(model, split), "size_bytes": model.size_bytes, "path": str(model.path), "seconds": taken}


def latency(path: str, runtime: str | None, split: int) -> dict[str, float]:
    """In turns with the reference in torch eager, 2 threads, one photo."""
    about, model = context(split), load(path)
    assert about.reference is not None
    task, examples = about.task, about.task.examples("test")
    with Worker() as first, Worker() as second:
        first.open(about.reference, threads=THREADS)
        second.open(model, threads=THREADS, runtime=runtime)
        inputs = (judging_of(task).timing_input(each, examples) for each in (about.reference, model))
        timing = time_pair(first, second, *inputs, seconds=8)
    return {"latency_s": timing.candidate.median_s, "speedup": timing.ratio, "low": timing.low, "high": timing.high}


Job = tuple[str, str, Callable[[], Any]]


def jobs(splits: Sequence[int], rows: dict[str, Any]) -> list[Job]:
    """What can be made now: trainings follow the epochs' time, latencies the models."""
    found: list[Job] = [("epoch", "epoch", partial(epoch, splits[0]))]
    found += [
        ("recovery", f"recovery/{size:g} {split}", partial(recovery, size, split)) for split in splits for size in SIZES
    ]
    if "epoch" in rows:
        for split in splits:
            found += [("train", f"train/{way} {split}", partial(train, way, split, rows["epoch"])) for way in WAYS]
            found += [
                ("peer", f"peer/{name} {split}", partial(peer, name, split, rows["epoch"])) for name in peers.PEERS
            ]
    for key in [key for key in rows if key.startswith(("train/", "peer/")) and key.endswith(f" {splits[0]}")]:
        name = key.partition("/")[2].rpartition(" ")[0]
        time_it = partial(latency, rows[key]["path"], peers.RUNTIMES.get(name), splits[0])
        found.append(("latency", f"latency/{name}", time_it))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="all", choices=("all", *PARTS))
    parser.add_argument("--splits", type=int, nargs="+", default=SPLITS)
    parser.add_argument("--only", default="", help="rows whose key has this in it")
    options = parser.parse_args()
    results = Results(STORE / "results.json")
    for _ in range(3):  # what one pass makes lets the next one be made
        for part, key, make in jobs(options.splits, results.rows):
            if options.part in ("all", part) and options.only in key and key not in results.rows:
                results.put(key, make())
    train_back_tables.write(results.parts(), results.rows.get("epoch"), Path(ROOT / "docs" / "results"))


if __name__ == "__main__":
    main()
