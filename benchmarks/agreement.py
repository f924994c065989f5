"""Does `compare` agree with a stopwatch? MobileNetV2 in float32 and int8, both in ONNX Runtime.

    python benchmarks/agreement.py            # about 5 minutes; writes the table of docs/measuring.md

The stopwatch is what anyone would write: a process that opens the file with nothing but onnxruntime, calls it 200 times
and prints the median of `time.perf_counter`. Float and int8 take turns, six fresh processes each, between one `compare`
and the next, so that both instruments meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

import numpy as np

from images import MODEL, PHOTOS
from markdown import ROOT, provenance, table, write_between
from microbudget.build import build
from microbudget.judge import Worker, time_pair
from microbudget.judge.answering import one
from microbudget.judge.twins import PairTiming
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipe import Recipe
from microbudget.tasks import Inputs
from microbudget.tasks.images import ImageTask
from microbudget.units import format_seconds

FLOAT = Recipe.parse("finetune() > export()")
INT8 = Recipe.parse("finetune() > export() > quantize()")
PROCESSES, CALLS, WARM = 6, 200, 20
STOPWATCH = """
import sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {session.get_inputs()[0].name: numpy.load(sys.argv[2])}
durations = []
for _ in range(int(sys.argv[4])):
    started = time.perf_counter()
    session.run(None, feed)
    durations.append(time.perf_counter() - started)
print(sorted(durations[int(sys.argv[5]):])[len(durations[int(sys.argv[5]):]) // 2])
"""


def stopwatch(model: Model, inputs: Path, threads: int) -> float:
    """Seconds of a call, the median of CALLS in a fresh process."""
    arguments = [str(model.weights), str(inputs), str(threads), str(CALLS + WARM), str(WARM)]
    done = subprocess.run([sys.executable, "-c", STOPWATCH, *arguments], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def judged(models: tuple[Model, Model], sample: Inputs, threads: int, seed: int) -> PairTiming:
    """The two in turns, as `compare` times them."""
    with Worker() as first, Worker() as second:
        for worker, model in zip((first, second), models, strict=True):
            worker.open(model, threads=threads)
        return time_pair(first, second, sample, seconds=10.0, seed=seed)


def rows(models: tuple[Model, Model], sample: Inputs, store: Path, rounds: int) -> list[list[str]]:
    """One row for every round and number of threads."""
    inputs, found = store / "inputs.npy", []
    np.save(inputs, sample["pixel_values"])
    for threads in (1, 2):
        for number in range(rounds):
            before = [[stopwatch(model, inputs, threads) for model in models] for _ in range(PROCESSES // 2)]
            timing = judged(models, sample, threads, number)
            after = [[stopwatch(model, inputs, threads) for model in models] for _ in range(PROCESSES // 2)]
            slow, fast = (median(column) for column in zip(*before, *after, strict=True))
            ratios = sorted(a / b for a, b in (*before, *after))
            agrees = timing.low <= slow / fast <= timing.high
            row = [
                str(threads),
                f"{timing.ratio:.3f} ({timing.low:.3f}..{timing.high:.3f})",
                f"{slow / fast:.3f} ({ratios[0]:.2f}..{ratios[-1]:.2f})",
                "yes" if agrees else f"off by {abs(slow / fast / timing.ratio - 1):.1%}",
                f"{format_seconds(timing.reference.median_s)}, {format_seconds(timing.candidate.median_s)}",
                f"{format_seconds(slow)}, {format_seconds(fast)}",
            ]
            print(row, file=sys.stderr, flush=True)
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    store = Path(mkdtemp(prefix="microbudget-"))
    try:
        task = ImageTask.open(PHOTOS, cache=store / "cache")
        context = Context(task, store / "cache")
        models = [build(load(MODEL), recipe, context, store / "models")[-1] for recipe in (FLOAT, INT8)]
        sample = one(models[0], task, task.examples("test"))
        head = ["threads", "`compare` (95 %)", "stopwatch (its processes)", "agree", "latency, `compare`", "stopwatch"]
        text = table(head, rows((models[0], models[1]), sample, store, options.rounds))
    finally:
        shutil.rmtree(store, ignore_errors=True)
    print(text)
    note = f"Float over int8. A stopwatch's figure is the ratio of the medians of {PROCESSES} processes each."
    write_between(ROOT / "docs" / "measuring.md", "agreement", f"{text}\n\n{note} {provenance('agreement.py')}")


if __name__ == "__main__":
    main()
