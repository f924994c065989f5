"""The forecast of `shrink` against what the run then takes, on a small model of each kind.

    python benchmarks/forecast.py                    each kind once (about ten minutes, quiet)
    python benchmarks/forecast.py --kind photos      one of them
    python benchmarks/forecast.py --tables           write the table from what was measured

The toys of `interrupts.py`, with the durations of timings that a real run has. From the line "forecast" on: the seconds
to the first candidate, and to the end with the test and the report. What teaches the reference the labels comes before
it. The table goes into docs/results/measuring.md.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import golden_toys
from interrupts import KINDS, make_texts
from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.judge.budget import Budget
from microbudget.progress import Progress
from microbudget.search.forecast import Forecast
from microbudget.search.shrink import shrink
from microbudget.units import Drop
from results import Results

STORE = ROOT / "runs" / "forecast"
GOAL = 0.2


class Lines(io.StringIO):
    """Text with the time at which each line came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        """As a stream does."""
        self.times.append((time.monotonic(), text))
        return super().write(text)

    def first(self, start: str) -> float:
        """When a line that begins so came."""
        return next(at for at, text in self.times if text.startswith(start))


def measured(name: str, toys: Path, work: Path) -> dict[str, Any]:
    """Seconds to the first candidate and to the end, forecast and real, from the forecast on."""
    model, data, _ = KINDS[name]
    said, noted, original = Lines(), list[Forecast](), Forecast.of.__func__  # type: ignore[attr-defined]
    expected: dict[str, Any] = {}

    def of(cls: type[Forecast], *arguments: Any) -> Forecast:
        found: Forecast = original(cls, *arguments)
        each = {recipe.short(): seconds for recipe, seconds in found.expected.items()}
        expected.update(first=next(iter(each.values())), whole=found.left_s, test=found.test_s, recipes=each)
        expected["began"] = time.monotonic()
        noted.append(found)
        return found

    Forecast.of = classmethod(of)  # type: ignore[assignment,method-assign]
    try:
        drop = Drop(0.9, relative=name == "language model")
        limit = Budget(max_drop=drop, minutes=20)
        result = shrink(toys / model, toys / data, limit, out=work / "run", threads=1, progress=Progress(said))
    finally:
        Forecast.of = classmethod(original)  # type: ignore[assignment,method-assign]
    ended, began = time.monotonic(), expected.pop("began")
    took = {row.recipe: row.seconds for row in result.candidates}
    first = said.first(f"[1/{len(expected['recipes'])}]")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**expected, "first_took": first - began, "whole_took": ended - began, "took": took, "load": load}


def summary(results: Results) -> str:
    """The table in Markdown."""
    rows = []
    for name in KINDS:
        row = results.rows.get(name)
        if row is None:
            continue
        shown = [f"{row[key]:.0f}" for key in ("first", "first_took", "whole", "whole_took")]
        off = [row[key] / row[f"{key}_took"] - 1 for key in ("first", "whole")]
        load = "-" if row.get("load") is None else f"{row['load']:.1f}"
        further = len(row["took"]) - len(row["recipes"])
        rows.append(
            [name, len(row["recipes"]), further, *shown[:2], f"{off[0]:+.0%}", *shown[2:], f"{off[1]:+.0%}", load]
        )
    head = (
        "run", "recipes", "further ones", "first, forecast s", "first, took s", "off", "all, forecast s", "all, took s",
        "off", "load average",
    )  # fmt: skip
    says = (
        f"Goal: all within {GOAL:.0%}, on a quiet machine (a load average of 1). One thread, minutes that suffice."
        " Further ones are tried where integers turn out to be slower than floats, which nothing tells before."
    )
    return f"{table(head, rows)}\n\n{says}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(KINDS))
    parser.add_argument("--tables", action="store_true", help="only write the table")
    options = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    results = Results(STORE / "results.json")
    if not options.tables:
        with tempfile.TemporaryDirectory() as folder:
            toys = Path(folder) / "toys"
            golden_toys.make_toys(toys)
            make_texts(toys)
            for name in (options.kind,) if options.kind else KINDS:
                work = Path(folder) / "work"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                results.put(name, measured(name, toys, work))
    text = summary(results)
    print(text)
    write_between(RESULTS / "measuring.md", "forecast", f"{text}\n\n{provenance('forecast.py')}")


if __name__ == "__main__":
    main()
