"""Does `compare` agree with a stopwatch? MobileNetV2 in float32 and int8, both in ONNX Runtime.

    python benchmarks/agreement.py                             # about 6 minutes; writes into docs/results/measuring.md
    python benchmarks/agreement.py --store FOLDER --minutes 5  # goes on where the last call stopped, for so long

The stopwatch is a process with nothing but onnxruntime and `time.perf_counter`: both files are open in it, it takes a
burst of 6 calls of the one and of the other, in random order, and counts the last four. Three such processes are
interleaved with the blocks of `compare`, so that all see the same minutes. (A stopwatch before and one after do
not do: what else the machine does moves the ratio itself, on this one between 1.28 and 1.46 within half an hour.) The
stopwatch's figure is the geometric mean over all turns of the ratio of the two bursts' medians.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from images import MODEL, PHOTOS
from markdown import RESULTS, provenance, table, write_between
from microbudget.judge import time_pair
from microbudget.judge.comparing import both_open
from microbudget.judge.judging import Judging, Opening, judging_of
from microbudget.judge.timing import PairTiming
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Inputs
from microbudget.units import format_seconds

FLOAT = Recipe.parse("finetune() > export()")
INT8 = Recipe.parse("finetune() > export() > quantize()")
SECONDS = 30.0  # three quarters of them are the stopwatches'
STOPWATCHES = 3
PROGRAM = """
import random, sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
options.add_session_config_entry("session.force_spinning_stop", "1")
files, feed = sys.argv[3:], numpy.load(sys.argv[1])
sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
for line in sys.stdin:
    bursts = [[], []]
    for which in random.sample((0, 1), 2):
        session = sessions[which]
        for number in range(6):
            started = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: feed})
            if number >= 2:
                bursts[which].append(time.perf_counter() - started)
    print(bursts, flush=True)
"""


class Stopwatch:
    """A process that times bursts of calls of two models on request."""

    def __init__(self, models: tuple[Model, Model], inputs: Path, threads: int) -> None:
        arguments = [str(inputs), str(threads), *(str(model.weights) for model in models)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.bursts: list[list[float]] = []  # of each turn: the medians of both
        self.turn()
        self.bursts.clear()  # the first calls allocate

    def turn(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.bursts.append([float(np.median(burst)) for burst in json.loads(self._process.stdout.readline())])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def geometric_ratio(watches: list[Stopwatch]) -> float:
    first, second = np.concatenate([watch.bursts for watch in watches]).T
    return float(np.exp(np.log(first / second).mean()))


class Beside:
    """A worker; after every second block of the two models the stopwatches run."""

    def __init__(self, worker, watches: list[Stopwatch], blocks: Iterator[int]) -> None:
        self._worker, self._watches, self._blocks = worker, watches, blocks

    def __getattr__(self, name: str):
        return getattr(self._worker, name)

    def time_block(self, calls: int, dropped: int, place: int | None = None):
        block = self._worker.time_block(calls, dropped, place)
        if next(self._blocks) % 2:
            for watch in self._watches:
                watch.turn()
        return block


@dataclass
class Row:
    """One run of `compare` with the stopwatches in between."""

    threads: int
    ratio: float
    low: float
    high: float
    openings: int
    stopwatch: float
    each: list[float]  # of the stopwatch's processes
    compare_s: tuple[float, float]
    stopwatch_s: tuple[float, float]

    @property
    def agrees(self) -> bool:
        return self.low <= self.stopwatch <= self.high

    def cells(self) -> list[str]:
        return [
            str(self.threads),
            f"{self.ratio:.3f} ({self.low:.3f}..{self.high:.3f})",
            f"{self.stopwatch:.3f} ({min(self.each):.3f}..{max(self.each):.3f})",
            "yes" if self.agrees else f"off by {abs(self.stopwatch / self.ratio - 1):.1%}",
            ", ".join(map(format_seconds, self.compare_s)),
            ", ".join(map(format_seconds, self.stopwatch_s)),
        ]


def judged(
    models: tuple[Model, Model], sample: Inputs, threads: int, seed: int, watches: list[Stopwatch]
) -> PairTiming:
    """The two interleaved, as `compare` times them, with the stopwatches between the blocks."""
    blocks = itertools.count()
    fresh = functools.partial(both_open, Judging(None), models, [Opening(threads)] * 2)

    @contextlib.contextmanager
    def again() -> Iterator[tuple[Beside, Beside]]:
        with fresh() as workers:
            yield tuple(Beside(worker, watches, blocks) for worker in workers)

    with again() as (first, second):
        return time_pair(first, second, sample, seconds=SECONDS, seed=seed, again=again)


def compared(models: tuple[Model, Model], sample: Inputs, inputs: Path, threads: int, seed: int) -> Row:
    """One row."""
    watches = [Stopwatch(models, inputs, threads) for _ in range(STOPWATCHES)]
    try:
        timing = judged(models, sample, threads, seed, watches)
    finally:
        for watch in watches:
            watch.close()
    slow, fast = np.median(np.concatenate([watch.bursts for watch in watches]), axis=0).tolist()
    return Row(
        threads,
        timing.ratio,
        timing.low,
        timing.high,
        timing.openings,
        geometric_ratio(watches),
        [geometric_ratio([watch]) for watch in watches],
        (timing.reference.median_s, timing.candidate.median_s),
        (slow, fast),
    )


def made(store: Path) -> tuple[tuple[Model, Model], Inputs]:
    """The float32 and the int8 model, and one photo."""
    task = ImageTask.open(PHOTOS, DataOptions(cache=store / "cache"))
    context = Context(task, store / "cache")
    first, second = (build(load(MODEL), recipe, context, store / "models")[-1] for recipe in (FLOAT, INT8))
    return (first, second), judging_of(task).timing_input(first, task.examples("test"))


def rows(store: Path, rounds: int, minutes: float) -> list[Row]:
    """The rows that are not there yet, as far as the minutes go."""
    kept = store / "agreement.json"
    found = [Row(**row) for row in json.loads(kept.read_text())] if kept.exists() else []
    models, sample = made(store)
    np.save(store / "inputs.npy", sample["pixel_values"])
    stop = time.monotonic() + 60 * minutes
    while len(found) < 2 * rounds and time.monotonic() < stop:
        threads = 1 if len(found) < rounds else 2
        found.append(compared(models, sample, store / "inputs.npy", threads, len(found)))
        print(found[-1].cells(), file=sys.stderr, flush=True)
        kept.write_text(json.dumps([vars(row) for row in found]))
    return found


def text(found: list[Row]) -> str:
    """The table and what it says."""
    head = ["threads", "`compare` (95 %)", "stopwatch", "agree", "latency, `compare`", "stopwatch"]
    half = np.median([math.log(row.high / row.low) / 2 for row in found])
    differ = np.median([max(row.each) / min(row.each) - 1 for row in found])
    note = (
        f"Float over int8. `compare` agrees with the stopwatch in {sum(row.agrees for row in found)} of {len(found)}"
        f" rows; the half-width of its interval is {half:.1%} at the median. The stopwatch is three processes (in"
        f" brackets the lowest and highest of their ratios, which differ by {differ:.1%} at the median) interleaved"
        " with the blocks of `compare`."
    )
    return f"{table(head, [row.cells() for row in found])}\n\n{note} {provenance('agreement.py')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="rows for each number of threads")
    parser.add_argument("--store", type=Path, help="keeps the models and the rows that are done")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="microbudget-") as folder:
        found = rows(options.store or Path(folder), options.rounds, options.minutes)
    page = text(found)
    print(page)
    if len(found) == 2 * options.rounds:
        write_between(RESULTS / "measuring.md", "agreement", page)


if __name__ == "__main__":
    main()
