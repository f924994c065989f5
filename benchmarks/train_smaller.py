"""Train it smaller: each method alone and together on flowers12, what distillation recovers, and what the loop costs.

    python benchmarks/train_smaller.py                      all of it; a call that was stopped goes on where it was
    python benchmarks/train_smaller.py --part overhead      one part: overhead, recovery, recipes, latency or tables
    python benchmarks/train_smaller.py --minutes 5          stops in time; the next call goes on

The models and results stay in runs/train_smaller/. The reference is MobileNetV2, finetuned, in torch eager float32,
saved in float32. Accuracy is of the test photos of several splits together; no model has seen its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from markdown import ROOT, provenance, table, write_between
from microbudget import methods
from microbudget.build import build
from microbudget.judge import Worker, time_pair
from microbudget.judge.answering import answers, one
from microbudget.judge.verdict import judge_pair
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipe import Recipe
from microbudget.tasks import Scores
from microbudget.tasks.images import ImageTask
from microbudget.units import Drop, format_bytes, format_seconds

ASSETS, STORE = ROOT.parent / "shared" / "assets", ROOT / "runs" / "train_smaller"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
REFERENCE = "finetune"
# What is compared. A method that is not there yet is left out, so that its recipes join by themselves.
RECIPES = {
    "ONNX alone": "finetune > export",
    "int8": "finetune > export > quantize",
    "resize": "resize(pixels=128) > finetune > export",
    "distill": "finetune > distill(width=0.5) > export",
    "prune": "finetune > prune(sparsity=0.5) > export",
    "resize, int8": "resize(pixels=128) > finetune > export > quantize",
    "distill, int8": "finetune > distill(width=0.5) > export > quantize",
    "prune, distill, int8": "finetune > prune(sparsity=0.5) > distill > export > quantize",
    "resize, distill, int8": "resize(pixels=128) > finetune > distill(width=0.5) > export > quantize",
    "resize, prune, distill, int8": (
        "resize(pixels=128) > finetune > prune(sparsity=0.5) > distill > export > quantize"
    ),
}
RECOVERY = "resize(pixels=128) > finetune > distill(width=0.5, curve=True)"
STEPS, BATCH, PIXELS = 12, 16, 128  # of the overhead: steps in a turn, photos in a step, their side
GOAL_RECOVERED, GOAL_MINUTES, GOAL_OVERHEAD = 0.70, 15, 1.05


class Results:
    """Rows by key in a JSON file, saved at every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def put(self, key: str, row: Any) -> None:
        self.rows[key] = row
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        os.replace(partial, self._path)
        print(key, json.dumps(row)[:300], file=sys.stderr, flush=True)


def known(recipe: str) -> bool:
    """Whether all its methods are there."""
    return {step.split("(")[0].strip() for step in recipe.split(">")} <= set(methods.names())


def context_of(seed: int) -> Context:
    task = ImageTask.open(PHOTOS, seed=seed, cache=STORE / "cache")
    return Context(task, STORE / "cache", seed, threads=2, progress=Progress())


def built(recipe: str, seed: int) -> tuple[Model, float]:
    """The model, and the seconds that were spent on it now: finished steps are not made again."""
    context = context_of(seed)
    reference = build(load(MODEL), Recipe.parse(REFERENCE), context, STORE / "models")[-1]
    context = Context(context.task, context.cache, seed, 2, reference, context.progress)
    started = time.monotonic()
    model = build(load(MODEL), Recipe.parse(recipe), context, STORE / "models")[-1]
    return model, time.monotonic() - started


def right(model: Model, seed: int) -> list[int]:
    """1 for each test photo that the model answers rightly."""
    task = context_of(seed).task
    examples = task.examples("test")
    return [int(value) for value in task.score(answers(model, task, examples), examples).numerator]


def overhead() -> dict[str, Any]:
    """Seconds of a step of our loop and of a plain torch loop, which take turns: same network, batches, optimizer.

    The network keeps its own 1001 outputs: what is timed does not depend on them.
    """
    import torch

    from microbudget import lessons
    from microbudget.classifiers import for_training
    from microbudget.runtimes.torch import load_network
    from microbudget.tasks.preprocess import Preprocessing
    from microbudget.train import Settings, train

    context = context_of(0)
    preprocessing = Preprocessing.parse(load(MODEL).record.preprocessing or {}).resized(PIXELS)
    examples = context.task.examples("train")[: STEPS * BATCH]
    lesson = replace(lessons.labelled(context.task, preprocessing, train=examples), judge=None)
    settings = Settings(epochs=1, batch_size=BATCH, learning_rate=1e-4, patience=None)
    networks = [for_training(load_network(MODEL)) for _ in range(2)]

    def plain() -> None:
        network = networks[0]
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        for batch in np.array_split(np.random.default_rng(0).permutation(len(examples)), STEPS):
            loss = lesson.loss(network, lesson.batch(batch, 0))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def ours() -> None:
        train(networks[1], lesson, settings, checkpoint=STORE / "overhead.pt", threads=2)
        (STORE / "overhead.pt").unlink()

    turns: list[tuple[float, float]] = []
    for _ in range(7):
        turns.append((_seconds(plain), _seconds(ours)))
    pairs = turns[1:]  # the first is for warming up
    ratios = [after / before for before, after in pairs]
    return {
        "plain_step_s": statistics.median(before for before, _ in pairs) / STEPS,
        "ours_step_s": statistics.median(after for _, after in pairs) / STEPS,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def recovery(seed: int) -> dict[str, Any]:
    """Test answers of the teacher, of the student just cut, and of the trained one; the curve on validation."""
    import torch

    from microbudget.methods.distill import Distill, student
    from microbudget.runtimes.torch import save_network

    teacher, _ = built("resize(pixels=128) > finetune", seed)
    made, seconds = built(RECOVERY, seed)
    context = context_of(seed)
    step = Recipe.parse(RECOVERY).steps[-1]
    assert isinstance(step, Distill)
    torch.manual_seed(seed)
    cut = STORE / "cut" / str(seed)
    cut.mkdir(parents=True, exist_ok=True)
    preprocessing = teacher.record.preprocessing or {}
    save_network(student.cut(teacher, step.depth, step.width, context.task.labels, seed), preprocessing, cut)
    history = made.record.history["distill"]
    return {
        "reference": right(built(REFERENCE, seed)[0], seed),
        "teacher": right(teacher, seed),
        "cut": right(load(cut), seed),
        "distilled": right(made, seed),
        "teacher_bytes": teacher.size_bytes,
        "distilled_bytes": made.size_bytes,
        "seconds": seconds,
        "curve": history["with_and_without"],
        "teacher_passes": history["teacher_passes"],
        "photos": history["photos"],
        "views": history["views"],
    }


def recipe_row(recipe: str, seed: int) -> dict[str, Any]:
    model, seconds = built(recipe, seed)
    return {"right": right(model, seed), "size_bytes": model.size_bytes, "seconds": seconds, "path": str(model.path)}


def latency(recipe: str) -> dict[str, Any]:
    """In turns with the reference in torch eager, 2 threads, one photo."""
    task = context_of(0).task
    reference, model = built(REFERENCE, 0)[0], built(recipe, 0)[0]
    examples = task.examples("test")
    with Worker() as first, Worker() as second:
        first.open(reference, threads=2)
        second.open(model, threads=2)
        timing = time_pair(first, second, one(reference, task, examples), one(model, task, examples), seconds=15)
    return {
        "reference_s": timing.reference.median_s,
        "latency_s": timing.candidate.median_s,
        "speedup": timing.ratio,
        "low": timing.low,
        "high": timing.high,
    }


def jobs(part: str, seeds: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Rows to make, by key."""
    recipes = {name: text for name, text in RECIPES.items() if known(text)}
    if part in ("all", "overhead"):
        yield "overhead", overhead
    if part in ("all", "recovery"):
        for seed in range(seeds):
            yield f"recovery {seed}", lambda seed=seed: recovery(seed)
    if part in ("all", "recipes"):
        for seed in range(seeds):
            yield f"recipe {REFERENCE} {seed}", lambda seed=seed: recipe_row(REFERENCE, seed)
            for text in recipes.values():
                yield f"recipe {text} {seed}", lambda text=text, seed=seed: recipe_row(text, seed)
    if part in ("all", "latency"):
        for text in recipes.values():
            yield f"latency {text}", lambda text=text: latency(text)


def joined(rows: dict[str, Any], key: str, what: str, seeds: int) -> Scores:
    """The answers of all splits together."""
    values = np.concatenate([rows[f"{key} {seed}"][what] for seed in range(seeds)])
    return Scores("accuracy", values.astype(np.float64), np.ones(len(values)))


def recipes_text(rows: dict[str, Any], seeds: int) -> str:
    """Each method alone and together."""
    reference = joined(rows, f"recipe {REFERENCE}", "right", seeds)
    whole = rows[f"recipe {REFERENCE} 0"]["size_bytes"]
    found = {name: text for name, text in RECIPES.items() if f"latency {text}" in rows and f"recipe {text} 0" in rows}
    base = statistics.median(rows[f"latency {text}"]["reference_s"] for text in found.values())
    lines = [
        ["torch eager, float32", format_bytes(whole), "1", format_seconds(base), "1", f"{reference.value:.2%}", ""]
    ]
    for name, text in found.items():
        scores, timing = joined(rows, f"recipe {text}", "right", seeds), rows[f"latency {text}"]
        verdict = judge_pair(reference, scores, Drop(0.01))
        size = rows[f"recipe {text} 0"]["size_bytes"]
        lines.append([
            name, format_bytes(size), f"{whole / size:.1f}", format_seconds(timing["latency_s"]),
            f"{timing['speedup']:.1f} ({timing['low']:.1f}..{timing['high']:.1f})", f"{scores.value:.2%}",
            f"{verdict.change * 100:+.2f} ({verdict.change_low * 100:+.1f}..{verdict.change_high * 100:+.1f}) pt",
        ])  # fmt: skip
    head = ["methods", "size", "smaller", "latency", "faster", "accuracy", "change"]
    listed = "\n".join(f"* {name}: `{text}`" for name, text in found.items())
    return "\n\n".join([
        table(head, lines),
        listed,
        f"Accuracy of {len(reference.numerator)} held-out photos of {seeds} splits, paired; latency of one photo with 2"
        " threads, in turns with torch; intervals at 95 %. Goal: 12 times as fast, 10 times as small, within 1 point.",
        provenance(Path(__file__).name),
    ])  # fmt: skip


def recovery_text(rows: dict[str, Any], seeds: int) -> str:
    """What distillation recovers, and what the teacher is worth."""
    found = [rows[f"recovery {seed}"] for seed in range(seeds)]
    teacher, cut, distilled = (joined(rows, "recovery", what, seeds).value for what in ("teacher", "cut", "distilled"))
    recovered = (distilled - cut) / (teacher - cut)
    lines = []
    for place, row in enumerate(found[0]["curve"]):
        quality = [
            statistics.mean(one["curve"][place][f"quality_{who}_teacher"] for one in found)
            for who in ("with", "without")
        ]
        lines.append(
            [
                f"{row['labels_share']:.0%}",
                *(f"{value:.2%}" for value in quality),
                f"{(quality[0] - quality[1]) * 100:+.1f} pt",
            ]
        )
    minutes = statistics.mean(row["seconds"] for row in found) / 60
    one = found[0]
    return "\n\n".join([
        table(["labels", "with the teacher", "without", "the teacher is worth"], lines),
        f"A MobileNetV2 of half the width, cut from the finetuned one at 128 pixels"
        f" ({format_bytes(one['teacher_bytes'])} to {format_bytes(one['distilled_bytes'])}), the same steps in every"
        f" cell; accuracy on validation, mean of {seeds} splits. The teacher has learnt from all labels.",
        f"On {len(joined(rows, 'recovery', 'teacher', seeds).numerator)} held-out photos: the teacher {teacher:.2%},"
        f" the student just cut {cut:.2%}, distilled {distilled:.2%}: **{recovered:.0%} of what the cut lost is"
        f" recovered** (goal {GOAL_RECOVERED:.0%}). All six trainings of the table took {minutes:.1f} minutes (goal for"
        f" one: at most {GOAL_MINUTES}). The teacher saw {one['teacher_passes']:,} pictures: {one['photos']} photos in"
        f" {one['views']} views, each once.",
        provenance(Path(__file__).name),
    ])  # fmt: skip


def overhead_text(rows: dict[str, Any]) -> str:
    row = rows["overhead"]
    return (
        f"A step of {BATCH} photos of {PIXELS} pixels through MobileNetV2: plain torch loop"
        f" {format_seconds(row['plain_step_s'])}, ours {format_seconds(row['ours_step_s'])},"
        f" {row['ratio']:.3f} times as long ({row['ratio_low']:.3f}..{row['ratio_high']:.3f}; goal: at most"
        f" {GOAL_OVERHEAD}), with clipping, schedule, checks for NaN and a checkpoint at the end; both take turns."
        f" {provenance(Path(__file__).name)}"
    )


def write(rows: dict[str, Any], seeds: int) -> None:
    """Every text whose rows are all there."""
    if "overhead" in rows:
        write_between(ROOT / "docs" / "distill.md", "overhead", overhead_text(rows))
    if all(f"recovery {seed}" in rows for seed in range(seeds)):
        write_between(ROOT / "docs" / "distill.md", "recovery", recovery_text(rows, seeds))
    if any(key.startswith("latency") for key in rows):
        write_between(ROOT / "docs" / "distill.md", "train-smaller", recipes_text(rows, seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", default="all", choices=("all", "overhead", "recovery", "recipes", "latency", "tables")
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--again", action="store_true", help="make rows again that stand")
    options = parser.parse_args()
    results, deadline = Results(STORE / "results.json"), time.monotonic() + options.minutes * 60
    for key, make in jobs(options.part, options.seeds):
        if time.monotonic() > deadline:
            print("time is up: the same call goes on", file=sys.stderr)
            break
        if options.again or key not in results.rows:
            results.put(key, make())
    write(results.rows, options.seeds)


if __name__ == "__main__":
    main()
