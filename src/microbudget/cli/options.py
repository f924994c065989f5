"""What the verbs have in common: their options, and how JSON is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import units
from ..errors import InvalidOption, MicrobudgetError
from ..machine.processor import Threads
from ..progress import Progress

if TYPE_CHECKING:
    from ..task import Columns

DONE, NOT_MET, BAD_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130

Verb = Callable[[argparse.Namespace, Progress], int]  # returns the exit status


def add_verb(verbs: Any, name: str, call: Verb, about: str, example: str) -> Any:
    """A verb's parser, with the options of all verbs; its help begins with the example, what follows the verb."""
    parser = verbs.add_parser(
        name,
        help=about,
        description=f"microbudget {name} {example}\n\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=call)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, progress on stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--verbose", action="store_true", help="what each step of a recipe found; `run` always shows it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of splits, augmentation and training (default 0)")
    parser.add_argument("--threads", type=threads, default=0, help="of the runtime: a number, or auto (default all)")
    return parser


def add_model(parser: Any, name: str = "model") -> None:
    """The argument MODEL."""
    parser.add_argument(name, metavar=name.upper(), help="hub id, folder, .onnx or .gguf file")


def add_data(parser: Any) -> None:
    """The data, how transcripts are compared, and which output has the scores."""
    about = (
        "folder of examples, recordings or texts, a .txt, .csv, .tsv or .jsonl file, Parquet or Arrow, or a data set of"
        " the hub"
    )
    parser.add_argument("--data", required=True, help=about)
    about = "of a data set of the hub, or a saved one: only this split"
    parser.add_argument("--split", metavar="test", help=about)
    about = "of transcripts before they are compared (default basic; english writes numbers as digits)"
    parser.add_argument("--normalizer", choices=("basic", "english", "none"), default="basic", help=about)
    about = "of a table of texts: the column of the text, or of both texts of a pair, text1,text2"
    parser.add_argument("--text-column", metavar="NAME", help=about)
    parser.add_argument("--label-column", metavar="NAME", help="of a table of texts: the column of the label")
    about = "language models: questions that are asked too, JSON lines; they decide where --max-drop is in points"
    parser.add_argument("--questions", type=Path, metavar="FILE", help=about)
    about = "of an .onnx file with several outputs, the one with the classes' scores"
    parser.add_argument("--output", metavar="NAME", help=about)


def data_of(options: argparse.Namespace) -> Any:
    """What --data and --split give."""
    from ..data.saved import Source

    return options.data if options.split is None else Source(options.data, options.split)


def columns_of(options: argparse.Namespace) -> Columns | None:
    """What --text-column and --label-column give. Raises InvalidOption."""
    from ..task import Columns

    return Columns.read(options.text_column, options.label_column)


def add_limits(parser: Any, about_drop: str, about_size: str | None = None) -> None:
    """The limits of a Budget, which `limits_of` reads. about_drop: the help of --max-drop, as argparse takes it."""
    parser.add_argument("--max-size", type=unit(units.parse_bytes), metavar="2MB", help=about_size)
    parser.add_argument("--max-latency", type=unit(units.parse_seconds), metavar="5ms")
    parser.add_argument("--max-memory", type=unit(units.parse_bytes), metavar="500MB")
    parser.add_argument("--max-energy", type=unit(units.parse_joules), metavar="3mJ")
    parser.add_argument("--max-drop", type=unit(units.parse_drop), metavar="1pt", help=about_drop)


def limits_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_limits` give, as fields of a Budget."""
    return {
        "max_size_bytes": options.max_size,
        "max_latency_s": options.max_latency,
        "max_memory_bytes": options.max_memory,
        "max_energy_j": options.max_energy,
        "max_drop": options.max_drop,
    }


def threads(text: str) -> Threads:
    """The type of --threads."""
    if text == "auto":
        return "auto"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"threads must be a number from 1, or auto, not {text!r}")


def unit(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option with a unit. parse: of `units`."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except MicrobudgetError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def print_json(value: Any) -> None:
    """One document on stdout."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()  # a NumPy number
    raise InvalidOption(f"{type(value).__name__} has no JSON form")
