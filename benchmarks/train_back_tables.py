"""The tables and the figure of train_back.py: docs/results/train_back.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import save_figure
from markdown import PICTURES, provenance, table, write_between
from microbudget.judge.verdict import judge_pair
from microbudget.task import Scores
from microbudget.units import Drop, format_bytes, format_seconds

SCRIPT = "train_back.py"
PICTURE = PICTURES / "train_back.svg"
DROP, FASTER, SMALLER = 0.01, 12, 10  # the goal
CUTS = {
    "whole": "not cut",
    "bare": "the cut alone",
    "matched": "batch norm's statistics matched",
    "torch-pruning": "Torch-Pruning, new statistics",
    "fitted": "least squares (`repair`, the default)",
}
Rows = Mapping[str, Mapping[str, Any]]


def joined(rows: Mapping[str, Any], name: str, column: str = "right") -> list[int]:
    """The answers of all splits that are there."""
    keys = sorted(key for key in rows if key.rpartition(" ")[0] == name)
    return [value for key in keys for value in rows[key][column]]


def percent(right: Sequence[int]) -> str:
    return f"{np.mean(right):.1%} of {len(right)}" if right else ""


def recovery_text(rows: Mapping[str, Any]) -> str | None:
    """Accuracy right after the cut."""
    sizes = sorted({key.partition(" ")[0] for key in rows}, key=float, reverse=True)
    if not sizes:
        return None
    lines = [[name, *(percent(joined(rows, size, cut)) for size in sizes)] for cut, name in CUTS.items()]
    seconds = max(row["seconds"] for row in rows.values())
    back = []
    for size in sizes:
        whole, bare, fitted = (float(np.mean(joined(rows, size, cut))) for cut in ("whole", "bare", "fitted"))
        back.append(f"{(fitted - bare) / (whole - bare):.0%} at {float(size):g}")
    return "\n\n".join([
        table(["right after the cut, no training", *(f"{float(size):g} of the parameters" for size in sizes)], lines),
        f"Test photos, answered rightly. The repair sees {next(iter(rows.values()))['examples']} training photos"
        f" without their labels and takes at most {format_seconds(seconds)}; it brings back {' and '.join(back)} of"
        " what the cut lost. Goal: half in under a minute.",
        provenance(SCRIPT),
    ])  # fmt: skip


def training_text(rows: Rows, epoch: Mapping[str, float] | None) -> str | None:
    """Accuracy after equal minutes of training, in integers."""
    trained = {**rows.get("train", {}), **rows.get("peer", {})}
    names = list(dict.fromkeys(key.rpartition(" ")[0] for key in trained))
    lines = [line for name in names if (line := _line(name, trained, rows)) is not None]
    if not lines or epoch is None:
        return None
    head = [
        "the network at 0.35 of its parameters",
        "size",
        "speedup",
        "accuracy",
        "change, within 1 point?",
        "made in",
    ]
    return "\n\n".join([
        table(head, lines),
        "MobileNetV2 at 160 pixels, pruned, trained and in 8-bit integers; the change is from the fine-tuned network of"
        " 224 pixels in float32 (sizes too), speed against torch eager on 2 threads, one photo, interleaved; intervals"
        f" at 95 %. Goal: {FASTER} times as fast and {SMALLER} times as small within 1 point. An epoch takes"
        f" {format_seconds(epoch['onnxruntime'])} with fresh views and the teacher in ONNX Runtime,"
        f" {format_seconds(epoch['torch'])} with the teacher in torch ({epoch['torch'] / epoch['onnxruntime']:.2f}"
        f" times as long; goal: 2 times), {format_seconds(epoch['fixed views'])} with fixed views, whose answers are"
        " kept.",
        provenance(SCRIPT),
    ])  # fmt: skip


def _line(name: str, trained: Mapping[str, Any], rows: Rows) -> list[str] | None:
    keys = sorted(key for key in trained if key.rpartition(" ")[0] == name)
    timing = rows.get("latency", {}).get(name)
    ours = rows.get("train", {})
    splits = [key.rpartition(" ")[2] for key in keys]
    whole = [ours.get(f"repaired, not trained {split}") for split in splits]
    if timing is None or None in whole:
        return None
    reference = _scores([value for row in whole if row for value in row["reference"]])
    verdict = judge_pair(reference, _scores(joined(trained, name)), Drop(DROP))
    first = trained[keys[0]]
    smaller = (whole[0] or {})["reference_bytes"] / first["size_bytes"]
    return [
        name,
        f"{format_bytes(first['size_bytes'])} ({smaller:.1f} times smaller)",
        f"{timing['speedup']:.1f} ({timing['low']:.1f}..{timing['high']:.1f})",
        percent(joined(trained, name)),
        f"{verdict.change * 100:+.2f} ({verdict.change_low * 100:+.1f}..{verdict.change_high * 100:+.1f}) pt,"
        f" {verdict.decision}",
        format_seconds(max(trained[key]["seconds"] for key in keys)),
    ]


def _scores(right: Sequence[int]) -> Scores:
    return Scores("accuracy", np.array(right, np.float64), np.ones(len(right)))


def draw(rows: Mapping[str, Any], epoch: Mapping[str, float] | None) -> bool:
    """Accuracy on validation against minutes of training; whether there was anything to draw."""
    from matplotlib.figure import Figure

    if epoch is None:
        return False
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for name, seconds in (("patient", epoch["onnxruntime"]), ("fixed views", epoch["fixed views"])):
        for key in sorted(key for key in rows if key.rpartition(" ")[0] == name and rows[key]["epochs"]):
            found = rows[key]["epochs"]
            minutes = [row["epoch"] * seconds / 60 for row in found]
            axes.plot(minutes, [100 * row["validation_accuracy"] for row in found], label=f"{key}", linewidth=1.2)
            drawn = True
    if drawn:
        axes.set(xlabel="minutes of training", ylabel="accuracy on validation, %")
        axes.legend(frameon=False, title="way, split")
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, PICTURE)
    return drawn


def write(rows: Rows, epoch: Mapping[str, float] | None, folder: Path) -> None:
    """What there are rows for."""
    page = folder / "train_back.md"
    for name, text in (
        ("recovery", recovery_text(rows.get("recovery", {}))),
        ("training", training_text(rows, epoch)),
    ):
        if text is not None:
            write_between(page, name, text)
    draw(rows.get("train", {}), epoch)
