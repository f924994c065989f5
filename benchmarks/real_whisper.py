"""whisper-tiny.en as it is, on read English, against faster-whisper int8: part of `benchmarks/real.py`.

    python benchmarks/real_whisper.py                        everything; can be killed and goes on (half an hour, quiet)
    python benchmarks/real_whisper.py --part models          build the models
    python benchmarks/real_whisper.py --part quality         what each writes of all 72 utterances
    python benchmarks/real_whisper.py --part speed           all ways interleaved over the same utterances
    python benchmarks/real_whisper.py --part tables          print the table

The window for each recording learns from nothing, so every utterance is evidence. What `trim` keeps is chosen on every
second utterance, and judged on the others. Needs ../shared/assets and the weights that `../shared/real/make.py
whisper-tiny.en` makes, and faster-whisper (`pip install faster-whisper`). Runs in runs/real_whisper/.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from markdown import ROOT, table
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.progress import Progress
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from results import Results
from speech import Worker

STORE = ROOT / "runs" / "real_whisper"
MODEL = Path.home() / ".cache" / "microbudget-real" / "whisper-tiny.en"
SPEECH = ROOT.parent / "shared" / "assets" / "speech"
READ, COFFEE = SPEECH / "read", SPEECH / "coffee"
THREADS = 2  # of what is timed; the rest takes one, which other work on the machine disturbs less
PEER = "faster-whisper int8, beam 1"
INT8 = "export(format='ct2', type='int8_float16')"
WINDOW, TRIM = f"window(seconds='each') > {INT8}", f"window(seconds='each') > trim(keep='auto') > {INT8}"
# name -> how it is transcribed, and the recipe of its model ("": by CTranslate2's own converter).
WAYS: dict[str, tuple[str, str]] = {
    PEER: ("faster-whisper --beam 1", ""),
    "int8, a window for each": ("microbudget", WINDOW),
    "that, and a trimmed vocabulary": ("microbudget", TRIM),
    "faster-whisper int8, its defaults": ("faster-whisper --defaults", ""),
    "int8, window of 30 s": ("microbudget", INT8),
}
GOALS = {"speedup": (2.5, 3.0), "points": (0.5, 1.0), "size": (1.25, 1.5)}  # at least, and the stretch


def data() -> Path:
    """Every second utterance to choose a vocabulary by, the others as test; the coffee orders are unlabelled."""
    folder = STORE / "data"
    if folder.is_dir():
        return folder
    with (READ / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with whole_folder(folder) as partial:
        for split, chosen in (("train", rows[::2]), ("test", rows[1::2])):
            (partial / split).mkdir()
            for row in chosen:
                shutil.copyfile(READ / row["file_name"], partial / split / row["file_name"])
            with (partial / split / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, ("file_name", "transcription"), extrasaction="ignore")
                writer.writeheader()
                writer.writerows(chosen)
        (partial / "unlabelled").mkdir()
        for file in COFFEE.glob("*.flac"):
            shutil.copyfile(file, partial / "unlabelled" / file.name)
    return folder


def judged() -> TranscriptionTask:
    """All utterances."""
    return TranscriptionTask.open(READ, DataOptions(splits=False, cache=STORE / "cache"))


def judged_by(recipe: str) -> set[str]:
    """The files that a way is judged on: what chose on some of them is judged on the others."""
    with (READ / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        names = [row["file_name"] for row in csv.DictReader(stream)]
    return set(names[1::2] if "trim" in recipe else names)


def peer() -> Path:
    """faster-whisper's folder: CTranslate2's converter, int8, with the tokenizer."""
    from ctranslate2.converters import TransformersConverter

    out = STORE / "peer"
    if not out.is_dir():
        with whole_folder(out) as partial:
            TransformersConverter(str(MODEL), copy_files=["tokenizer.json"]).convert(
                str(partial), quantization="int8", force=True
            )
    return out


def made(recipe: str) -> Path:
    """The folder of a way's model, built where it is missing."""
    if not recipe:
        return peer()
    task = TranscriptionTask.open(data(), DataOptions(cache=STORE / "cache"))
    context = Context(task, STORE / "cache", threads=1, progress=Progress())
    return build(load(MODEL), Recipe.parse(recipe), context, STORE / "models")[-1].path


def models(results: Results) -> None:
    for name, (_, recipe) in WAYS.items():
        folder = made(recipe)
        files = load(folder).files if recipe else [file for file in folder.iterdir() if file.is_file()]
        row: dict[str, Any] = {"size_bytes": sum(file.stat().st_size for file in files)}
        if "trim" in recipe:
            row["trim"] = load(folder).record.history["trim"]
        results.put(f"models/{name}", row)


def quality(results: Results) -> None:
    """What each way writes of every utterance that it is judged on."""
    task = judged()
    for name, (way, recipe) in WAYS.items():
        if results.get(f"quality/{name}") is not None:
            continue
        with Worker(way, made(recipe), threads=1) as worker:
            texts = worker.transcribe([task.path_of(example) for example in task.examples("test")])["texts"]
        results.put(f"quality/{name}", {"texts": texts})


def speed(results: Results, rounds: int) -> None:
    """Seconds of each round over the same twelve utterances, in processes of their own, interleaved by round."""
    if results.get("speed/rounds") is not None:
        return
    task = judged()
    examples = sorted(task.examples("test"), key=task.seconds)[3::6]
    paths, rng = [task.path_of(example) for example in examples], np.random.default_rng(0)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(way, made(recipe), THREADS)) for name, (way, recipe) in WAYS.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for index in range(rounds):
            for name in rng.permutation(list(workers)):
                workers[name].transcribe(paths[:1])  # caches are another's
                seconds[name].append(sum(workers[name].transcribe(paths)["seconds"]))
            print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    results.put("speed/rounds", {name: [spent / len(paths) for spent in row] for name, row in seconds.items()})


def rows(parts: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The table's rows: size, word error rates of both on the same utterances, milliseconds, and the ratios."""
    task, found = judged(), []
    examples = task.examples("test")
    for name, (_, recipe) in WAYS.items():
        mine = [place for place, example in enumerate(examples) if example.name in judged_by(recipe)]
        chosen = [examples[place] for place in mine]
        ours, theirs = (
            task.score(np.array(parts["quality"][each]["texts"])[mine], chosen).value for each in (name, PEER)
        )
        own, other = (np.array(parts["speed"]["rounds"][each]) for each in (name, PEER))
        size = [parts["models"][each]["size_bytes"] for each in (name, PEER)]
        found.append(
            [
                name,
                f"{size[0] / 1e6:.1f}",
                f"{size[1] / size[0]:.2f}",
                f"{100 * ours:.1f} ({len(chosen)})",
                f"{100 * (ours - theirs):+.1f}",
                f"{1e3 * float(np.median(own)):.0f}",
                f"{float(np.median(other / own)):.2f}",
            ]
        )
    return found


def summary(results: Results) -> str:
    """The table in Markdown, with the goals; `real.py` puts it on its page."""
    head = ("way", "MB", "times smaller", "WER % (utterances)", "points", "ms an utterance", "times as fast")
    goals = (
        f"Goals: {GOALS['speedup'][0]} times as fast within {GOALS['points'][0]} points"
        f" ({GOALS['speedup'][1]:.0f} within {GOALS['points'][1]:.0f} as the stretch),"
        f" {GOALS['size'][0]} times smaller ({GOALS['size'][1]})."
    )
    return f"{table(head, rows(results.parts()))}\n\n{goals} Ratios are to {PEER}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("models", "quality", "speed", "tables"))
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not (MODEL.is_dir() and READ.is_dir()):
        sys.exit(f"needs {MODEL} (../shared/real/make.py whisper-tiny.en) and {READ}")
    results = Results(STORE / "results.json")
    work = {
        "models": lambda: models(results),
        "quality": lambda: quality(results),
        "speed": lambda: speed(results, options.rounds),
        "tables": lambda: print(summary(results)),
    }
    for part in (options.part,) if options.part else work:
        work[part]()


if __name__ == "__main__":
    main()
