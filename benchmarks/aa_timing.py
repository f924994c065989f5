"""Does the timing of two models keep its promise? A model against itself while a processor hog comes and goes.

    python benchmarks/aa_timing.py                          # the whole: about half an hour on 2 cores
    python benchmarks/aa_timing.py --minutes 5              # goes on where the last call stopped, for so long
    python benchmarks/aa_timing.py --trials 20 --record /tmp/look.npz     # a first look, writes no table
    python benchmarks/aa_timing.py --replay RECORD.npz      # the intervals again from recorded blocks, in seconds

Every trial opens fresh workers with the same model, eight times two of them one after the other, so the true ratio is
1. Told is how often the 95 % interval of the ratio holds 1, live and in replays of the recorded blocks; how wide it is;
how often a true difference of 5 % (one copy waits, busily, for 5 % of each call's time) is found within a minute; and
how often the usual protocol, 20 calls of one and then 20 of the other, finds a difference of more than 5 % where there
is none. Every trial is kept in benchmarks/aa_timing.npz when it is done; the table goes into
docs/results/measuring.md when all are done.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from markdown import RESULTS, provenance, table, write_between
from microbudget.judge import intervals
from microbudget.judge.timing import RESOLUTION, Reopen, interleave, log_ratios, time_pair
from microbudget.judge.worker import OPENER, Worker
from microbudget.model import Model, Record
from microbudget.progress import Progress
from microbudget.runtimes import open_session

SIZE = 48  # pixels
DELAY = 0.05  # share of a call's time that the slower copy waits
RECORD = Path(__file__).with_suffix(".npz")
HOG = """
import random, sys, time
coin = random.Random(int(sys.argv[1]))
while True:
    end = time.monotonic() + coin.expovariate(1 / float(sys.argv[2]))
    while time.monotonic() < end:
        pass
    time.sleep(coin.expovariate(1 / float(sys.argv[2])))
"""


@dataclass(frozen=True)
class Trial:
    """One A/A trial: the log ratios of its pairs of blocks in time order, the opening of the processes that each is
    from, and the ratio of two sequential means."""

    log_ratios: NDArray[np.float64]
    openings: NDArray[np.int64]
    sequential: float

    @cached_property
    def interval(self) -> tuple[float, float]:
        _, low, high = intervals.shift(self.log_ratios, openings=self.openings)
        return float(np.exp(low)), float(np.exp(high))

    @property
    def covers(self) -> bool:
        return self.interval[0] <= 1 <= self.interval[1]


class Delayed:
    """A session that waits, busily, for a share of each call's time."""

    def __init__(self, session, share: float) -> None:
        self.runtime, self._session, self._share = session.runtime, session, share

    def answer(self, inputs):
        started = time.perf_counter()
        answered = self._session.answer(inputs)
        end = time.perf_counter()
        end += self._share * (end - started)
        while time.perf_counter() < end:
            pass
        return answered


def open_delayed(model: Model, *, threads: int = 0, runtime: str | None = None) -> Delayed:
    """What the slower copy's worker opens."""
    return Delayed(open_session(model, threads=threads, runtime=runtime), DELAY)


def write_network(path: Path, size: int = SIZE) -> Model:
    """Six convolutions, 38 million multiply-adds: about a millisecond on a core."""
    coin, nodes, weights, name = np.random.default_rng(0), [], [], "pixel_values"
    widths = (3, 32, 32, 64, 64, 128, 128)
    for index, (inside, outside) in enumerate(itertools.pairwise(widths)):
        w = coin.normal(0, (2 / (9 * inside)) ** 0.5, (outside, inside, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{index}"))
        step = 2 if index % 2 else 1
        nodes += [
            helper.make_node("Conv", [name, f"w{index}"], [f"c{index}"], pads=[1] * 4, strides=[step] * 2),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
        ]
        name = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return Model(path, "onnx", Record())


@contextlib.contextmanager
def hogs(count: int, period_s: float = 0.7, seed: int = 0) -> Iterator[None]:
    """Processes that take a core for a while and leave it for a while, at random."""
    running = [
        subprocess.Popen([sys.executable, "-c", HOG, str(seed + number), str(period_s)], stdin=subprocess.DEVNULL)
        for number in range(count)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def reopening(model: Model, threads: int, openers: tuple[str, str] = (OPENER, OPENER)) -> Reopen:
    """Opens the model twice in fresh processes."""

    @contextlib.contextmanager
    def again() -> Iterator[tuple[Worker, Worker]]:
        with Worker(opener=openers[0]) as a, Worker(opener=openers[1]) as b:
            for worker in (a, b):
                worker.open(model, threads=threads)
            yield a, b

    return again


def run_trial(model: Model, inputs: dict, threads: int, seconds: float, seed: int) -> Trial:
    """Fresh workers with one model: first the sequential protocol, then turns until the time is up."""
    again = reopening(model, threads)
    with again() as (a, b):
        for worker in (a, b):
            worker.prepare(inputs)
            worker.open_s = 0.0  # a trial is shorter than what `compare` takes: it opens as often all the same
        means = [worker.time_block(20, 3).durations_ns.mean() for worker in (a, b)]
        turns = interleave((a, b), (inputs, inputs), seconds=seconds, seed=seed, again=again)
        return Trial(log_ratios(turns.pairs), np.array(turns.openings), float(means[0] / means[1]))


def find_delay(model: Model, inputs: dict, threads: int, seconds: float, seed: int) -> tuple[bool, float, float]:
    """Whether a copy that is 5 % slower is called slower, after how many seconds, and the ratio that was found."""
    again = reopening(model, threads, (OPENER, "aa_timing:open_delayed"))
    with again() as (a, b):
        started = time.monotonic()
        timing = time_pair(a, b, inputs, seconds=seconds, seed=seed, again=again)
        return timing.verdict == "slower", time.monotonic() - started, timing.ratio


def replay(trials: list[Trial], count: int, seed: int = 0) -> float:
    """Share of replays whose interval holds 1. A replay is a random stretch, at least half, of one trial's pairs,
    in time order, with the copies' names swapped at random."""
    coin = np.random.default_rng(seed)
    covered = 0
    for _ in range(count):
        trial = trials[coin.integers(len(trials))]
        series = trial.log_ratios
        length = int(coin.integers(max(intervals.FEWEST, len(series) // 2), len(series) + 1))
        start = int(coin.integers(len(series) - length + 1))
        kept = slice(start, start + length)
        _, low, high = intervals.shift(series[kept] * coin.choice([-1, 1]), openings=trial.openings[kept])
        covered += bool(low <= 0 <= high)
    return covered / count


def results(trials: list[Trial], replays: int) -> list[tuple[str, str]]:
    """What the A/A trials say."""
    widths = [(high - low) / 2 for low, high in (trial.interval for trial in trials)]
    called = [low > 1 + RESOLUTION or high < 1 / (1 + RESOLUTION) for low, high in (trial.interval for trial in trials)]
    errors = np.array([abs(trial.sequential - 1) for trial in trials])
    return [
        ("trials of a model against itself, in fresh processes", str(len(trials))),
        ("how often a trial opens them", f"{np.median([len(set(trial.openings)) for trial in trials]):.0f}"),
        ("95 % interval of the ratio holds 1, live", f"{np.mean([trial.covers for trial in trials]):.1%}"),
        (f"the same in {replays} replays of the recorded blocks", f"{replay(trials, replays):.1%}"),
        ("half-width of the interval, median", f"{np.median(widths):.1%}"),
        ("a difference called where there is none", f"{np.mean(called):.1%}"),
        ("usual protocol, mean of 20 then mean of 20: more than 5 % apart", f"{np.mean(errors > 0.05):.1%}"),
        ("its error, median", f"{np.median(errors):.1%}"),
    ]


def found(delays: list[tuple[bool, float, float]]) -> list[tuple[str, str]]:
    """What the trials with a true difference say."""
    hits, seconds, ratios = zip(*delays, strict=True)
    return [
        ("a true difference of 5 % found within 60 s", f"{sum(hits)} of {len(hits)}"),
        ("how long that took, median", f"{np.median(seconds):.0f} s"),
        ("its ratio, 0.952 in truth, median", f"{np.median(ratios):.3f}"),
    ]


def save(path: Path, trials: list[Trial], delays: list[tuple[bool, float, float]]) -> None:
    """Log ratios as float32 one after another, with the number of pairs of each trial."""
    np.savez_compressed(
        path,
        log_ratios=np.concatenate([trial.log_ratios for trial in trials]).astype(np.float32),
        openings=np.concatenate([trial.openings for trial in trials]).astype(np.uint8),
        pairs=[len(trial.log_ratios) for trial in trials],
        sequential=[trial.sequential for trial in trials],
        delays=np.array(delays, float).reshape(-1, 3),
    )


def read(path: Path) -> tuple[list[Trial], list[tuple[bool, float, float]]]:
    """The inverse of `save`."""
    stored = np.load(path)
    ends = np.cumsum(stored["pairs"])[:-1]
    series, openings = (np.split(stored[name], ends) for name in ("log_ratios", "openings"))
    columns = zip(series, openings, stored["sequential"], strict=True)
    trials = [Trial(a.astype(float), b.astype(int), float(c)) for a, b, c in columns]
    return trials, [(bool(hit), seconds, ratio) for hit, seconds, ratio in stored["delays"].tolist()]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="of blocks in a trial")
    parser.add_argument("--replays", type=int, default=2000)
    parser.add_argument("--delay-trials", type=int, default=8, help="trials with a true difference of 5 %%")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hogs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    parser.add_argument("--record", type=Path, default=RECORD, help="what is done so far; starts again without it")
    parser.add_argument("--replay", type=Path, metavar="RECORD", help="read recorded blocks and run nothing")
    return parser.parse_args()


def run(options: argparse.Namespace) -> tuple[list[Trial], list[tuple[bool, float, float]]]:
    """All trials that are not recorded yet, next to the hogs, as far as the minutes go."""
    inputs = {"pixel_values": np.random.default_rng(1).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)}
    trials, delays = read(options.record) if options.record.exists() else ([], [])
    stop, progress = time.monotonic() + 60 * options.minutes, Progress()
    with tempfile.TemporaryDirectory() as folder, hogs(options.hogs, seed=len(trials)):
        model = write_network(Path(folder) / "network.onnx")
        while time.monotonic() < stop and len(trials) < options.trials:
            trials.append(run_trial(model, inputs, options.threads, options.seconds, len(trials)))
            progress.say(f"trial {len(trials)} of {options.trials}: {trials[-1].interval}")
            save(options.record, trials, delays)
        while time.monotonic() < stop and len(delays) < options.delay_trials:
            delays.append(find_delay(model, inputs, options.threads, 60.0, 1000 + len(delays)))
            progress.say(f"trial with a difference {len(delays)} of {options.delay_trials}: {delays[-1]}")
            save(options.record, trials, delays)
    return trials, delays


def main() -> None:
    options = parse()
    if options.replay:
        print(table(("replayed", "result"), results(read(options.replay)[0], options.replays)))
        return
    trials, delays = run(options)
    head = f"{options.threads} thread(s), {options.hogs} hog(s) on and off at random, {options.seconds:g} s a trial"
    text = table((head, "result"), [*results(trials, options.replays), *(found(delays) if delays else [])])
    print(text)
    whole = len(trials) >= options.trials and len(delays) >= options.delay_trials
    if whole and options.record == RECORD:
        write_between(RESULTS / "measuring.md", "aa_timing", f"{text}\n\n{provenance('aa_timing.py')}")


if __name__ == "__main__":
    main()
