"""The verb that is for texts only: prompt."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...machine.processor import fixed_threads
from ...progress import Progress

DONE = 0
Show = Callable[[Any], None]  # prints a JSON document
Verb = Callable[..., Any]  # makes a verb's parser, with the options that all verbs take


def add_verbs(verbs: Any, verb: Verb, show_json: Show) -> None:
    """Add the parser."""
    about = "make a text classifier of a language model: it answers by the likelihood of each label after a prompt"
    parser = verb(verbs, "prompt", _prompt(show_json), about, "LLM --data reviews.csv --out prompted/")
    parser.add_argument("model", metavar="LLM", help="hub id, folder or .gguf file of a language model")
    parser.add_argument("--data", required=True, help="labelled texts, as measure takes them")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for the classifier; it is a MODEL")
    about = "such as 'Review: {text}\\nSentiment: {label}'; of pairs with {text_1} and {text_2}"
    parser.add_argument("--text", default="", metavar="PROMPT", help=about)
    about = "what stands for the labels, such as '0=negative, 1=positive'"
    parser.add_argument("--words", default="", help=about)
    about = "labelled examples before the text, from the training split (default 0)"
    parser.add_argument("--shots", type=int, default=0, help=about)
    about = "do not divide by what the model answers to a text without content"
    parser.add_argument("--uncalibrated", action="store_true", help=about)
    parser.add_argument("--text-column", metavar="NAME", help="of the table: the text, or two of a pair")
    parser.add_argument("--label-column", metavar="NAME", help="of the table: the label")


def _prompt(show_json: Show) -> Callable[[argparse.Namespace, Progress], int]:
    def prompt(options: argparse.Namespace, progress: Progress) -> int:
        from ...methods.prompt import Prompt
        from ...task import Columns, DataOptions
        from .prompt import write_classifier

        step = Prompt(
            model=options.model,
            text=options.text,
            words=options.words,
            shots=options.shots,
            calibrate=not options.uncalibrated,
        )
        how = DataOptions(
            seed=options.seed,
            columns=Columns.read(options.text_column, options.label_column),
            threads=fixed_threads(options.threads),
            progress=progress,
        )
        record = write_classifier(step, options.data, how, options.out)
        if options.json:
            show_json({"path": str(options.out), **record.history["prompt"]})
        else:
            progress.say(f"classify  microbudget measure {options.out} --data {options.data}")
        return DONE

    return prompt
