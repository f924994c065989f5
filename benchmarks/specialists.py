"""Small specialists on labelled texts: what each way of making one gives, on the same texts in one run.

    python benchmarks/specialists.py                          SST-2; can be killed and goes on (half an hour, quiet)
    python benchmarks/specialists.py --set trec --labels 100  another set; so many labels a class
    python benchmarks/specialists.py --part tables            write the tables

Each way learns from the train split, of which a tenth is validation, and is judged on the split that the set's authors
keep apart (SST-2: dev), else on a fifth of the texts. Timed on one thread, interleaved with the fine-tuned encoder in
torch, on a text of middle length, tokenizer included. The peer is onnxruntime's dynamic int8 of the same fine-tuned
encoder, with the options that its documentation names for transformers. Needs ../shared/assets/text and the weights of
`../shared/real/make.py minilm-l6`.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.judge import time_pair
from microbudget.judge.judging import Judging, Opening, judging_of
from microbudget.judge.statistics import wilson
from microbudget.kinds.text_classification.data import TextTask
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import TO_TRAIN, DataOptions
from results import Results

STORE = ROOT / "runs" / "specialists"
MODEL = Path.home() / ".cache" / "microbudget-real" / "minilm-l6"
TEXTS = ROOT.parent / "shared" / "assets" / "text"
THREADS, SECONDS = 1, 6.0
VALIDATION, TEST = 0.1, 0.2
TAUGHT = "finetune(unfreeze='all', deep_epochs=4, deep_patience=4)"
TORCH, PEER, COMMON = "fine-tuned, torch float32", "the same, onnxruntime's dynamic int8", "most frequent class"
# name -> the recipe, "" for what is none
WAYS = {
    COMMON: "",
    "words, logistic regression": "tfidf",
    "characters, logistic regression": "tfidf(unit='char')",
    "frozen encoder, linear head, ONNX": "finetune > export",
    TORCH: TAUGHT,
    "static embeddings taught by it": f"{TAUGHT} > distill(student='static', epochs=28)",
    "the same, ONNX": f"{TAUGHT} > export",
    PEER: "",
    "the same, int8": f"{TAUGHT} > export > quantize",
    "the same, trimmed, int8": f"{TAUGHT} > trim(keep=8000) > export > quantize",
}


def rows_of(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The texts of a set with their labels: to learn from, and to judge on."""
    if name == "sst2":
        read = [
            [tuple(line.split("\t")[:2]) for line in (TEXTS / "sst2" / file).read_text("utf-8").splitlines()]
            for file in ("train.tsv", "dev.tsv")
        ]
        return read[0], read[1]
    with (TEXTS / "labelled" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        found = [(row["text"], row["label"]) for row in csv.DictReader(stream)]
    random.Random(0).shuffle(found)
    count = round(TEST * len(found))
    return found[count:], found[:count]


def folder_of(name: str, labels: int) -> Path:
    """Tables train, validation and test of a set. labels: of each class at most, of train and validation; 0: all."""
    folder = STORE / "data" / f"{name}-{labels}"
    if folder.is_dir():
        return folder
    learnt, judged = rows_of(name)
    random.Random(1).shuffle(learnt)
    by_class: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in learnt:
        by_class[row[1]].append(row)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": judged}
    for rows in by_class.values():
        chosen = rows[: labels or None]
        held = max(2, round(VALIDATION * len(chosen)))
        parts["validation"] += chosen[:held]
        parts["train"] += chosen[held:]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as partial:
        for split, rows in parts.items():
            with (partial / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


def opened(name: str, labels: int) -> TextTask:
    """The task of a set, with the splits of its tables."""
    return TextTask.open(folder_of(name, labels), DataOptions(seed=TO_TRAIN.seed))


def built(way: str, task: TextTask, store: Path) -> tuple[Model, float]:
    """The model of one way, and the seconds that all of its steps took."""
    context, started = Context(task, store / "cache"), time.monotonic()
    if way == PEER:
        return _peer(build(load(MODEL), Recipe.read(WAYS["the same, ONNX"]), context, store / "models")[-1], store)
    made = build(load(MODEL), Recipe.read(WAYS[way]), context, store / "models")[-1]
    return made, time.monotonic() - started


def _peer(model: Model, store: Path) -> tuple[Model, float]:
    """onnxruntime.quantization.quantize_dynamic, weights per channel, in 7 bits where 8 would saturate."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from microbudget.methods.quantize.scheme import Machine

    out, started = store / "peer", time.monotonic()
    if not out.is_dir():
        with whole_folder(out) as partial:
            quantize_dynamic(
                str(model.weights),
                str(partial / "model.onnx"),
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=Machine.here().saturates,
            )
            for file in ("tokenizer.json", "microbudget.json"):
                shutil.copyfile(model.path / file, partial / file)
    return load(out), time.monotonic() - started


def measured(way: str, name: str, labels: int) -> dict[str, Any]:
    """Of one way: which test texts it has right, its size, its time against the fine-tuned encoder in torch."""
    task, store = opened(name, labels), STORE / f"{name}-{labels}"
    examples = task.examples("test")
    truth = np.array([example.label for example in examples])
    if way == COMMON:
        common = Counter(example.label for example in task.examples("train")).most_common(1)[0][0]
        return {"right": (truth == common).tolist(), "size_bytes": 0, "seconds": 0.0, "speed": None}
    model, seconds = built(way, task, store)
    reference, _ = built(TORCH, task, store)
    judging = judging_of(task)
    with judging.opened(model, None, Opening(THREADS)) as worker:
        right = judging.answers(model, examples, worker).argmax(1) == truth
        return {
            "right": right.tolist(),
            "size_bytes": model.size_bytes,
            "seconds": seconds,
            "speed": _speed(judging, reference, model, worker, task),
        }


def _speed(judging: Judging, reference: Model, model: Model, worker: Any, task: TextTask) -> list[float]:
    """Seconds of the model, and how many times as fast as the reference it is, with the interval."""
    inputs = [judging.timing_input(each, task.examples("test")) for each in (reference, model)]
    with judging.opened(reference, None, Opening(THREADS)) as other:
        pair = time_pair(other, worker, *inputs, seconds=SECONDS)
    return [pair.candidate.median_s, pair.ratio, pair.low, pair.high]


def summary(results: Results, key: str) -> str:
    """The table of one set in Markdown."""
    parts = results.parts().get(key, {})
    rows = []
    for way in WAYS:
        if way not in parts:
            continue
        row, right = parts[way], np.array(parts[way]["right"])
        low, high = wilson(float(right.sum()), len(right))
        size, speed = row["size_bytes"], row["speed"]
        rows.append(
            [
                way,
                f"{100 * right.mean():.1f} ({100 * low:.1f}..{100 * high:.1f})",
                f"{size / 1e6:.2f}" if size else "",
                f"{speed[0] * 1e3:.3g}" if speed else "",
                f"{speed[1]:.3g} ({speed[2]:.3g}..{speed[3]:.3g})" if speed else "",
            ]
        )
    texts = len(next(iter(parts.values()))["right"]) if parts else 0
    head = ("way", "accuracy % (95 %)", "MB", "ms, 1 thread", "times as fast")
    return f"{table(head, rows)}\n\nJudged on {texts} texts."


def goals(parts: dict[str, Any]) -> str:
    """The goals of SST-2 with all labels, reached or missed, in Markdown."""
    right = {way: 100 * float(np.mean(row["right"])) for way, row in parts.items()}
    size = {way: row["size_bytes"] / 1e6 for way, row in parts.items()}
    speed = {way: row["speed"][1] for way, row in parts.items() if row["speed"]}
    small, trimmed, static = "the same, int8", "the same, trimmed, int8", "static embeddings taught by it"
    lost, smaller = right[TORCH] - right[small], size[PEER] / size[trimmed]
    faster = speed[small] / speed[PEER]
    rows = [
        (f"{small}: accuracy", "at least 89 %", right[small], right[small] >= 89),
        (f"{small}: points lost to float", "at most 0.5", lost, lost <= 0.5),
        (f"{small}: MB", "under 25", size[small], size[small] < 25),
        (f"{small}: times as fast as torch", "at least 4", speed[small], speed[small] >= 4),
        (f"{trimmed}: times smaller than the peer's", "1.5, or the next", smaller, smaller >= 1.5),
        (f"{small}: times as fast as the peer's", "1.3, or the one before", faster, faster >= 1.3),
        (f"{static}: accuracy", "at least 80 %", right[static], right[static] >= 80),
        (f"{static}: MB", "under 8", size[static], size[static] < 8),
        (f"{static}: times as fast as the encoder in torch", "100", speed[static], speed[static] >= 100),
    ]
    shown = [(what, goal, f"{found:.3g}", "reached" if met else "missed") for what, goal, found, met in rows]
    return table(("goal", "wanted", "measured", ""), shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="sst2", choices=("sst2", "trec", "banking77", "subjectivity"))
    parser.add_argument("--labels", type=int, default=0, help="of each class; 0: all")
    parser.add_argument("--part", choices=("tables",))
    options = parser.parse_args()
    if not (MODEL.is_dir() and TEXTS.is_dir()):
        sys.exit(f"needs {MODEL} (../shared/real/make.py minilm-l6) and {TEXTS}")
    STORE.mkdir(parents=True, exist_ok=True)
    results, key = Results(STORE / "results.json"), f"{options.set}-{options.labels}"
    if options.part is None:
        for way in WAYS:
            row = f"{key}/{way}"
            results.fill(row, lambda way=way: measured(way, options.set, options.labels), float("inf"))  # type: ignore[misc]
    text = [provenance("specialists.py")]
    for each in sorted(results.parts()):
        name, labels = each.rsplit("-", 1)
        text.append(f"**{name}**, {'all labels' if labels == '0' else f'{labels} labels a class'}")
        text.append(summary(results, each))
        if each == "sst2-0" and len(results.parts()[each]) == len(WAYS):
            text.append(goals(results.parts()[each]))
    write_between(RESULTS / "text.md", "specialists", "\n\n".join(text))
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
