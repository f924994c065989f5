"""The verb that chooses what to begin with: choose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import units
from ..judge.budget import GOALS, Budget
from ..progress import Progress
from .options import DONE, NOT_MET, add_data, add_limits, add_verb, columns_of, data_of, limits_of, print_json

BUSY = "*"  # of a latency that was measured on a busy machine

if TYPE_CHECKING:
    from ..search.chosen import Chosen


def add_verbs(verbs: Any) -> None:
    """Add the parser."""
    about = "which of several networks to begin with, before anything is trained"
    parser = add_verb(verbs, "choose", _choose, about, "mobilenet_v2/ efficientnet.onnx --data photos/ --max-size 3MB")
    about = "hub ids, folders, .onnx files: two or more"
    parser.add_argument("models", nargs="+", metavar="MODEL", help=about)
    add_data(parser)
    about = "folder for what was computed; `shrink` into it uses the features again"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    parser.add_argument("--goal", choices=GOALS, default="size", help="what to make best within the limits")
    about = "how much less accurate than the best the choice may be (default 1pt)"
    add_limits(parser, about, about_size="of the network in 8 bits")


def _choose(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.choosing import choose

    budget = Budget(goal=options.goal, **limits_of(options))
    chosen = choose(
        options.models,
        data_of(options),
        budget,
        out=options.out,
        seed=options.seed,
        threads=options.threads,
        normalizer=options.normalizer,
        columns=columns_of(options),
        output=options.output,
        durations=options.durations,
        progress=progress,
    )
    if options.json:
        print_json(chosen.as_dict())
    else:
        print_chosen(chosen, str(options.data))
    return DONE if chosen.best is not None else NOT_MET


def print_chosen(chosen: Chosen, data: str) -> None:
    """The networks at their input sizes, the front and the choice marked, and what to do next."""
    from rich.markup import escape

    from ..report import terminal
    from .tables import distinct_names

    names = list(dict.fromkeys(shape.network for shape in chosen.shapes))
    short = dict(zip(names, distinct_names(*names), strict=True))
    table = terminal.table("network", "size", "latency", chosen.shapes[0].measurement.metric, "against the best")
    for place, shape in enumerate(chosen.shapes):
        if not place or shape.network != chosen.shapes[place - 1].network:
            table.add_row(escape(short[shape.network]))
        measured, busy = shape.measurement, BUSY if shape.speed.get("busy") else ""
        table.add_row(
            _mark(chosen, place)
            + " ".join(part for part in (shape.size, "own head" if shape.head == "own" else "") if part),
            units.format_bytes(measured.size_bytes),
            units.format_seconds(shape.latency_s) + busy,
            f"{measured.quality:.3f} ({_short(measured.quality_low)}-{_short(measured.quality_high)})",
            "beyond the limits" if chosen.broken(shape) else chosen.against(place),
            style="bold green" if shape is chosen.best else None,
        )
    console = terminal.console()
    console.print(table)
    for line in _notes(chosen):
        console.print(line, markup=False)
    said, style = (f"begin with {chosen.why}", None) if chosen.best else (chosen.why, "bold red")
    console.print(said, markup=False, style=style)
    if chosen.advice:
        console.print(chosen.advice, markup=False)
    console.print(f"next: microbudget shrink {chosen.begin.network} --data {data} --out RUN", markup=False)


def _mark(chosen: Chosen, place: int) -> str:
    """Before a shape: whether it is the choice, and whether it is on the front."""
    first = ">" if chosen.shapes[place] is chosen.best else " "
    return f"{first}{'+' if chosen.front[place] else ' '} "


def _short(share: float) -> str:
    """0.937 as .937: the column is wide enough as it is."""
    return f"{share:.3f}".removeprefix("0")


def _notes(chosen: Chosen) -> list[str]:
    """What the marks and the numbers mean."""
    first = chosen.shapes[0].measurement
    bits = "in 8 bits" if all(shape.bits == 8 for shape in chosen.shapes) else "in 8 bits where a graph can be rounded"
    notes = [
        f"> the choice, + on the front of size, latency and {first.metric}",
        f"size and latency {bits}, threads {first.threads}; {first.metric} in float, on {first.examples} training"
        f" examples, {chosen.folds}-fold cross-validation of a new head on frozen features",
    ]
    notes += [f"left out: {shape}: {reason}" for shape, reason in chosen.left_out.items()]
    if any(shape.speed.get("busy") for shape in chosen.shapes):
        notes.append(f"{BUSY} timed while other programs had the processor: try again when the machine is quiet")
    return notes
