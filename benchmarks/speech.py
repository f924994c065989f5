"""Whisper made smaller: every lever alone and all together, against transformers and faster-whisper.

    python benchmarks/speech.py                    everything; can be killed and goes on
    python benchmarks/speech.py --part models      build the models
    python benchmarks/speech.py --part quality     word error rates on speech/words/validation
    python benchmarks/speech.py --part speed       times and memory, all interleaved (wants a quiet machine, 6 minutes)
    python benchmarks/speech.py --part curve       bytes of the vocabulary against errors
    python benchmarks/speech.py --part recovery    one decoder layer: cut, and taught (wants a quiet machine)
    python benchmarks/speech.py --part shapes      random networks in the shapes of whisper-tiny and -base (quiet)
    python benchmarks/speech.py --part tables      write docs/results/speech.md, the README and the picture

Trained on speech/words/train alone, of which a part is held out for early stopping; judged on speech/words/validation,
which no method reads. What is there in runs/speech/ is not made again. Everything is greedy,
and timed on one thread and on two.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import speech_shapes
import speech_tables
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build, planned
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import SPLITS, DataOptions
from results import Results
from speech_settings import BEFORE, CURVE, DISTILL_1, MODEL, RECOVERY, ROWS, STORE, THREADS, WORDS


class Worker:
    """A process of `speech_worker.py`."""

    def __init__(self, way: str, folder: Path, threads: int = THREADS) -> None:
        kind, *options = way.split()
        command = [sys.executable, str(Path(__file__).with_name("speech_worker.py")), kind, str(folder), *options]
        # Threads that wait must not spin: here they wait for other processes.
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self._read()

    def transcribe(self, files: Sequence[Path]) -> dict[str, Any]:
        """Texts, seconds and the peak of memory so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(file) for file in files]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended with {self._process.wait()}")
        return dict(json.loads(line))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def data() -> Path:
    """speech/words/train in three splits: every eighth recording is held out for early stopping.

    Without a test split of its own (which no method reads) half of what is held out would become one.
    """
    folder = STORE / "data"
    if (folder / "test").is_dir():
        return folder
    with (WORDS / "train" / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with whole_folder(folder) as partial:
        for split in SPLITS:
            chosen = [row for number, row in enumerate(rows) if split_of(number) == split]
            (partial / split).mkdir()
            for row in chosen:
                shutil.copyfile(WORDS / "train" / row["file_name"], partial / split / row["file_name"])
            with (partial / split / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(chosen)
    return folder


def split_of(number: int) -> str:
    """Where the recording of this number goes."""
    return "validation" if number % 8 == 0 else "test" if number % 40 == 1 else "train"


def context(threads: int = 1) -> Context:
    """What the methods see: nothing of speech/words/validation."""
    task = TranscriptionTask.open(data(), DataOptions(cache=STORE / "cache"))
    return Context(task, STORE / "cache", threads=threads, progress=Progress())


def judged() -> TranscriptionTask:
    """The recordings that are judged on."""
    return TranscriptionTask.open(WORDS / "validation", DataOptions(splits=False, cache=STORE / "cache"))


def made(recipe: str, model: Path = MODEL) -> Model:
    """The model of a recipe, built where it is missing."""
    given = load(model)
    return build(given, Recipe.parse(recipe), context(), STORE / "models")[-1] if recipe else given


def size_bytes(model: Model) -> int:
    return model.size_bytes


def build_all() -> None:
    recipes = {recipe for _, recipe in ROWS.values()} | {recipe for _, recipe in RECOVERY.values()} | {*CURVE.values()}
    for recipe in sorted(recipes, key=lambda recipe: (recipe.startswith("distill"), recipe)):
        print(f"{recipe or 'as given'}: {size_bytes(made(recipe))} bytes", file=sys.stderr, flush=True)


def quality(results: Results, part: str, ways: Mapping[str, tuple[str, str]]) -> None:
    """Texts of all judged recordings by each way."""
    task = judged()
    examples = task.examples("test")
    for name, (way, recipe) in sorted(ways.items(), key=lambda item: item[1][1].startswith("distill")):  # slow: last
        if results.get(f"{part}/{name}") is not None:
            continue
        model = made(recipe)
        with Worker(way, model.path) as worker:
            texts = worker.transcribe([task.path_of(example) for example in examples])["texts"]
        scores = task.score(np.array(texts), examples)
        row = {
            "wer": scores.value,
            "errors": scores.numerator.tolist(),
            "words": scores.denominator.tolist(),
            "size_bytes": size_bytes(model),
            "texts": texts,
            "recipe": recipe,
        }
        results.put(f"{part}/{name}", row)
        print(f"{name}: wer {scores.value:.4f}, {row['size_bytes']:,} bytes", file=sys.stderr, flush=True)


def speed(results: Results, part: str, ways: Mapping[str, tuple[str, Path]], *, rounds: int, files: int) -> None:
    """All ways interleaved, in processes of their own: seconds of each round over the same recordings.

    Each with one thread and with all, and the faster counts: in networks as small as these threads wait for each other.
    """
    if results.get(f"{part}/rounds") is not None:
        return
    task = judged()
    examples = sorted(task.examples("test"), key=task.seconds)
    step = len(examples) / files
    chosen = [examples[int((place + 0.5) * step)] for place in range(files)]
    paths = [task.path_of(example) for example in chosen]
    heard_s = sum(task.seconds(example) for example in chosen)
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        workers = {
            (name, threads): stack.enter_context(Worker(way, folder, threads))
            for name, (way, folder) in ways.items()
            for threads in range(1, THREADS + 1)
        }
        peaks = {both: worker.transcribe(paths[:1])["peak_bytes"] for both, worker in workers.items()}
        seconds: dict[tuple[str, int], list[float]] = {both: [] for both in workers}
        for index in range(rounds):
            for place in rng.permutation(len(workers)):
                both, worker = list(workers.items())[place]
                worker.transcribe(paths[:1])  # caches are another's
                seconds[both].append(sum(worker.transcribe(paths)["seconds"]))
            print(f"{part}: round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    best = {name: min(range(1, THREADS + 1), key=lambda n: float(np.median(seconds[name, n]))) for name in ways}
    results.put(f"{part}/peaks", {name: peaks[name, threads] for name, threads in best.items()})
    results.put(f"{part}/heard", {"seconds": heard_s, "recordings": files})
    results.put(f"{part}/threads", best)
    results.put(f"{part}/rounds", {name: seconds[name, threads] for name, threads in best.items()})


def recovery(results: Results) -> None:
    """How long one decoder layer is taught on one thread; the cache is empty, so the teacher runs in this time."""
    if results.get("recovery/cost") is not None:
        return
    given, step = made(BEFORE), Recipe.parse(DISTILL_1)
    own = replace(context(), cache=STORE / "recovery")
    for folder in (own.cache, planned(given, step, own, STORE / "models").path):
        shutil.rmtree(folder, ignore_errors=True)
    began, processor = time.monotonic(), time.process_time()
    report = build(given, step, own, STORE / "models")[-1].record.history["distill"]
    row = {
        "seconds": time.monotonic() - began,
        "processor_s": time.process_time() - processor,
        **{key: value for key, value in report.items() if key != "epochs"},
        "epochs": len(report["epochs"]),
    }
    results.put("recovery/cost", row)


def shapes(results: Results, rounds: int) -> None:
    """Build what is missing, then time all ways of a shape interleaved."""
    for name in speech_shapes.SHAPES:
        folder = speech_shapes.write(name)
        ways = {}
        for way, (how, recipe) in speech_shapes.WAYS.items():
            model = made(recipe, folder)
            results.put(f"shapes {name} sizes/{way}", model.size_bytes)
            ways[way] = (how, model.path)
        speed(results, f"shapes {name}", ways, rounds=rounds, files=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("recovery", "models", "quality", "speed", "curve", "shapes", "tables")
    parser.add_argument("--part", choices=parts)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    results = Results(STORE / "results.json")
    work = {
        "models": build_all,
        "quality": lambda: quality(results, "quality", {**ROWS, **RECOVERY}),
        "speed": lambda: speed(
            results,
            "speed",
            {
                name: (way, made(recipe).path)
                for name, (way, recipe) in ROWS.items()
                if results.get(f"quality/{name}") is not None
            },
            rounds=options.rounds,
            files=8,
        ),
        "curve": lambda: quality(results, "curve", {name: ("microbudget", recipe) for name, recipe in CURVE.items()}),
        "recovery": lambda: recovery(results),
        "shapes": lambda: shapes(results, rounds=max(3, options.rounds // 2)),
        "tables": lambda: speech_tables.write(results.parts()),
    }
    for part in (options.part,) if options.part else parts:
        work[part]()


if __name__ == "__main__":
    main()
