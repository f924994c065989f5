"""The tables and the figure of `specialists.py`, written into docs/results/text.md and docs/pictures/text.svg."""

from __future__ import annotations

from typing import Any

import numpy as np

from markdown import PICTURES, RESULTS, provenance, table, write_between
from microbudget.judge.energy import estimate
from microbudget.judge.statistics import wilson
from microbudget.machine import processor
from microbudget.units import format_joules
from specialists_ways import FEW, FROZEN, INT8, PEER, SETS, SMALLEST, STATIC, TORCH, WAYS, WORDS, ZERO

Parts = dict[str, Any]  # way -> its row
LABELS = (16, 100, 1000, 0)
SMALL = (WORDS, STATIC, INT8)
# What the figure shows: its label, and where that is, in points.
DRAWN = {
    WORDS: ("words", (7, -3)),
    STATIC: ("static embeddings", (7, -3)),
    FROZEN: ("frozen MiniLM", (-78, -3)),
    TORCH: ("fine-tuned MiniLM, torch", (-50, 8)),
    INT8: ("int8", (-22, 6)),
    SMALLEST: ("trimmed, tokens in 4 bits", (7, -8)),
    ZERO: ("SmolLM2-135M, zero-shot", (7, -3)),
    FEW: ("SmolLM2-135M, 16 examples", (-60, 8)),
}


def summary(parts: Parts) -> str:
    """The table of one set with all labels in Markdown."""
    rows = []
    for way in WAYS:
        if way not in parts:
            continue
        row, right = parts[way], np.array(parts[way]["right"])
        low, high = wilson(float(right.sum()), len(right))
        size, speed = row["size_bytes"], row["speed"]
        rows.append(
            [
                way,
                f"{100 * right.mean():.1f} ({100 * low:.1f}..{100 * high:.1f})",
                f"{size / 1e6:.2f}" if size else "",
                f"{speed[0] * 1e3:.3g}" if speed else "",
                format_joules(joules(row)) if speed else "",
                f"{speed[1]:.3g} ({speed[2]:.3g}..{speed[3]:.3g})" if speed else "",
            ]
        )
    head = ("way", "accuracy % (95 %)", "MB", "ms, 1 thread", "energy", "times as fast")
    return table(head, rows)


def joules(row: Any) -> float:
    """Estimated, of one answer: the seconds of one busy thread."""
    return estimate(row["speed"][0], processor.describe().get("cpu")).joules


def goals(parts: Parts) -> str:
    """The goals of SST-2 with all labels, reached or missed, in Markdown."""
    right = {way: 100 * float(np.mean(row["right"])) for way, row in parts.items()}
    size = {way: row["size_bytes"] / 1e6 for way, row in parts.items()}
    speed = {way: row["speed"][1] for way, row in parts.items() if row["speed"]}
    lost, smaller = right[TORCH] - right[INT8], size[PEER] / size[SMALLEST]
    faster = speed[INT8] / speed[PEER]
    rows = [
        (f"{INT8}: accuracy", "at least 89 %", right[INT8], right[INT8] >= 89),
        (f"{INT8}: points lost to float", "at most 0.5", lost, lost <= 0.5),
        (f"{INT8}: MB", "under 25", size[INT8], size[INT8] < 25),
        (f"{INT8}: times as fast as torch", "at least 4", speed[INT8], speed[INT8] >= 4),
        (f"{SMALLEST}: times smaller than the peer's", "1.5, or the next", smaller, smaller >= 1.5),
        (f"{INT8}: times as fast as the peer's", "1.3, or the one before", faster, faster >= 1.3),
        (f"{STATIC}: accuracy", "at least 80 %", right[STATIC], right[STATIC] >= 80),
        (f"{STATIC}: MB", "under 8", size[STATIC], size[STATIC] < 8),
        (f"{STATIC}: times as fast as the encoder in torch", "100", speed[STATIC], speed[STATIC] >= 100),
    ]
    if FEW in speed:
        cheaper = {way: speed[way] / speed[FEW] for way in SMALL}
        rows += [
            (f"{way}: times cheaper an answer than {FEW}", "100", ratio, ratio >= 100) for way, ratio in cheaper.items()
        ]
    shown = [(what, goal, f"{found:.3g}", "reached" if met else "missed") for what, goal, found, met in rows]
    return table(("goal", "wanted", "measured", ""), shown)


def by_labels(every: dict[str, Parts], name: str) -> str:
    """Accuracy of each way at so many labels a class, in Markdown."""
    columns = [labels for labels in LABELS if f"{name}-{labels}" in every]
    rows = []
    for way in WAYS:
        found = [every[f"{name}-{labels}"].get(way) for labels in columns]
        if any(found):
            rows.append([way, *(f"{100 * np.mean(row['right']):.1f}" if row else "" for row in found)])
    head = ("accuracy %", *("all labels" if labels == 0 else f"{labels} a class" for labels in columns))
    return table(head, rows)


def crossing(every: dict[str, Parts], name: str) -> str:
    """From how many labels on each small model has more right than the language model with examples, on its texts."""
    asked_ways = [parts[FEW] for key, parts in every.items() if key.startswith(f"{name}-") and FEW in parts]
    if not asked_ways:
        return ""
    generalist = max(asked_ways, key=lambda row: float(np.mean(row["right"])))
    asked = len(generalist["right"])
    found = []
    for way in SMALL:
        better = [
            labels
            for labels in LABELS
            if way in (parts := every.get(f"{name}-{labels}", {}))
            and np.mean(parts[way]["right"][:asked]) > np.mean(generalist["right"])
        ]
        where = "never" if not better else "with all labels" if better[0] == 0 else f"from {better[0]} labels a class"
        found.append(f"{way}: {where}")
    return f"More right than {FEW} ({100 * np.mean(generalist['right']):.1f} % of {asked} texts): {'; '.join(found)}."


def draw(parts: Parts) -> None:
    """Accuracy against energy an answer, of SST-2 with all labels."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for way, (label, offset) in DRAWN.items():
        if way not in parts:
            continue
        x, y = 1e3 * joules(parts[way]), 100 * float(np.mean(parts[way]["right"]))
        axes.plot(x, y, "o", color="tab:red" if way in (ZERO, FEW) else "tab:blue")
        axes.annotate(label, (x, y), textcoords="offset points", xytext=offset, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("estimated energy of an answer, one thread (mJ)")
    axes.set_ylabel("accuracy on SST-2's dev set (%)")
    axes.grid(alpha=0.3)
    axes.margins(x=0.2, y=0.12)
    FigureCanvasSVG(figure).print_svg(str(PICTURES / "text.svg"), metadata={"Date": None})


def write(every: dict[str, Parts]) -> None:
    """Write what there is."""
    text = [provenance("specialists.py")]
    whole = every.get("sst2-0", {})
    if whole:
        judged = max(len(row["right"]) for row in whole.values())
        text += [
            f"**SST-2, all labels**, {judged} texts of dev, of which the language model answers the first",
            summary(whole),
        ]
        if {TORCH, PEER, INT8, SMALLEST, STATIC} <= set(whole):
            text.append(goals(whole))
            draw(whole)
    for name in SETS:
        if any(key.startswith(f"{name}-") and INT8 in parts for key, parts in every.items()):
            judged = max(
                len(row["right"])
                for key, parts in every.items()
                if key.startswith(f"{name}-")
                for row in parts.values()
            )
            text += [f"**{name}**, {judged} test texts", by_labels(every, name), crossing(every, name)]
    found = "\n\n".join(filter(None, text))
    write_between(RESULTS / "text.md", "specialists", found)
    print(found)
