"""Images: the shipped MobileNetV2 against the torch eager float32 one, on flowers12, and the curve over input sizes.

    python benchmarks/images.py            writes docs/results/images.md and the README's table (about 15 minutes)

Both are opened in worker processes of their own and timed interleaved (judge.time_pair), with 1 and 2 threads. The
reference is the finetuned network in float32, as transformers loads it and saves it. Accuracy is of the test photos of
several splits together, each answered by a model that has not seen it: one split's test has only about a hundred.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

import readme
from figures import save_latency_figure
from markdown import PICTURES, RESULTS, ROOT, provenance, table, write_between
from microbudget.judge import Worker, time_pair
from microbudget.judge.judging import Opening, judging_of
from microbudget.judge.statistics import wilson
from microbudget.judge.timing import PairTiming
from microbudget.judge.verdict import Verdict, judge_pair
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Scores
from microbudget.units import Drop, format_bytes, format_seconds

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
REFERENCE = Recipe.parse("finetune()")
SIZES = (224, 192, 160, 128, 96)
RECIPES = {
    "ONNX Runtime, float32, 224 px": (Recipe.parse("finetune() > export()"), None),
    **{
        f"ONNX Runtime, int8, {size} px": (
            Recipe.parse((f"resize(pixels={size}) > " if size < 224 else "") + "finetune() > export() > quantize()"),
            None,
        )
        for size in SIZES
    },
    "OpenVINO, int8, 224 px": (Recipe.parse("finetune() > export() > quantize()"), "openvino"),
}


@dataclass
class Row:
    """One model over the splits."""

    size_bytes: int = 0
    numerators: list[np.ndarray] = field(default_factory=list)
    timings: dict[int, PairTiming] = field(default_factory=dict)

    def scores(self) -> Scores:
        joined = np.concatenate(self.numerators)
        return Scores("accuracy", joined, np.ones_like(joined))


def judge_accuracy(rows: dict[str, Row], seeds: int, store: Path) -> dict[str, Model]:
    """Build every recipe on every split and add up its answers on test. Returns the models of the first split."""
    first: dict[str, Model] = {}
    for seed in range(seeds):
        task = ImageTask.open(PHOTOS, DataOptions(seed=seed, cache=store / "cache"))
        context = Context(task, store / "cache", seed)
        for name, (recipe, runtime) in {"torch": (REFERENCE, None), **RECIPES}.items():
            model = build(load(MODEL), recipe, context, store / "models")[-1]
            first.setdefault(name, model)
            examples = task.examples("test")
            scores = task.score(judging_of(task).answers(model, examples, opening=Opening(runtime=runtime)), examples)
            rows[name].numerators.append(scores.numerator)
            rows[name].size_bytes = model.size_bytes
            print(f"split {seed}: {name}: {scores.value:.4f}", file=sys.stderr, flush=True)
    return first


def time_all(rows: dict[str, Row], models: dict[str, Model], seconds: float, store: Path) -> None:
    """Each model interleaved with the reference, with 1 and 2 threads."""
    task = ImageTask.open(PHOTOS, DataOptions(seed=0, cache=store / "cache"))
    examples = task.examples("test")
    for threads in (1, 2):
        with Worker() as reference:
            reference.open(models["torch"], threads=threads)
            sample = judging_of(task).timing_input(models["torch"], examples)
            for name, (_, runtime) in RECIPES.items():
                with Worker() as worker:
                    worker.open(models[name], threads=threads, runtime=runtime)
                    own = judging_of(task).timing_input(models[name], examples)
                    rows[name].timings[threads] = time_pair(reference, worker, sample, own, seconds=seconds)
                print(
                    f"{threads} threads: {name}: {rows[name].timings[threads].ratio:.2f}", file=sys.stderr, flush=True
                )


def _speed(timing: PairTiming) -> str:
    return f"{timing.ratio:.1f} ({timing.low:.1f}..{timing.high:.1f})"


def text(rows: dict[str, Row]) -> str:
    """The tables."""
    reference = rows["torch"]
    speeds = [head for threads in ("1 thread", "2 threads") for head in (threads, f"speedup, {threads}")]
    head = ["model", "size", "compression", *speeds, "accuracy", "change"]
    # The reference was timed interleaved with each of the others: its latency is the median of those.
    base = [
        float(np.median([row.timings[threads].reference.median_s for row in rows.values() if row.timings]))
        for threads in (1, 2)
    ]
    lines = [
        ["torch eager, float32, 224 px", format_bytes(reference.size_bytes), "1", format_seconds(base[0]), "1",
         format_seconds(base[1]), "1", f"{reference.scores().value:.2%}", ""]
    ]  # fmt: skip
    verdicts: dict[str, Verdict] = {}
    for name, row in rows.items():
        if name == "torch":
            continue
        verdicts[name] = verdict = judge_pair(reference.scores(), row.scores(), Drop(0.005))
        change = f"{verdict.change * 100:+.2f} ({verdict.change_low * 100:+.1f}..{verdict.change_high * 100:+.1f}) pt"
        one_, two = row.timings[1], row.timings[2]
        lines.append(
            [name, format_bytes(row.size_bytes), f"{reference.size_bytes / row.size_bytes:.2f}",
             format_seconds(one_.candidate.median_s), _speed(one_), format_seconds(two.candidate.median_s), _speed(two),
             f"{row.scores().value:.2%}", change]
        )  # fmt: skip
    shipped = "ONNX Runtime, int8, 224 px"
    return "\n\n".join(
        [
            table(head, lines),
            f"Accuracy of {len(reference.scores().numerator)} held-out photos, paired; latency of one photo, prepared"
            " tensor in, logits out, interleaved with torch; intervals at 95 %. Goals at 224 pixels: 6 times as fast,"
            f" 3.6 times as small, at most 0.5 points lost (verdict: {verdicts[shipped].decision}; "
            f"{verdicts[shipped].reason}).",
            provenance(Path(__file__).name),
        ]
    )


def draw(rows: dict[str, Row]) -> None:
    """The picture of the README: accuracy against latency with 2 threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    base = float(np.median([row.timings[2].reference.median_s for row in rows.values() if row.timings])) * 1e3
    groups: dict[str, list[tuple[float, float, float, float, str]]] = {}
    for name, row in rows.items():
        low, high = wilson(int(row.scores().numerator.sum()), len(row.scores().numerator))
        latency = row.timings[2].candidate.median_s * 1e3 if row.timings else base
        label = "torch eager, float32" if name == "torch" else ", ".join(name.split(", ")[:2])
        pixels = "224 px" if name == "torch" else name.split(", ")[2]
        groups.setdefault(label, []).append((latency, row.scores().value * 100, low * 100, high * 100, pixels))
    for (label, points), marker in zip(groups.items(), "sDo^", strict=False):
        x, y, low, high, names = (np.array(column) for column in zip(*sorted(points), strict=True))
        axes.errorbar(x, y, (y - low, high - y), marker=marker, capsize=2, label=label, linewidth=1)
        for place in zip(x, y, names, strict=True):
            axes.annotate(str(place[2]), place[:2], textcoords="offset points", xytext=(5, 5), fontsize=8)
    save_latency_figure(figure, axes, PICTURES / "images.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each pair that is timed")
    options = parser.parse_args()
    store = Path(mkdtemp(prefix="microbudget-"))
    rows = {name: Row() for name in ("torch", *RECIPES)}
    try:
        models = judge_accuracy(rows, options.seeds, store)
        time_all(rows, models, options.seconds, store)
    finally:
        shutil.rmtree(store, ignore_errors=True)
    page = text(rows)
    print(page)
    draw(rows)
    write_between(RESULTS / "images.md", "images", page)
    readme.write("images", page)


if __name__ == "__main__":
    main()
