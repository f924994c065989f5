"""The tables and the figure of language_models.py, from its rows: docs/results/language.md and the README's."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from language_settings import CONTEXTS, REAL, SHAPE, STOCK, TEXTS, TIMED, WEIGHED, variants
from markdown import PICTURES, RESULTS, provenance, table, write_between
from microbudget.units import format_bytes, format_seconds

PAGE, PICTURE = RESULTS / "language.md", PICTURES / "language.svg"
Rows = dict[str, Any]
MB = 1e6
NONE = "–"
MOST_OVER_BYTES = 500e6  # of conversion, above the largest tensor
FASTER, SLOWER, NEAR = 10.0, 1.5, 0.15  # goals: decode, quantizing, predicted memory


def write(rows: Rows) -> None:
    """Every table between its markers, and the figure."""
    parts = {
        "goals": goals(rows),
        "quality": quality(rows),
        "other": other_text(rows),
        "speed": speed(rows),
        "cost": cost(rows),
        "memory": memory(rows),
    }
    for name, text in parts.items():
        write_between(PAGE, name, text)
    write_between(PAGE, "provenance", provenance("language_models.py"))
    if draw(rows):  # without a loss to show the summary is left as it is
        write_between(PAGE, "picture", f"![KL against bytes](../pictures/{PICTURE.name})")
        text = f"{summary(rows)}\n\n{provenance('language_models.py')}"
        write_between(PAGE, "summary", text)


def known(rows: Rows, key: str) -> Rows | None:
    row = rows.get(key)
    return None if row is None or "failure" in row else row


def quality(rows: Rows) -> str:
    head = [
        "type",
        "imatrix",
        "bytes",
        "KL, nats a token",
        "same first choice",
        "bits per byte",
        "to quantize",
        "memory",
    ]
    full = known(rows, "quality python float32")
    half = known(rows, "quality python F16 plain")
    lines = [["float32 (torch)", "", "", "0", "100 %", f"{full['bits_per_byte']:.4f}", "", ""]] if full else []
    if half:
        converted = rows[f"convert {REAL}"]
        lines.append(_quality("F16", "", half, converted))
    for level, weighted in sorted(variants(), key=lambda one: _order(rows, one)):
        when = "imatrix" if weighted else "plain"
        made, found = rows.get(f"quantize {REAL} {level} {when}"), known(rows, f"quality python {level} {when}")
        if made is not None and "failure" in made:
            lines.append([level, "with" if weighted else "without", made["failure"], "", "", "", "", ""])
        elif made is not None and found is not None:
            lines.append(_quality(level, "with" if weighted else "without", found, made))
    return table(head, lines)


def _order(rows: Rows, one: tuple[str, bool]) -> tuple[float, str, bool]:
    level, weighted = one
    sizes = [known(rows, f"quantize {REAL} {level} {when}") for when in ("plain", "imatrix")]
    return -max((row["size_bytes"] for row in sizes if row), default=0), level, weighted


def _quality(level: str, weighted: str, found: Rows, made: Rows) -> list[str]:
    return [
        level,
        weighted,
        f"{made['size_bytes']:,}",
        _kl(found),
        f"{100 * found['same_top1']:.2f} %",
        f"{found['bits_per_byte']:.4f}",
        format_seconds(made["seconds"]),
        format_bytes(made["peak_bytes"]),
    ]


def _kl(found: Rows) -> str:
    return f"{found['kl']:.2g} ({found['kl_low']:.2g}..{found['kl_high']:.2g})"


def other_text(rows: Rows) -> str:
    names = [name for name in TEXTS if name != "python"]
    lines = []
    for level in TIMED:
        cells = [level]
        for name in ("python", *names):
            found = known(rows, f"quality {name} {level} imatrix") or known(rows, f"quality {name} {level} plain")
            cells += [_kl(found), f"{found['bits_per_byte']:.4f}"] if found else [NONE, NONE]
        lines.append(cells)
    return table(
        ["type", *(f"{name}, {what}" for name in ("python", *names) for what in ("KL", "bits per byte"))], lines
    )


def speed(rows: Rows) -> str:
    head = ["runtime, type", "bytes", "decode", "times torch", "prefill of 256", "times torch"]
    found = {level: rows[f"speed {level}"] for level in ("onnxruntime", *TIMED) if f"speed {level}" in rows}
    if not found:
        return "not measured yet"
    reference = [row[kind]["reference_s"] for kind in ("decode", "prefill") for row in found.values()]
    half = len(found)
    decode_s, prefill_s = statistics.median(reference[:half]), statistics.median(reference[half:])
    size = rows.get(f"convert {SHAPE}", {}).get("size_bytes", 0)
    lines = [["torch, float32", f"{2 * size:,}", f"{1 / decode_s:,.0f}/s", "1", f"{256 / prefill_s:,.0f}/s", "1"]]
    for level, row in found.items():
        made = known(rows, f"quantize {SHAPE} {level} imatrix") or known(rows, f"quantize {SHAPE} {level} plain") or {}
        weight = 2 * size if level == "onnxruntime" else size if level == "F16" else made.get("size_bytes", 0)
        name = "ONNX Runtime, float32" if level == "onnxruntime" else f"llama.cpp, {level}"
        cells = [name, f"{weight:,}"]
        for kind, tokens in (("decode", 1), ("prefill", 256)):
            cells += [f"{tokens / row[kind]['candidate_s']:,.0f}/s", _ratio(row[kind])]
        lines.append(cells)
    return table(head, lines)


def _ratio(row: Rows) -> str:
    return f"{row['ratio']:.1f} ({row['low']:.1f}..{row['high']:.1f})"


def cost(rows: Rows) -> str:
    lines = []
    for level in STOCK:
        row = rows.get(f"cost {level}")
        if row is None or any("failure" in one for side in ("ours", "stock") for one in row[side]):
            continue
        ours, theirs = (min(one["seconds"] for one in row[side]) for side in ("ours", "stock"))
        peaks = [max(one["added_bytes"] for one in row[side]) for side in ("ours", "stock")]
        same = "yes" if row["same_file"] else "no"
        lines.append(
            [
                level,
                format_seconds(ours),
                format_seconds(theirs),
                f"{ours / theirs:.2f}",
                *map(format_bytes, peaks),
                same,
            ]
        )
    head = ["type", "ours", "llama.cpp's", "ours / theirs", "memory, ours", "memory, llama.cpp's", "same file"]
    return table(head, lines) if lines else "not measured yet"


def memory(rows: Rows) -> str:
    lines = []
    for _, model, level, context, row in _weighed(rows):
        off = row["predicted_bytes"] / row["measured_bytes"] - 1
        cells = [format_bytes(row[f"{what}_bytes"]) for what in ("file", "predicted", "measured")]
        lines.append([model, level, context, *cells, f"{100 * off:+.0f} %"])
    head = ["model", "type", "context", "file", "memory, predicted", "measured", "off by"]
    return table(head, lines) if lines else "not measured yet"


def _weighed(rows: Rows) -> Iterator[tuple[str, str, str, int, Rows]]:
    for model in (REAL, SHAPE):
        for level in WEIGHED:
            for context in CONTEXTS:
                key = f"memory {model} {level} {context}"
                found = known(rows, key)
                if found:
                    yield key, model, level, context, found


def goals(rows: Rows) -> str:
    lines = [*_speed_goal(rows), *_conversion_goal(rows), *_cost_goal(rows), *_size_goal(rows), *_memory_goal(rows)]
    return table(["goal", "measured", "reached"], lines)


def _reached(yes: bool) -> str:
    return "yes" if yes else "**no**"


def _speed_goal(rows: Rows) -> Iterator[list[str]]:
    row = known(rows, "speed Q4_0")
    if row:
        goal = f"decode of Q4_0 at least {FASTER:.0f} times torch float32 (110M shape)"
        yield [goal, _ratio(row["decode"]), _reached(row["decode"]["ratio"] >= FASTER)]


def _conversion_goal(rows: Rows) -> Iterator[list[str]]:
    for model in (REAL, SHAPE):
        row = known(rows, f"convert {model}")
        if row:
            limit = row["largest_tensor_bytes"] + MOST_OVER_BYTES
            goal = f"peak memory of converting {model} at most the largest tensor in float32 and 500 MB"
            measured = f"{format_bytes(row['peak_bytes'])} of {format_bytes(limit)}"
            yield [goal, measured, _reached(row["peak_bytes"] <= limit)]


def _cost_goal(rows: Rows) -> Iterator[list[str]]:
    ratios = {}
    for level in STOCK:
        row = rows.get(f"cost {level}")
        if row and not any("failure" in one for side in ("ours", "stock") for one in row[side]):
            ours, theirs = (min(one["seconds"] for one in row[side]) for side in ("ours", "stock"))
            ratios[level] = ours / theirs
    if ratios:
        worst = max(ratios, key=lambda level: ratios[level])
        measured = f"{min(ratios.values()):.2f} to {ratios[worst]:.2f} times (most at {worst})"
        goal = f"quantizing at most {SLOWER} times llama.cpp's own time on the same file"
        yield [goal, measured, _reached(ratios[worst] <= SLOWER)]


def _size_goal(rows: Rows) -> Iterator[list[str]]:
    compared = [
        (predicted.get(level), made["size_bytes"])
        for model in (REAL, SHAPE)
        for when, predicted in rows.get(f"sizes {model}", {}).items()
        for level in predicted
        if (made := known(rows, f"quantize {model} {level} {when}"))
    ]
    if compared:
        exact = sum(predicted == made for predicted, made in compared)
        yield [
            "predicted size exact to the byte",
            f"{exact} of {len(compared)} files",
            _reached(exact == len(compared)),
        ]


def _memory_goal(rows: Rows) -> Iterator[list[str]]:
    off = [abs(row["predicted_bytes"] / row["measured_bytes"] - 1) for *_, row in _weighed(rows)]
    if off:
        within = sum(one <= NEAR for one in off)
        measured = f"{within} of {len(off)} within, at most {100 * max(off):.0f} % off"
        yield ["predicted memory within 15 %", measured, _reached(within == len(off))]


def judged(rows: Rows, level: str) -> tuple[Rows, int] | None:
    """What is known of a level at its best, and its bytes: from the benchmark, else from a run of `shrink`."""
    for when in ("imatrix", "plain"):
        found, made = known(rows, f"quality python {level} {when}"), known(rows, f"quantize {REAL} {level} {when}")
        if found and made:
            return found, made["size_bytes"]
    found = known(rows, f"run {level}")
    return None if found is None else (found, found["size_bytes"])


def summary(rows: Rows) -> str:
    """The levels at their best: bytes, divergence and bits per byte."""
    own = known(rows, "quality python Q8_0 plain") is not None
    full = rows.get("quality python float32" if own else "run float32")
    head = ["lm-python, 5 M weights", "bytes", "compression", "KL, nats a token", "bits per byte"]
    size = 4 * rows[f"convert {REAL}"]["size_bytes"] / 2 if f"convert {REAL}" in rows else 0
    lines = [["torch, float32", f"{size / MB:.2f} MB", "1", "0", f"{full['bits_per_byte']:.4f}"]] if full else []
    for level in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ2_XS"):
        known_of = judged(rows, level)
        if known_of:
            found, made = known_of[0], known_of[1] / MB
            bits, kl = f"{found['bits_per_byte']:.4f}", f"{found['kl']:.2g}"
            lines.append([level, f"{made:.2f} MB", f"{size / MB / made:.1f}", kl, bits])
    of_run = [row for key, row in rows.items() if key.startswith("run ") and "examples" in row]
    note = "Held-out Python; importance matrix of training text."
    if not own and of_run:
        note += f" From a run of `shrink`: {of_run[0]['examples']} validation passages, {of_run[0]['tokens']:,} tokens."
    return f"{table(head, lines)}\n\n{note}"


def draw(rows: Rows) -> bool:
    """KL against bytes of lm-python, without and with an importance matrix; whether there was anything to draw."""
    if not any(_points(rows, when) for when in ("plain", "imatrix")):
        return False
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    kinds = {
        "plain": ("without importance matrix", "o", "#0072b2"),
        "imatrix": ("with importance matrix", "D", "#c04b00"),
    }
    for when, (label, marker, color) in kinds.items():
        points = _points(rows, when)
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], marker, color=color, label=label, markersize=5)
        for size, kl, level in points:
            if when == "imatrix" or known(rows, f"quality python {level} imatrix") is None:
                axes.annotate(level, (size, kl), xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel("file (MB)")
    axes.set_ylabel("KL from float32 (nats a token)")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, loc="upper right")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(str(PICTURE), metadata={"Date": None})
    return True


def _points(rows: Rows, when: str) -> list[tuple[float, float, str]]:
    """(megabytes, KL, level) of the files that were made and judged, the smallest first."""
    points = []
    for level, weighted in variants():
        made, found = known(rows, f"quantize {REAL} {level} {when}"), known(rows, f"quality python {level} {when}")
        if made and found and weighted == (when == "imatrix"):
            points.append((made["size_bytes"] / MB, found["kl"], level))
    if not points and when == "imatrix":
        of_run = {key.removeprefix("run "): row for key, row in rows.items() if key.startswith("run ") and "kl" in row}
        points = [(row["size_bytes"] / MB, row["kl"], level) for level, row in of_run.items()]
    return sorted(points)
