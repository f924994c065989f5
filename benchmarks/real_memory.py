"""Memory that is predicted from a model's files, against the memory of a process that opens it; part of `real.py`.

    python benchmarks/real_memory.py                  every model; can be killed and goes on (about three minutes)
    python benchmarks/real_memory.py --part tables    print the table

EfficientNet-Lite0 and MiniLM-L6 in ONNX Runtime, whisper-tiny.en in CTranslate2, SmolLM2-135M in llama.cpp, as they are
and as recipes make them. Each is opened three times; the median counts. Needs ../shared/assets and the weights that
`../shared/real/make.py` makes. Runs in runs/real_memory/.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markdown import ROOT, table
from microbudget.judge.judging import judging_of
from microbudget.judge.memory import of_model
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.progress import Progress
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.search.space import search_space
from microbudget.task import DataOptions, Task, open_data
from real_images import fold
from real_whisper import INT8, WINDOW
from real_whisper import data as recordings
from results import Results

STORE = ROOT / "runs" / "real_memory"
MODELS = Path.home() / ".cache" / "microbudget-real"
TEXT = ROOT.parent / "shared" / "assets" / "text"
TEXTS, TIMES = 240, 3
HEAD = "finetune(epochs=2) > export()"  # which head it is does not matter here
RECIPES = {  # model -> recipes; "" is the model as it is
    "efficientnet-lite0": ("", "quantize()", "quantize(bits=4)"),
    "mobilenet_v2": ("export()", "export() > quantize()"),
    "minilm-l6": (HEAD, f"{HEAD} > quantize()"),
    "whisper-tiny.en": (INT8, WINDOW, "export(format='ct2', type='float32')"),
    "smollm2-135m": tuple(f"export(format='gguf') > quantize(type='{kind}')" for kind in ("Q8_0", "Q4_K_M")),
}

HOW = {  # as the table calls it
    "": "as it is, float",
    "export()": "ONNX, float",
    HEAD: "ONNX, float",
    "export() > quantize()": "8 bits",
    "quantize()": "8 bits",
    "quantize(bits=4)": "4 bits",
    INT8: "CTranslate2, int8",
    WINDOW: "the same, a window for each",
    "export(format='ct2', type='float32')": "CTranslate2, float32",
    **{text: text.split("'")[-2] for text in RECIPES["smollm2-135m"]},
}


def texts() -> Path:
    """A few labelled questions."""
    folder = STORE / "texts"
    if not folder.is_dir():
        with (TEXT / "labelled" / "trec.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))[:TEXTS]
        with whole_folder(folder) as partial, (partial / "trec.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def passage() -> Path:
    """The beginning of a text."""
    path = STORE / "passage.txt"
    if not path.is_file():
        path.write_text((TEXT / "wikitext-2" / "valid.txt").read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    return path


DATA: dict[str, Callable[[], Path]] = {
    "efficientnet-lite0": lambda: fold(0),
    "mobilenet_v2": lambda: fold(0),
    "minilm-l6": texts,
    "whisper-tiny.en": recordings,
    "smollm2-135m": passage,
}


def place(name: str) -> Path:
    """The model's folder: of packages, or of ../shared/assets."""
    found = MODELS / name
    return found if found.is_dir() else TEXT.parent / "models" / name


def opened(name: str) -> Task:
    """The model's data; those of the encoder are texts, whatever else it might be for."""
    return open_data(DATA[name](), load(place(name)).task or "", DataOptions(cache=STORE / "cache"))


def measured(name: str, text: str) -> dict[str, Any]:
    """Bytes predicted before the model was built and of the file, and the median of the measured ones."""
    given, task = load(place(name)), opened(name)
    recipe = Recipe.parse(text) if text else Recipe(())
    judging = judging_of(task)
    context = Context(task, STORE / "cache", threads=1, progress=Progress())
    model = build(given, recipe, context, STORE / "models")[-1] if text else judging.resolved(given)
    space = search_space(given, task)
    inputs = judging.timing_input(model, task.examples("validation") or task.examples("test"))
    found = []
    for _ in range(TIMES):
        with judging.start_worker() as worker:
            worker.open(model, threads=1)
            found.append(of_model(worker, inputs).bytes)
    predicted = space.predicted(recipe, model, inputs, 1).get("predicted", {}).get("memory_bytes")
    before = space.memory_bytes(recipe) if text else None
    return {"size_bytes": model.size_bytes, "predicted": predicted, "before": before, "measured": found}


def summary(results: Results) -> str:
    """The table in Markdown; `real.py` puts it on its page."""
    rows = []
    for name, recipes in RECIPES.items():
        for text in recipes:
            row = results.rows[f"{name}/{text}"]
            middle = statistics.median(row["measured"])
            off = f"{100 * (row['predicted'] / middle - 1):+.0f}"
            before = "-" if row["before"] is None else f"{row['before'] / 1e6:.1f}"
            last = HOW.get(text.removeprefix(f"{HEAD} > "), text)
            spread = f"{min(row['measured']) / 1e6:.1f} .. {max(row['measured']) / 1e6:.1f}"
            shown = [name, last, row["size_bytes"], before, row["predicted"], middle]
            rows.append([value if isinstance(value, str) else f"{value / 1e6:.1f}" for value in shown] + [spread, off])
    worst = max(abs(int(row[-1])) for row in rows)
    head = ("model", "how", "MB on disk", "before it is built", "predicted", "measured", "of three", "off, %")
    says = (
        f"MB above the process with its runtime loaded. Goal: within 15 %; the worst is {worst} %. The factors were"
        " fitted to networks of one kind of layer each, and what tokenizers and libraries take to these models;"
        " mobilenet_v2 was in neither."
    )
    return f"{table(head, rows)}\n\n{says}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tables",))
    options = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    results = Results(STORE / "results.json")
    for name, recipes in RECIPES.items():
        for text in recipes if options.part is None else ():
            results.fill(f"{name}/{text}", lambda name=name, text=text: measured(name, text), float("inf"))
    print(summary(results))


if __name__ == "__main__":
    main()
