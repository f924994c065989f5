"""The texts and pictures of train_smaller.py, from the rows that are there."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from figures import save_latency_figure
from markdown import PICTURES, RESULTS, ROOT, provenance, table, write_between
from microbudget.judge.statistics import wilson
from microbudget.judge.verdict import judge_pair
from microbudget.task import Scores
from microbudget.units import Drop, format_bytes, format_seconds
from train_smaller_peers import PEERS, START
from train_smaller_settings import BATCH, EPOCHS, GRID, ORDERS, PIXELS, RECIPES, REFERENCE, SPLITS

PICTURE = PICTURES / "train_smaller.svg"
PAGES = {
    "overhead": ROOT / "docs" / "training.md",
    "recovery": ROOT / "docs" / "distill.md",
    "curve": ROOT / "docs" / "distill.md",
    "orders": RESULTS / "train_smaller.md",
    "train-smaller": RESULTS / "train_smaller.md",
}
SCRIPT = "train_smaller.py"
GOAL_FASTER, GOAL_SMALLER, GOAL_DROP = 12, 10, 0.01
GOAL_RECOVERED, GOAL_MINUTES, GOAL_OVERHEAD = 0.70, 15, 1.05
Rows = dict[str, Any]


def joined(rows: Rows, key: str, what: str, splits: Sequence[int]) -> Scores:
    """The answers of all splits together."""
    values = np.concatenate([rows[f"{key} {split}"][what] for split in splits])
    return Scores("accuracy", values.astype(np.float64), np.ones(len(values)))


def whole(rows: Rows, text: str, splits: Sequence[int]) -> bool:
    """Whether a recipe was judged on all splits and timed."""
    return f"latency {text}" in rows and all(f"recipe {text} {split}" in rows for split in splits)


def judged(rows: Rows, recipes: dict[str, str], splits: Sequence[int]) -> tuple[str, list[str]] | None:
    """The table of these recipes by name, and for each the verdict in words; None before the rows are there."""
    found = {name: text for name, text in recipes.items() if whole(rows, text, splits)}
    if not found or any(f"recipe {REFERENCE} {split}" not in rows for split in splits):
        return None
    reference, size = (
        joined(rows, f"recipe {REFERENCE}", "right", splits),
        rows[f"recipe {REFERENCE} {splits[0]}"]["size_bytes"],
    )
    base = statistics.median(rows[f"latency {text}"]["reference_s"] for text in found.values())
    lines = [["torch eager, float32", format_bytes(size), "1", format_seconds(base), "1", f"{reference.value:.2%}", ""]]
    reached = []
    for name, text in found.items():
        scores, timing = joined(rows, f"recipe {text}", "right", splits), rows[f"latency {text}"]
        verdict = judge_pair(reference, scores, Drop(GOAL_DROP))
        smaller = size / rows[f"recipe {text} {splits[0]}"]["size_bytes"]
        lines.append([
            name, format_bytes(rows[f"recipe {text} {splits[0]}"]["size_bytes"]), f"{smaller:.1f}",
            format_seconds(timing["latency_s"]), f"{timing['speedup']:.1f} ({timing['low']:.1f}..{timing['high']:.1f})",
            f"{scores.value:.2%}",
            f"{verdict.change * 100:+.2f} ({verdict.change_low * 100:+.1f}..{verdict.change_high * 100:+.1f}) pt,"
            f" {verdict.decision}",
        ])  # fmt: skip
        if timing["speedup"] >= GOAL_FASTER and smaller >= GOAL_SMALLER:
            within = "reached by the estimate" if verdict.change >= -GOAL_DROP else "missed"
            reached.append(f"{within} by *{name}* (compression {smaller:.1f}, speedup {timing['speedup']:.1f})")
    head = ["methods", "size", "compression", "latency", "speedup", "accuracy", "change, within 1 point?"]
    return table(head, lines), reached


def recipes_text(rows: Rows, splits: Sequence[int]) -> str | None:
    """Each method alone and together, and the peer."""
    found = judged(rows, {**RECIPES, **{name: name for name in PEERS}}, splits)
    if found is None:
        return None
    count = (
        len(joined(rows, f"recipe {RECIPES['int8']}", "right", splits).numerator)
        if whole(rows, RECIPES["int8"], splits)
        else 0
    )
    listed = "\n".join(f"* {name}: `{text}`" for name, text in RECIPES.items() if whole(rows, text, splits))
    for name, peer in PEERS.items():
        if whole(rows, name, splits):
            listed += f"\n* {name}: `{START}`, {peer.about}, as many epochs of our loop on the labels, our export"
    reached = "; ".join(found[1]) or "missed, none is as fast and small"
    return "\n\n".join([
        found[0],
        listed,
        f"Accuracy of {count} held-out photos of {len(splits)} split{'s' * (len(splits) > 1)}, paired; latency of one"
        " photo with 2 threads, interleaved with torch; intervals at 95 %, and the verdict on a limit of 1 point. Goal:"
        f" {GOAL_FASTER} times as fast, {GOAL_SMALLER} times as small, within 1 point: {reached}.",
        provenance(SCRIPT),
    ])  # fmt: skip


def orders_text(rows: Rows, splits: Sequence[int]) -> str | None:
    """The same methods in another order."""
    found = judged(rows, ORDERS, splits[:1])
    if found is None:
        return None
    listed = "\n".join(f"* {name}: `{text}`" for name, text in ORDERS.items() if whole(rows, text, splits[:1]))
    note = (
        f"{EPOCHS} epochs of training in every order, and the same options but in the last, which is narrowed before it"
        f" is pruned; one split. {provenance(SCRIPT)}"
    )
    return "\n\n".join([found[0], listed, note])


def recovery_text(rows: Rows, splits: Sequence[int]) -> str | None:
    """What distillation recovers, and what the teacher is worth on test."""
    if any(f"recovery {split}" not in rows for split in splits):
        return None
    names = ("reference", "uncut", "cut", "distilled", "without_teacher")
    teacher, uncut, cut, distilled, alone = (joined(rows, "recovery", name, splits).value for name in names)
    found = [rows[f"recovery {split}"] for split in splits]
    one, minutes = found[0], max(row["seconds"] for row in found) / 60
    lost = uncut - cut
    recovered = [f"{(value - cut) / lost:.0%}" if lost > 0 else "nothing was lost" for value in (distilled, alone)]
    lines = [
        ["the teacher, at 224 pixels", f"{teacher:.2%}", ""],
        ["the model at 128 pixels, uncut", f"{uncut:.2%}", "100%"],
        ["cut to half the width", f"{cut:.2%}", "0%"],
        ["trained on the labels alone", f"{alone:.2%}", recovered[1]],
        ["distilled", f"{distilled:.2%}", recovered[0]],
    ]
    return "\n\n".join([
        table(["MobileNetV2", "test accuracy", "recovered of what the cut lost"], lines),
        f"{len(joined(rows, 'recovery', 'cut', splits).numerator)} held-out photos; {format_bytes(one['uncut_bytes'])}"
        f" to {format_bytes(one['distilled_bytes'])}; the same steps with and without the teacher. Goal: distilled, at"
        f" least {GOAL_RECOVERED:.0%} in at most {GOAL_MINUTES} minutes; one distillation with empty caches took"
        f" **{minutes:.1f} minutes**. The teacher made {one['teacher_passes']:,} forward passes: {one['photos']} photos"
        f" in {one['views']} views, each once.",
        provenance(SCRIPT),
    ])  # fmt: skip


def curve_text(rows: Rows) -> str | None:
    """With and without the teacher at several shares of the labels."""
    if "curve" not in rows:
        return None
    lines = []
    for row in rows["curve"]["curve"]:
        taught, alone = row["quality_with_teacher"], row["quality_without_teacher"]
        lines.append(
            [f"{row['labels_share']:.0%}", f"{taught:.2%}", f"{alone:.2%}", f"{(taught - alone) * 100:+.1f} pt"]
        )
    return "\n\n".join([
        table(["labels", "with the teacher", "without", "the teacher is worth"], lines),
        "The same student with a new head in every cell, the same steps; accuracy on validation, one split. The teacher"
        f" has learnt from all labels. {provenance(SCRIPT)}",
    ])  # fmt: skip


def overhead_text(rows: Rows) -> str | None:
    """What the loop costs."""
    if "overhead" not in rows:
        return None
    row = rows["overhead"]
    return (
        f"A step of {BATCH} photos of {PIXELS} pixels through MobileNetV2: plain torch loop"
        f" {format_seconds(row['plain_step_s'])}, ours {format_seconds(row['ours_step_s'])},"
        f" {row['ratio']:.3f} times as long ({row['ratio_low']:.3f}..{row['ratio_high']:.3f}; goal: at most"
        f" {GOAL_OVERHEAD}), with clipping, schedule, checks for NaN and a checkpoint at the end; the two are"
        f" interleaved. {provenance(SCRIPT)}"
    )


def draw(rows: Rows, split: int) -> bool:
    """Accuracy against latency of each method alone and of all; whether there was anything to draw."""
    from matplotlib.figure import Figure

    lines = {
        name: [text for text in texts if whole(rows, text, [split])]
        for name, texts in {**GRID, **{name.split(",")[0]: [name] for name in PEERS}}.items()
    }
    lines = {name: texts for name, texts in lines.items() if texts}
    if not lines or f"recipe {REFERENCE} {split}" not in rows:
        return False
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    base = statistics.median(rows[f"latency {text}"]["reference_s"] for texts in lines.values() for text in texts)
    _points(axes, rows, split, [(base, REFERENCE)], "torch eager, float32", "s")
    for (name, texts), marker in zip(lines.items(), itertools.cycle("oD^v*PX"), strict=False):
        _points(axes, rows, split, [(rows[f"latency {text}"]["latency_s"], text) for text in texts], name, marker)
    save_latency_figure(figure, axes, PICTURE)
    return True


def _points(axes: Any, rows: Rows, split: int, points: list[tuple[float, str]], label: str, marker: str) -> None:
    drawn = []
    for latency_s, text in sorted(points):
        right = rows[f"recipe {text} {split}"]["right"]
        low, high = wilson(sum(right), len(right))
        drawn.append((latency_s * 1e3, 100 * sum(right) / len(right), 100 * low, 100 * high))
    x, y, low, high = (np.array(column) for column in zip(*drawn, strict=True))
    axes.errorbar(x, y, (y - low, high - y), marker=marker, capsize=2, label=label, linewidth=1)


def write(rows: Rows, splits: Sequence[int]) -> None:
    """Every text whose rows are there."""
    picture = f"![Accuracy against latency of each method alone and of all](../pictures/{PICTURE.name})"
    pictured = [picture] if draw(rows, splits[0]) else []
    texts = {
        "overhead": overhead_text(rows),
        "recovery": recovery_text(rows, [split for split in SPLITS if f"recovery {split}" in rows] or splits),
        "curve": curve_text(rows),
        "orders": orders_text(rows, splits),
        "train-smaller": _joined(pictured, recipes_text(rows, splits)),
    }
    for name, text in texts.items():
        if text is not None:
            write_between(PAGES[name], name, text)


def _joined(before: list[str], text: str | None) -> str | None:
    return None if text is None else "\n\n".join([*before, text])
