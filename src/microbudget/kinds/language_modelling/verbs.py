"""The verbs that are for language models only: fits, ollama."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...machine.processor import fixed_threads
from ...progress import Progress

DONE = 0
Show = Callable[[Any], None]  # prints a JSON document
Verb = Callable[..., Any]  # makes a verb's parser, with the options that all verbs take


def add_verbs(verbs: Any, verb: Verb, show_json: Show) -> None:
    """Add the parsers."""
    parser = verb(
        verbs,
        "fits",
        _fits(show_json),
        "size, memory and speed of every level of a language model, unbuilt",
        "HuggingFaceTB/SmolLM2-135M",
    )
    parser.add_argument("model", metavar="MODEL", help="hub id, folder or .gguf file")
    parser.add_argument(
        "--context", type=int, metavar="TOKENS", help="for the memory (default: as trained, at most 4096)"
    )
    about = "rtx4090, laptop-16gb, pi5, ...: what fits there; several with commas, or all (default this machine)"
    parser.add_argument("--device", metavar="NAME", help=about)
    parser.add_argument("--batch", type=int, default=1, metavar="ANSWERS", help="answers at once, with --device")
    parser = verb(verbs, "ollama", _ollama(show_json), "make an Ollama model of a run's best, or show how", "runs/lm")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--name", help="of the model in Ollama (default: the run's name)")


def _fits(show_json: Show) -> Callable[[argparse.Namespace, Progress], int]:
    def fits(options: argparse.Namespace, _progress: Progress) -> int:
        if options.device is not None:
            return _on_devices(options, show_json)
        from ...runtimes.loading import load
        from .fits import what_fits

        found = what_fits(
            load(options.model, weights=False), context=options.context, threads=fixed_threads(options.threads)
        )
        if options.json:
            show_json([{key: value for key, value in asdict(level).items() if key != "types"} for level in found])
        else:
            from .terminal import print_levels

            print_levels(found)
        return DONE

    return fits


def _on_devices(options: argparse.Namespace, show_json: Show) -> int:
    from .placing import place

    found = place(options.model, options.device, context=options.context, batch=options.batch)
    if options.json:
        show_json([asdict(row) for row in found])
        return DONE
    from .terminal import print_placed

    print_placed(found)
    return DONE


def _ollama(show_json: Show) -> Callable[[argparse.Namespace, Progress], int]:
    def ollama(options: argparse.Namespace, progress: Progress) -> int:
        from .ollama import model_name, publish

        folder = options.run / "best" if (options.run / "best").is_dir() else options.run
        published = publish(options.name or model_name(options.run), folder)
        if options.json:
            show_json(asdict(published))
            return DONE
        if published.listing is None:
            progress.say("no Ollama server answers here; these two commands make the model and talk to it")
            print("\n".join(published.commands))
        else:
            print(published.listing, end="")
        return DONE

    return ollama
