"""The verb that uses what was made: predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BadData, InvalidOption
from ..machine.processor import fixed_threads
from ..progress import Progress
from .options import DONE, add_model, add_verb, print_json

STDIN = "-"
SUBTITLES = ("srt", "vtt")


def add_verbs(verbs: Any) -> None:
    """Add the parser."""
    about = "photos or texts to labels, recordings to transcripts, prompts to continuations"
    parser = add_verb(verbs, "predict", _predict, about, "runs/flowers photo.jpg folder/ --top 3")
    add_model(parser)
    about = "files and folders of photos or recordings; texts or prompts, a .txt file with one a line, or - for stdin"
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=about)
    about = "text (default) or json; of recordings also subtitles: srt, vtt"
    parser.add_argument("--format", choices=("text", "json", *SUBTITLES), default="text", help=about)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the subtitles of several recordings")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="labels that are shown of each input")


def _predict(options: argparse.Namespace, progress: Progress) -> int:
    from ..kind import facet
    from ..runtimes.loading import load

    model = load(options.model)
    module = facet(str(model.task), "predicting")
    inputs = [text for given in options.inputs for text in _texts(given)]
    if not inputs:
        raise BadData("there is nothing to predict: the input is empty")
    threads = fixed_threads(options.threads)
    if options.format in SUBTITLES:
        if not hasattr(module, "subtitles"):
            raise InvalidOption(f"--format {options.format} is for recordings; this model is for {model.task}")
        for line in module.subtitles(model, inputs, options.format, options.out, progress, threads):
            progress.clear()
            print(line, end="", flush=True)
        return DONE
    if options.out is not None:
        raise InvalidOption("--out is for subtitles: add --format srt, or write stdout into a file")
    if options.json or options.format == "json":
        print_json([each.as_dict() for each in module.predict(model, inputs, progress, threads=threads)])
        return DONE
    if getattr(module, "WRITES", False):
        _write(module, model, inputs, progress, threads)
        return DONE
    found = module.predict(model, inputs, progress, threads=threads)
    for each in found:
        progress.clear()
        print(_line(each.input, each.answer, each.probabilities, options.top), flush=True)
    return DONE


def _write(module: Any, model: Any, inputs: list[str], progress: Progress, threads: int) -> None:
    """Each continuation as it is written; after its prompt where there are several."""

    def show(piece: str) -> None:
        progress.clear()
        sys.stdout.write(piece)
        sys.stdout.flush()

    if len(inputs) > 1:
        print(f"{inputs[0]}:", flush=True)
    for place, _ in enumerate(module.predict(model, inputs, progress, threads=threads, on_text=show), 1):
        print(flush=True)
        if place < len(inputs):
            print(f"\n{inputs[place]}:", flush=True)


def _texts(given: str) -> Iterator[str]:
    """What an argument stands for: itself, the lines of a text file, or those of stdin."""
    if given == STDIN:
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
    elif given.endswith(".txt") and Path(given).is_file():
        yield from (line for line in Path(given).read_text(encoding="utf-8-sig").splitlines() if line.strip())
    else:
        yield given


def _line(name: str, answer: str, probabilities: dict[str, float], top: int) -> str:
    if not probabilities:
        return f"{name}: {answer}" if "\n" not in answer else f"{name}:\n{answer}"
    shown = list(probabilities.items())[: max(1, top)]
    return f"{name}: " + ", ".join(f"{label} {share * 100:.1f} %" for label, share in shown)
