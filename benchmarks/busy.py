"""Speeds on a busy machine: the demo's `shrink`, again and again, beside a job that loads all cores in bursts.

    python benchmarks/busy.py                    # ten runs: about 20 minutes on 2 cores
    python benchmarks/busy.py --runs 3 --dry     # a first look, writes no table

The models are built once; each run measures them anew, in a folder without rows, while one process for each core
computes in bursts that begin and end together, 0.2 to 3 seconds of work and as long of rest. A run is right if its
latencies have its speedups, in its result and as its card prints them; the runs agree if the intervals of each model's
speedup have a point in common. Speedups that carry the mark of a busy machine are counted apart.
The table goes into docs/results/measuring.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown import RESULTS, provenance, table, write_between
from microbudget.cli.demo import demo
from microbudget.judge.budget import Budget
from microbudget.machine.processor import cores
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.search.shrink import shrink
from microbudget.units import Drop, format_seconds, format_times, parse_seconds

HOG = """
import os, random, sys, time
coin, parent = random.Random(0), os.getppid()
begin = float(sys.argv[1])
while os.getppid() == parent:
    work, rest = coin.uniform(0.2, 3), coin.uniform(0.2, 3)
    while time.time() < begin + work:
        pass
    begin += work + rest
    time.sleep(max(0, begin - time.time()))
"""
ROUNDING = 0.025  # of a ratio of three digits, and of its two digits


@dataclass(frozen=True)
class Line:
    """One candidate of one run."""

    recipe: str
    reference_s: float
    latency_s: float
    speedup: float
    low: float
    high: float
    busy: str

    @property
    def contradicts(self) -> bool:
        """Whether the speedup is not that of the latencies."""
        return abs(self.reference_s / self.latency_s / self.speedup - 1) > 1e-6


@contextlib.contextmanager
def hogs() -> Iterator[None]:
    """A process for each core that computes in bursts, all of them at the same times."""
    begin = str(time.time())
    made = [subprocess.Popen([sys.executable, "-c", HOG, begin]) for _ in range(cores())]
    try:
        yield
    finally:
        for one in made:
            one.kill()
            one.wait()


def lines(result: dict[str, Any]) -> list[Line]:
    """The candidates of a run's result that were timed."""
    reference_s = result["reference"]["measurement"]["latency_s"]
    timed = [row for row in result["candidates"] if row["measurement"] and row["speed"]]
    return [
        Line(
            Recipe.parse(row["recipe"]).short(),
            reference_s,
            row["measurement"]["latency_s"],
            row["speed"]["speedup"],
            row["speed"]["low"],
            row["speed"]["high"],
            row["speed"]["busy"] or row["speed"].get("slow", ""),
        )
        for row in timed
    ]


def card_contradicts(card: str) -> bool:
    """Whether the latencies that a card prints do not have the speedup that it prints, within rounding."""
    ours, theirs = re.search(r"\| latency of .*? \| (.+?) \| (.+?) \|", card).groups()  # type: ignore[union-attr]
    times = float(re.search(r"It is ([\d.]+) times as fast", card)[1])  # type: ignore[index]
    return abs(parse_seconds(theirs) / parse_seconds(ours) / times - 1) > ROUNDING


def run(built: Path, out: Path, seed: int) -> tuple[list[Line], bool]:
    """One shrink that finds the models built and measures them. Returns its lines and whether its card contradicts."""
    folder = out / f"run-{seed}"
    shutil.copytree(built / "run", folder)
    for name in ("answers", "best"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("candidates.jsonl", "result.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    progress = Progress(quiet=True)
    found = shrink(
        built / "digits-network", built / "digits-photos", Budget(max_drop=Drop(0.01)), out=folder, progress=progress
    )
    result = json.loads(json.dumps(found.as_dict()))
    contradicts = card_contradicts((folder / "best" / "README.md").read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    return lines(result), contradicts


def page(runs: Sequence[tuple[list[Line], bool]]) -> str:
    """The table and what it says."""
    rows, verdicts = [], []
    recipes = list(dict.fromkeys(line.recipe for found, _ in runs for line in found))
    for recipe in recipes:
        every = [line for found, _ in runs for line in found if line.recipe == recipe]
        quiet = [line for line in every if not line.busy]
        low, high = (max(line.low for line in quiet), min(line.high for line in quiet)) if quiet else (0.0, 0.0)
        agree = "-" if len(quiet) < 2 else "yes" if low <= high else f"no, by {low / high - 1:.1%}"
        verdicts.append(agree)
        rows.append(
            (
                f"`{recipe}`",
                *(
                    _range([getattr(line, name) for line in every], format_seconds)
                    for name in ("reference_s", "latency_s")
                ),
                _range([line.speedup for line in every], format_times),
                f"{len(every) - len(quiet)} of {len(every)}",
                agree,
            )
        )
    contradictions = sum(line.contradicts for found, _ in runs for line in found)
    cards = sum(contradicts for _, contradicts in runs)
    head = ("recipe", "reference", "model", "times as fast", "marked busy", "intervals of the others overlap")
    return (
        f"{table(head, rows)}\n\n{len(runs)} runs; each column has the lowest and the highest of them. The intervals of"
        f" the speedups that carry no mark have a point in common for {verdicts.count('yes')} of {len(recipes)} models."
        f" {contradictions} rows contradict their own latencies, and {cards} cards."
    )


def _range(values: list[float], show: Any) -> str:
    return f"{show(min(values))} .. {show(max(values))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--built", type=Path, help="a folder in which an earlier call has built the models, or is to")
    parser.add_argument("--dry", action="store_true", help="print the table, leave docs/results/measuring.md as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = options.built or Path(folder) / "demo"
        if not (built / "run" / "result.json").is_file():
            demo(built, keep=True, progress=Progress())
        with hogs():
            found = []
            for seed in range(options.runs):
                started = time.monotonic()
                found.append(run(built, Path(folder), seed))
                print(
                    f"{seed + 1}: {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f}",
                    *found[-1][0],
                    sep="\n  ",
                )
    text = page(found)
    print(text)
    if not options.dry:
        write_between(RESULTS / "measuring.md", "busy", f"{text}\n\n{provenance('busy.py')}")


if __name__ == "__main__":
    main()
