"""The tables and the picture of `speech.py`, from its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import readme
import speech_settings as settings
import speech_shapes
from markdown import PICTURES, RESULTS, provenance, table, write_between
from microbudget.judge.verdict import Verdict
from microbudget.units import format_bytes, format_seconds

Rows = dict[str, Any]
PAGE, PICTURE = RESULTS / "speech.md", PICTURES / "speech_vocabulary.svg"
FASTER, SMALLER, SAME_WINDOW_FASTER, RECOVERED, MINUTES = 6.0, 2.0, 1.3, 0.7, 15.0  # the goals


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """How many times as fast, with its interval at 95 %: Student's, of the logarithms of the rounds' ratios."""
    from scipy.stats import t

    logs = np.log(np.array(slow) / np.array(fast))
    half = float(t.ppf(0.975, len(logs) - 1)) * logs.std(ddof=1) / math.sqrt(len(logs))
    return tuple(float(np.exp(logs.mean() + side * half)) for side in (0, -1, 1))  # type: ignore[return-value]


def _times(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f}..{value[2]:.2f})"


def _points(change: float, low: float, high: float) -> str:
    return f"{change * 100:+.2f} ({low * 100:+.1f}..{high * 100:+.1f}) pt"


def levers(rows: Rows) -> str:
    """Every way in a line; what is not timed yet has no time."""
    reference, timed = rows["quality"][settings.UNTOUCHED], rows.get("speed", {})
    lines = []
    for name in (name for name in settings.ROWS if name in rows["quality"]):
        quality, same = rows["quality"][name], name == settings.UNTOUCHED
        verdict = settings.verdict(reference, quality)
        lines.append(
            [
                name,
                format_bytes(quality["size_bytes"]),
                "" if same else f"{reference['size_bytes'] / quality['size_bytes']:.2f}",
                *_cost(timed, name),
                f"{quality['wer']:.2%}",
                "" if same else _points(verdict.change, verdict.change_low, verdict.change_high),
                "" if same else verdict.decision,
            ]
        )
    head = ["model", "size", "compression", "memory", "threads", "time", "rtf", "speedup", "wer"]
    head += ["change", "within 1 pt"]
    return table(head, lines)


def _cost(timed: Rows, name: str) -> list[str]:
    """Memory, threads, time, real-time factor and speed of a way; empty where it is not timed."""
    if name not in timed.get("rounds", {}):
        return [""] * 5
    seconds, heard = float(np.median(timed["rounds"][name])), timed["heard"]
    same = name == settings.UNTOUCHED
    return [
        format_bytes(timed["peaks"][name]),
        str(timed["threads"][name]),
        format_seconds(seconds / heard["recordings"]),
        f"{seconds / heard['seconds']:.4f}",
        "" if same else _times(ratio(timed["rounds"][settings.UNTOUCHED], timed["rounds"][name])),
    ]


def goals(rows: Rows) -> str:
    """What was to be reached, and what was."""
    rounds, quality = rows["speed"]["rounds"], rows["quality"]
    lines = []
    for name in (name for name in rounds if name.startswith(("all:", "window, "))):
        verdict = settings.verdict(quality[settings.UNTOUCHED], quality[name])
        fast = ratio(rounds[settings.UNTOUCHED], rounds[name])
        peer = ratio(rounds[settings.SAME_WINDOW], rounds[name])
        small = quality[settings.UNTOUCHED]["size_bytes"] / quality[name]["size_bytes"]
        lines.append(
            [
                name,
                _reached(_times(fast), fast[0] >= FASTER),
                _reached(f"{small:.1f}", small >= SMALLER),
                f"{verdict.change * 100:+.2f} pt: {_quality_goal(verdict)}",
                _reached(_times(peer), peer[0] >= SAME_WINDOW_FASTER),
            ]
        )
    head = ["", f"{FASTER:g} times transformers' speed", "half its size", "within 1 pt of its wer"]
    return table([*head, f"{SAME_WINDOW_FASTER} times faster-whisper int8 at 10 s"], lines)


def _reached(value: str, yes: bool) -> str:
    return f"{value}: {'reached' if yes else 'missed'}"


def _quality_goal(verdict: Verdict) -> str:
    """Whether the loss is within the limit, and what would show it where 80 recordings cannot."""
    if verdict.decision == "within":
        return "reached"
    if verdict.decision == "exceeds" or -verdict.change > settings.LIMIT.amount:
        return "missed"
    more = f"about {verdict.more_examples:,}" if verdict.more_examples else "more than a million"
    return f"reached by the estimate, not shown: {more} more recordings would"


def recovered(rows: Rows) -> str:
    """One decoder layer, cut and taught."""
    whole, cut, taught = (rows["quality"][name]["wer"] for name in settings.RECOVERY)
    cost = rows["recovery"]["cost"]
    share = (cut - taught) / (cut - whole) if cut > whole else 1.0  # where cutting costs nothing, nothing is lost
    reached = share >= RECOVERED and cost["seconds"] <= 60 * MINUTES and cost["teacher_passes"] == cost["recordings"]
    rates = table(
        [f"`{settings.BEFORE}`", "wer"],
        [["4 decoder layers", f"{whole:.2%}"], ["cut to one", f"{cut:.2%}"], ["cut and taught", f"{taught:.2%}"]],
    )
    return "\n\n".join(
        [
            rates,
            f"{share:.1%} of the loss of cutting is recovered in {format_seconds(cost['seconds'])} on one thread"
            f" ({cost['epochs']} epochs, {format_seconds(cost['processor_s'])} of processor time), with"
            f" {cost['teacher_passes']} passes of the teacher for {cost['recordings']} recordings, of which"
            f" {cost['train']} were learnt from. Goal: {RECOVERED:.0%} within {MINUTES:g} minutes on 2 cores, each"
            f" recording read once by the teacher: {'reached' if reached else 'missed'}.",
        ]
    )


def curve(rows: Rows) -> str:
    """Bytes of the vocabulary against errors."""
    reference = rows["curve"]["all tokens"]
    lines = []
    for name in (name for name in settings.CURVE if name in rows["curve"]):
        row = rows["curve"][name]
        verdict = settings.verdict(reference, row)
        change = "" if name == "all tokens" else _points(verdict.change, verdict.change_low, verdict.change_high)
        lines.append(
            [f"`trim({name})`" if "=" in name else name, format_bytes(row["size_bytes"]), f"{row['wer']:.2%}", change]
        )
    shown = f"![Size against word error rate](../pictures/{PICTURE.name})"
    return f"{shown}\n\n{table(['vocabulary', 'size, int8', 'wer', 'change'], lines)}"


def shapes(rows: Rows) -> str:
    """Times and sizes of random networks."""
    if not any(key.startswith("shapes ") for key in rows):
        raise KeyError("shapes")
    parts = []
    for name in speech_shapes.SHAPES:
        sizes, timed = rows.get(f"shapes {name} sizes", {}), rows.get(f"shapes {name}", {})
        if "rounds" not in timed:
            parts.append(f"**{name}**: not measured yet, `python benchmarks/speech.py --part shapes` goes on.")
            continue
        rounds, heard = timed["rounds"], timed["heard"]
        lines = []
        for index, way in enumerate(speech_shapes.WAYS):
            base = rounds["transformers, float32"]
            lines.append(
                [
                    way,
                    format_bytes(sizes[way]),
                    f"{sizes['transformers, float32'] / sizes[way]:.2f}" if index else "",
                    format_bytes(timed["peaks"][way]),
                    str(timed["threads"][way]),
                    format_seconds(float(np.median(rounds[way])) / heard["recordings"]),
                    f"{float(np.median(rounds[way])) / heard['seconds']:.4f}",
                    _times(ratio(base, rounds[way])) if index else "",
                ]
            )
        parts += [
            f"**{name}**",
            table(["model", "size", "compression", "memory", "threads", "time", "rtf", "speedup"], lines),
        ]
    return "\n\n".join(parts)


def draw(rows: Mapping[str, Any]) -> None:
    """Size against word error rate, with intervals of the rate."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    groups = {"coverage of your words": "coverage", "more tokens beside them": "keep", "all tokens": "all"}
    for (label, begin), marker in zip(groups.items(), "so^", strict=True):
        names = [name for name in settings.CURVE if name.startswith(begin) and name in rows["curve"]]
        points = [(rows["curve"][name], name) for name in names]
        x = [row["size_bytes"] / 1e6 for row, _ in points]
        y = [row["wer"] * 100 for row, _ in points]
        spread = np.array([_spread(row) for row, _ in points]).T * 100
        axes.errorbar(x, y, spread, marker=marker, capsize=2, label=label, linewidth=1)
        shown: dict[tuple[str, str], list[str]] = {}  # points that cannot be distinguished share a label
        for place_x, place_y, (_, name) in zip(x, y, points, strict=True):
            shown.setdefault((f"{place_x:.2f}", f"{place_y:.1f}"), []).append(name.partition("=")[2] or name)
        left = begin != "keep"
        for (place_x, place_y), names in shown.items():
            axes.annotate(
                ", ".join(names), (float(place_x), float(place_y)), textcoords="offset points", fontsize=8,
                xytext=(-6, 4) if left else (4, 6), horizontalalignment="right" if left else "left",
            )  # fmt: skip
    axes.set_xlabel("size of the int8 model (MB)")
    axes.set_ylabel("word error rate (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(str(PICTURE), metadata={"Date": None})


def _spread(row: Mapping[str, Any]) -> tuple[float, float]:
    """How far the 95 % interval of a rate reaches down and up: bootstrap over the recordings."""
    rng, errors, words = np.random.default_rng(0), np.array(row["errors"]), np.array(row["words"])
    drawn = rng.integers(len(errors), size=(2000, len(errors)))
    low, high = np.quantile(errors[drawn].sum(1) / words[drawn].sum(1), [0.025, 0.975])
    return max(0.0, row["wer"] - float(low)), max(0.0, float(high) - row["wer"])


PARTS = {"levers": levers, "goals": goals, "recovery": recovered, "curve": curve, "shapes": shapes}


def write(rows: Rows) -> None:
    """The page, the README's table and the picture; a part that is not measured says so."""
    script = provenance("speech.py")
    for name, made in PARTS.items():
        try:
            text = f"{made(rows)}\n\n{script}"
        except KeyError as missing:
            text = f"Not measured yet ({missing.args[0]}): `python benchmarks/speech.py`."
        print(text)
        write_between(PAGE, f"speech-{name}", text)
        if name == "levers":
            readme.write("speech", text)
    if "curve" in rows:
        draw(rows)
