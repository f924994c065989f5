"""How long opening takes, and what being general costs: inputs of public bug reports, and a real exporter's file.

    python benchmarks/opening.py            # some minutes; writes docs/results/opening.md

Opening: each of `../shared/cases` in a process of its own, from the start of Python to a Model and a Task, or to the
sentence that refuses them. Generality: EfficientNet-Lite0 as its exporter wrote it (input `input.1`), asked through
`OnnxSession`, which `measure` times, and by a bare loop over an onnxruntime session. Both are open in one process on
one thread; calls alternate, and the thread's processor time is compared: other programs on the machine change it less.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from markdown import RESULTS, ROOT, provenance, table, write_between

SHARED = ROOT.parent / "shared"
REAL = Path.home() / ".cache" / "microbudget-real" / "efficientnet-lite0"
CHILD = """
import json, resource, sys, time
from pathlib import Path
from microbudget.errors import MicrobudgetError
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, open_data

model, data, cache = sys.argv[1:]
said = ""
try:
    found = load(model)
    if data:
        open_data(data, found.task, DataOptions(splits=False, cache=Path(cache)))
except MicrobudgetError as error:
    said = str(error)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"processor_s": used.ru_utime + used.ru_stime, "said": said}))
"""
DRAWS = 2000


@dataclass(frozen=True)
class Opened:
    """Of one input: seconds of processor time and by the clock; what refused it, or nothing."""

    name: str
    processor_s: float
    clock_s: float
    said: str


def opened(case: Path, cache: Path) -> Opened:
    """Open what the case's command names."""
    words = shlex.split((case / "cmd").read_text(encoding="utf-8"))
    model = words[words.index("--model") + 1] if "--model" in words else words[2]
    data = words[words.index("--data") + 1] if "--data" in words else ""
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", CHILD, model, data, str(cache)]
    done = subprocess.run(command, cwd=case, capture_output=True, encoding="utf-8", check=True)
    return Opened(case.name, clock_s=time.perf_counter() - started, **json.loads(done.stdout))


@dataclass(frozen=True)
class Generality:
    """Processor time of a call through `OnnxSession` and by a bare loop, in seconds; their ratio with its interval."""

    ours_s: float
    bare_s: float
    ratio: float
    low: float
    high: float


def generality(folder: Path, pairs: int) -> Generality:
    """Alternating calls on one photo, (1, 3, 224, 224)."""
    import onnxruntime

    from microbudget.runtimes.loading import load
    from microbudget.runtimes.onnx.session import open_session

    model = load(folder)
    ours = open_session(model, threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(str(model.weights), options, providers=["CPUExecutionProvider"])
    (port,) = bare.get_inputs()
    pixels = {port.name: np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)}
    outputs = [bare.get_outputs()[0].name]
    calls = {"ours": lambda: ours.answer(pixels), "bare": lambda: bare.run(outputs, pixels)[0]}
    np.testing.assert_array_equal(calls["ours"](), calls["bare"]())
    times = np.array([list(_one_pair(calls, number)) for number in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    drawn = np.random.default_rng(1).choice(ratios, (DRAWS, pairs))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Generality(*np.median(times, axis=0), float(np.median(ratios)), float(low), float(high))


def _one_pair(calls: dict[str, Any], number: int) -> Iterator[float]:
    """Seconds of both, ours first in every other pair."""
    order = list(calls) if number % 2 else list(calls)[::-1]
    taken = {}
    for name in order:
        started = time.thread_time_ns()
        calls[name]()
        taken[name] = (time.thread_time_ns() - started) / 1e9
    yield from (taken[name] for name in calls)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300, help="of calls of EfficientNet-Lite0")
    options = parser.parse_args()
    cases = [case for case in sorted((SHARED / "cases").iterdir()) if (case / "cmd").is_file()]
    with TemporaryDirectory() as cache:
        found = [opened(case, Path(cache)) for case in cases]
    rows = [
        (f"`{one.name}`", f"{one.processor_s:.2f} s", f"{one.clock_s:.2f} s", "refused" if one.said else "opened")
        for one in found
    ]
    slowest = max(found, key=lambda one: one.processor_s)
    text = table(("input", "processor time", "by the clock", "result"), rows)
    text += f"\n\nThe slowest takes {slowest.processor_s:.2f} s of processor time (`{slowest.name}`); the goal is 2 s."
    write_between(RESULTS / "opening.md", "cases", f"{text}\n\n{provenance('opening.py')}")
    cost = generality(REAL, options.pairs)
    rows = [
        ("`OnnxSession`, as `measure` times it", f"{cost.ours_s * 1e3:.2f} ms"),
        ("a bare loop over onnxruntime's session", f"{cost.bare_s * 1e3:.2f} ms"),
        ("the first over the second", f"{cost.ratio:.3f} ({cost.low:.3f} to {cost.high:.3f})"),
    ]
    head = ("one photo, one thread", f"processor time of a call, median of {options.pairs} pairs")
    write_between(RESULTS / "opening.md", "generality", f"{table(head, rows)}\n\n{provenance('opening.py')}")


if __name__ == "__main__":
    main()
