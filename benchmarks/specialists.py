"""Small specialists against a large generalist, on labelled texts: every way learns from the same texts in one run.

    python benchmarks/specialists.py                              SST-2, all labels; can be killed and goes on
    python benchmarks/specialists.py --set trec --labels 16 100   another set; so many labels a class
    python benchmarks/specialists.py --only words --set rte       some ways
    python benchmarks/specialists.py --part tables                write the tables and the figure

Each way learns from the train split, of which a tenth is validation, and is judged on the split that the set's authors
keep apart (SST-2: dev), else on a fifth of the texts. With all labels of SST-2 it is also timed, on one thread,
interleaved with the fine-tuned encoder in torch, on a text of middle length, tokenizer included. The peer is
onnxruntime's dynamic int8 of the same fine-tuned encoder, with the options that its documentation names for
transformers. The generalist is SmolLM2-135M-Instruct in Q8_0 behind a prompt that names the question, judged on the
first 400 texts. Needs ../shared/assets/text and the weights of `../shared/real/make.py minilm-l6 smollm2-135m`.
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

from markdown import ROOT
from microbudget.judge import time_pair
from microbudget.judge.judging import Judging, Opening, judging_of
from microbudget.kinds.language_modelling.text import TextTask as Language
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.search_space import epochs_for
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import TO_TRAIN, DataOptions
from results import Results
from specialists_tables import write
from specialists_ways import ASKED, COMMON, PEER, SETS, TORCH, WAYS

STORE = ROOT / "runs" / "specialists"
REAL = Path.home() / ".cache" / "microbudget-real"
MODEL, LLM = REAL / "minilm-l6", REAL / "smollm2-135m"
TEXTS = ROOT.parent / "shared" / "assets" / "text"
THREADS, SECONDS = 1, 6.0
VALIDATION, TEST = 0.1, 0.2
MOST_ASKED = 400  # test texts of the language model: each takes a quarter of a second and more
Row = tuple[str, ...]  # a text or a pair, then the label


def rows_of(name: str) -> tuple[list[Row], list[Row]]:
    """The texts of a set with their labels: to learn from, and to judge on."""
    if name == "sst2":
        read = [
            [tuple(line.split("\t")[:2]) for line in (TEXTS / "sst2" / file).read_text("utf-8").splitlines()]
            for file in ("train.tsv", "dev.tsv")
        ]
        return read[0], read[1]
    found: list[Row] = []
    if name == "ag_news":
        classes = (TEXTS / "ag_news" / "classes.txt").read_text("utf-8").split("\n")
        with (TEXTS / "ag_news" / "test.csv").open(encoding="utf-8", newline="") as stream:
            found = [(f"{title}. {text}", classes[int(place) - 1]) for place, title, text in csv.reader(stream)]
    else:
        with (TEXTS / "labelled" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            found = [tuple(row.values()) for row in csv.DictReader(stream)]
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
    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in learnt:
        by_class[row[-1]].append(row)
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": judged}
    for rows in by_class.values():
        chosen = rows[: labels or None]
        held = max(2, round(VALIDATION * len(chosen)))
        parts["validation"] += chosen[:held]
        parts["train"] += chosen[held:]
    head = ("text", "label") if len(learnt[0]) == 2 else ("text1", "text2", "label")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as partial:
        for split, rows in parts.items():
            with (partial / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([head, *rows])
    return folder


def opened(name: str, labels: int) -> TextTask:
    """The task of a set, with the splits of its tables."""
    return TextTask.open(folder_of(name, labels), DataOptions(seed=TO_TRAIN.seed))


def generalist() -> Model:
    """SmolLM2 in Q8_0: as accurate as its bfloat16, and the fastest."""
    text = STORE / "any.txt"
    text.write_text("A text, which this export does not read. " * 200, encoding="utf-8")
    context = Context(Language.open(text), STORE / "cache")
    return build(load(LLM), Recipe.read("export(format='gguf') > quantize(type='Q8_0')"), context, STORE / "llm")[-1]


def recipe_of(way: str, name: str, task: TextTask) -> Recipe:
    """The recipe of a way for a set."""
    epochs = epochs_for(len(task.examples("train")))
    taught = f"finetune(unfreeze='all', deep_epochs={epochs}, deep_patience={epochs})"
    text, options = WAYS[way], SETS[name].options
    llm = str(generalist().path) if "{llm}" in text else ""
    for place, value in {"taught": taught, "prompt": options, "llm": llm, "folder": str(LLM)}.items():
        text = text.replace(f"{{{place}}}", value)
    return Recipe.read(text)


def built(way: str, name: str, task: TextTask, store: Path) -> tuple[Model, float]:
    """The model of one way, and the seconds that all of its steps took, if none was there."""
    context, started = Context(task, store / "cache"), time.monotonic()
    if way == PEER:
        exported = recipe_of("the same, ONNX", name, task)
        return _peer(build(load(MODEL), exported, context, store / "models")[-1], store)
    made = build(load(MODEL), recipe_of(way, name, task), context, store / "models")[-1]
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
    examples = task.examples("test")[: MOST_ASKED if way in ASKED else None]
    truth = np.array([example.label for example in examples])
    if way == COMMON:
        common = Counter(example.label for example in task.examples("train")).most_common(1)[0][0]
        return {"right": (truth == common).tolist(), "size_bytes": 0, "seconds": 0.0, "speed": None}
    model, seconds = built(way, name, task, store)
    judging = judging_of(task)
    with judging.opened(model, None, Opening(0)) as worker:
        right = judging.answers(model, examples, worker).argmax(1) == truth
    speed = None
    if (name, labels) == ("sst2", 0):
        with judging.opened(model, None, Opening(THREADS)) as worker:
            speed = _speed(judging, built(TORCH, name, task, store)[0], model, worker, task)
    return {"right": right.tolist(), "size_bytes": model.size_bytes, "seconds": seconds, "speed": speed}


def _speed(judging: Judging, reference: Model, model: Model, worker: Any, task: TextTask) -> list[float]:
    """Seconds of the model, and how many times as fast as the reference it is, with the interval."""
    inputs = [judging.timing_input(each, task.examples("test")) for each in (reference, model)]
    with judging.opened(reference, None, Opening(THREADS)) as other:
        pair = time_pair(other, worker, *inputs, seconds=SECONDS)
    return [pair.candidate.median_s, pair.ratio, pair.low, pair.high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="sst2", choices=tuple(SETS))
    parser.add_argument("--labels", type=int, nargs="+", default=[0], help="of each class; 0: all")
    parser.add_argument("--only", nargs="+", default=[""], help="ways whose name has one of these in it")
    parser.add_argument("--part", choices=("tables",))
    options = parser.parse_args()
    if not (MODEL.is_dir() and LLM.is_dir() and TEXTS.is_dir()):
        sys.exit(f"needs {MODEL} and {LLM} (../shared/real/make.py minilm-l6 smollm2-135m) and {TEXTS}")
    STORE.mkdir(parents=True, exist_ok=True)
    results = Results(STORE / "results.json")
    for labels in options.labels if options.part is None else ():
        for way in WAYS:
            if any(part in way for part in options.only):
                row = f"{options.set}-{labels}/{way}"
                results.fill(row, lambda way=way, labels=labels: measured(way, options.set, labels), float("inf"))  # type: ignore[misc]
    write(results.parts())


if __name__ == "__main__":
    main()
