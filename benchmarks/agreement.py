"""Does `compare` agree with a stopwatch? MobileNetV2 in float32 and int8, both in ONNX Runtime.

    python benchmarks/agreement.py            # about 5 minutes; writes the table of docs/measuring.md

The stopwatch is a process with nothing but onnxruntime and `time.perf_counter`: both files are open in it, and bursts
of calls of the one and the other take turns for ten seconds. Its figure is the ratio of the medians over all calls but
the first of each burst. (Two scripts that run one after the other do not do: on this machine the ratio of two such
medians varied by a quarter from one pair of processes to the next.)
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
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
SECONDS = 10.0
STOPWATCH = """
import sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
options.add_session_config_entry("session.force_spinning_stop", "1")
files, feed = sys.argv[4:], numpy.load(sys.argv[1])
sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
durations = [[] for _ in files]
end = time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    for session, kept in zip(sessions, durations):
        burst = []
        for _ in range(15):
            started = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: feed})
            burst.append(time.perf_counter() - started)
        kept += burst[5:]
print([sorted(kept)[len(kept) // 2] for kept in durations])
"""


def stopwatch(models: tuple[Model, Model], inputs: Path, threads: int) -> tuple[float, float]:
    """Seconds of a call of each, the medians of one process."""
    arguments = [str(inputs), str(SECONDS), str(threads), *(str(model.weights) for model in models)]
    done = subprocess.run([sys.executable, "-c", STOPWATCH, *arguments], check=True, capture_output=True, text=True)
    first, second = json.loads(done.stdout)
    return first, second


def judged(models: tuple[Model, Model], sample: Inputs, threads: int, seed: int) -> PairTiming:
    """The two in turns, as `compare` times them."""
    with Worker() as first, Worker() as second:
        for worker, model in zip((first, second), models, strict=True):
            worker.open(model, threads=threads)
        return time_pair(first, second, sample, seconds=SECONDS, seed=seed)


def rows(models: tuple[Model, Model], sample: Inputs, store: Path, rounds: int) -> list[list[str]]:
    """One row for every round and number of threads."""
    inputs, found = store / "inputs.npy", []
    np.save(inputs, sample["pixel_values"])
    for threads in (1, 2):
        for number in range(rounds):
            before = stopwatch(models, inputs, threads)
            timing = judged(models, sample, threads, number)
            after = stopwatch(models, inputs, threads)
            slow, fast = (sum(pair) / 2 for pair in zip(before, after, strict=True))
            agrees = timing.low <= slow / fast <= timing.high
            row = [
                str(threads),
                f"{timing.ratio:.3f} ({timing.low:.3f}..{timing.high:.3f})",
                f"{slow / fast:.3f} ({before[0] / before[1]:.2f}, {after[0] / after[1]:.2f})",
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
        head = ["threads", "`compare` (95 %)", "stopwatch (before, after)", "agree", "latency, `compare`", "stopwatch"]
        text = table(head, rows((models[0], models[1]), sample, store, options.rounds))
    finally:
        shutil.rmtree(store, ignore_errors=True)
    print(text)
    note = "Float over int8, ten seconds each: the stopwatch before and after `compare`, and the two together."
    write_between(ROOT / "docs" / "measuring.md", "agreement", f"{text}\n\n{note} {provenance('agreement.py')}")


if __name__ == "__main__":
    main()
