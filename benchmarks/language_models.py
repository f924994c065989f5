"""Language models at every level: loss, bytes, speed, memory, and what quantizing takes next to llama.cpp's own.

    python benchmarks/language_models.py                        all of it: about an hour on 2 quiet cores
    python benchmarks/language_models.py --part quality         one part: see PARTS
    python benchmarks/language_models.py --minutes 5            stops in time; the next call goes on
    python benchmarks/language_models.py --stock FOLDER         a prebuilt libllama with `llama_model_quantize`

The stock quantizer is npm's: `npm pack @node-llama-cpp/linux-x64`, unpack it anywhere, and give its bins/linux-x64.
Models are lm-python (quality) and a random Llama of the 110M shape that `models` makes: 12 layers of 768, 32,000 words,
tied. Every file is made and weighed in a process of its own. Rows stay in runs/language/; tables and figure go into
docs/results/language.md, docs/pictures/language.svg and the README.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import language_tables
from language_settings import ASSETS, CONTEXTS, REAL, SHAPE, STOCK, TEXTS, TIMED, WEIGHED, variants
from markdown import ROOT
from microbudget.judge import Worker, time_one, time_pair
from microbudget.judge.judging import judging_of
from microbudget.kinds.language_modelling.divergence import compare_with_kept, keep_predictions
from microbudget.kinds.language_modelling.levels import level_name
from microbudget.kinds.language_modelling.predictions import Predictions
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runs.run import Run
from microbudget.runtimes.gguf.types import UNWEIGHTED
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from results import Results

HERE, STORE = Path(__file__).parent, ROOT / "runs" / "language"
TRAIN = ASSETS / "text" / "python" / "train.txt"
VOCABULARY = ("wikitext-2/valid.txt", "tinyshakespeare/input.txt", "tinystories/TinyStories-valid.txt")
PASSAGES = 64  # of a text: 20,000 tokens
THREADS = int(os.environ.get("THREADS", "2"))  # 1 on a busy machine: llama.cpp's threads spin for one another
REPEATS = 3
PAIR_S, PREFILL_S = 12.0, 6.0
PARTS = ("models", "quality", "size", "memory", "cost", "speed", "tables")


def folder_of(model: str) -> Path:
    return ASSETS / "models" / REAL if model == REAL else STORE / SHAPE


def matrix_of(model: str) -> Path:
    return STORE / f"{model}.imatrix.gguf"


def f16(model: str) -> Path:
    return STORE / f"{model}.F16.gguf"


def file_of(model: str, level: str, weighted: bool) -> Path:
    return f16(model) if level == "F16" else STORE / "files" / f"{model}.{level}{'.imatrix' if weighted else ''}.gguf"


def step(name: str, *arguments: object) -> dict[str, Any]:
    """Run a step of language_steps.py in a fresh process; its row, or its failure."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", HERE, ROOT / "tests")))}
    command = [sys.executable, str(HERE / "language_steps.py"), name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def make_models(results: Results, deadline: float) -> None:
    """The random model, both in float16, and their importance matrices."""
    if not (STORE / SHAPE / "model.safetensors").is_file():
        step("random", STORE / SHAPE, TRAIN, *(ASSETS / "text" / path for path in VOCABULARY))
    for model in (REAL, SHAPE):
        if results.fill(f"convert {model}", lambda m=model: step("convert", folder_of(m), f16(m)), deadline):
            return
        passages = 128 if model == REAL else 8  # of a random model the matrix says nothing, but takes part in the cost
        made = lambda m=model, p=passages: step("imatrix", f16(m), TRAIN, matrix_of(m), p, THREADS)  # noqa: E731
        if results.fill(f"imatrix {model}", made, deadline):
            return


def quantized(results: Results, model: str, level: str, weighted: bool) -> Path | None:
    """The file of a level, made in a process that reports its seconds and memory; None where that fails."""
    path = file_of(model, level, weighted)
    key = f"quantize {model} {level} {'imatrix' if weighted else 'plain'}"
    if not path.is_file() or key not in results.rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = matrix_of(model) if weighted else "none"
        results.put(key, step("quantize", f16(model), level, matrix, path, THREADS))
    return path if "failure" not in results.rows[key] else None


def measure_quality(results: Results, deadline: float) -> None:
    """KL and bits per byte of every variant of lm-python on text of its kind, of the usual levels on other text."""
    for name, relative in TEXTS.items():
        task = TextTask.open(ASSETS / relative, DataOptions(splits=False), most={"test": PASSAGES})
        examples = task.examples("test")
        store = Predictions(STORE / f"predictions-{name}")
        with judging_of(task).start_worker() as reference, judging_of(task).start_worker() as candidate:
            reference.open(load(folder_of(REAL)), threads=THREADS)

            def measured(
                costs: Any, divergence: Any = None, task: Any = task, examples: Any = examples
            ) -> dict[str, Any]:
                row = {"bits_per_byte": task.score(costs, examples).value, "tokens": int(costs[:, 1].sum())}
                return row | ({} if divergence is None else divergence.as_dict())

            def first(task: Any = task, examples: Any = examples, store: Any = store, worker: Any = reference) -> Any:
                return measured(keep_predictions(worker, task, examples, store))

            def row(path: Path, task: Any = task, examples: Any = examples, store: Any = store) -> Any:
                candidate.open(load(path), threads=THREADS)
                comparison = compare_with_kept(lambda: reference, candidate, task, examples, store)
                return measured(comparison.costs, comparison.divergence)

            if results.fill(f"quality {name} float32", first, deadline):
                return
            wanted = sorted((("F16", False), *variants()), key=lambda one: one[0] not in TIMED)  # what most use first
            if name != "python":
                wanted = [(level, level not in UNWEIGHTED) for level in TIMED]
            for level, weighted in wanted:
                path = quantized(results, REAL, level, weighted) if level != "F16" else f16(REAL)
                key = f"quality {name} {level} {'imatrix' if weighted else 'plain'}"
                if path is not None and results.fill(key, lambda path=path: row(path), deadline):
                    return


def check_sizes(results: Results, deadline: float) -> None:
    """Predicted bytes of every level next to those of the file."""
    for model in (REAL, SHAPE):
        if results.fill(f"sizes {model}", lambda m=model: step("sizes", folder_of(m)), deadline):
            return
    for level in STOCK:
        quantized(results, SHAPE, level, level not in UNWEIGHTED)


def weigh(results: Results, deadline: float) -> None:
    """Memory of fresh processes next to the prediction."""
    for model in (REAL, SHAPE):
        for level in WEIGHED:
            path = file_of(model, level, level not in UNWEIGHTED)
            for context in CONTEXTS if model == SHAPE else CONTEXTS[:1]:
                key = f"memory {model} {level} {context}"
                if not path.is_file():
                    quantized(results, model, level, level not in UNWEIGHTED)
                if results.fill(key, lambda p=path, c=context: step("memory", p, c), deadline):
                    return


def compare_cost(results: Results, deadline: float, stock: Path | None) -> None:
    """Seconds of ours and of llama.cpp's own quantizer on the same file, interleaved, each in fresh processes."""
    if stock is None:
        print("cost: without --stock there is nothing to compare with")
        return
    for level in STOCK:
        weighted = level.startswith("IQ") and level != "IQ4_XS"
        matrix = matrix_of(SHAPE) if weighted else "none"

        def turns(level: str = level, matrix: Any = matrix) -> dict[str, Any]:
            rows: dict[str, list[dict[str, Any]]] = {"ours": [], "stock": []}
            for _ in range(REPEATS):
                made = STORE / "ours.gguf", STORE / "stock.gguf"
                rows["ours"].append(step("quantize", f16(SHAPE), level, matrix, made[0], THREADS))
                rows["stock"].append(step("stock", stock, f16(SHAPE), level, matrix, made[1], THREADS))
            same = hashlib.sha256(made[0].read_bytes()).digest() == hashlib.sha256(made[1].read_bytes()).digest()
            for path in made:
                path.unlink(missing_ok=True)
            return {**rows, "same_file": same}

        if results.fill(f"cost {level}", turns, deadline):
            return


def measure_speed(results: Results, deadline: float) -> None:
    """Decode and prefill of every level interleaved with torch float32, and of ONNX Runtime."""
    import numpy as np

    from decoder_onnx import export

    if not (STORE / SHAPE / "decoder.onnx").is_file():
        export(STORE / SHAPE)
    task = TextTask.open(ASSETS / TEXTS["python"], DataOptions(splits=False), most={"test": 4})
    decode = task.sample(task.examples("test"))
    prefill = {"prefill": decode["decode"], "depth": np.array([256])}
    with Worker(timeout_s=600) as reference:
        reference.open(load(STORE / SHAPE), threads=THREADS)

        def pair(level: str) -> dict[str, Any]:
            opener = {"opener": "decoder_onnx:open_decoder"} if level == "onnxruntime" else {}
            model = load(STORE / SHAPE) if opener else load(file_of(SHAPE, level, level not in UNWEIGHTED))
            with Worker(timeout_s=600, **opener) as worker:
                worker.open(model, threads=THREADS)
                row: dict[str, Any] = {"runtime": worker.runtime, "reference": reference.runtime, "threads": THREADS}
                for kind, inputs, seconds in (("decode", decode, PAIR_S), ("prefill", prefill, PREFILL_S)):
                    timed = time_pair(reference, worker, inputs, seconds=seconds)
                    row[kind] = {
                        **{"ratio": timed.ratio, "low": timed.low, "high": timed.high, "verdict": timed.verdict},
                        **{"reference_s": timed.reference.median_s, "candidate_s": timed.candidate.median_s},
                    }
                return row

        for level in ("Q4_0", "onnxruntime", *(level for level in TIMED if level != "Q4_0")):
            if level != "onnxruntime" and level != "F16":
                quantized(results, SHAPE, level, level not in UNWEIGHTED)
            if results.fill(f"speed {level}", lambda level=level: pair(level), deadline):
                return


def measure_small_speed(results: Results, deadline: float) -> None:
    """Tokens per second of every level of lm-python, for the figure of speed against bytes."""
    task = TextTask.open(ASSETS / TEXTS["python"], DataOptions(splits=False), most={"test": 4})
    for level in TIMED:
        path = file_of(REAL, level, level not in UNWEIGHTED)

        def alone(path: Path = path) -> dict[str, Any]:
            with Worker(timeout_s=600) as worker:
                worker.open(load(path), threads=THREADS)
                return time_one(worker, task.sample(task.examples("test"))).as_dict()

        if path.is_file() and results.fill(f"alone {level}", alone, deadline):
            return


def import_run(results: Results, run: Path) -> None:
    """The levels that `shrink` measured, on its own validation split."""
    for row in Run(run).candidates():
        name, found = level_name(row), row.measurement
        if name is not None and found is not None and "divergence" in found.extra:
            kept = {"size_bytes": found.size_bytes, "bits_per_byte": found.quality, "examples": found.examples}
            results.put(f"run {name}", {**kept, **found.extra["divergence"]})
        elif found is not None and found.format == "hf":
            results.put("run float32", {"size_bytes": found.size_bytes, "bits_per_byte": found.quality})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--run", type=Path, help="a run of `shrink` on lm-python whose levels fill the tables")
    parser.add_argument("--stock", type=Path, help="folder of a prebuilt libllama with llama_model_quantize")
    options = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    results, deadline = Results(STORE / "results.json"), time.monotonic() + 60 * options.minutes
    if options.run:
        import_run(results, options.run)
    for part in options.part or PARTS:
        if part == "models":
            make_models(results, deadline)
        elif part == "quality":
            measure_quality(results, deadline)
        elif part == "size":
            check_sizes(results, deadline)
        elif part == "memory":
            weigh(results, deadline)
        elif part == "cost":
            compare_cost(results, deadline, options.stock)
        elif part == "speed":
            measure_speed(results, deadline)
            measure_small_speed(results, deadline)
        else:
            language_tables.write(results.rows)


if __name__ == "__main__":
    main()
