"""The command line: verbs, parsed and printed. Everything else is in the modules that the verbs call."""

from __future__ import annotations

import argparse
import atexit
import gc
import itertools
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import MicrobudgetError
from ..kind import facets
from ..machine.files import is_disk_full
from ..progress import Progress
from ..search.options import DURATIONS, Durations
from . import choose, estimate, measure, predict, run, show, try_
from .options import BAD_INPUT, DONE, FAILED, INTERRUPTED, Verb, add_verb, print_json
from .parser import START, Parser

SHELLS = ("bash", "zsh", "tcsh", "fish", "powershell")  # that shtab knows
PATHS = ("a", "b", "data", "inputs", "model", "models")  # arguments that a shell completes by files


def main(argv: Sequence[str] | None = None, *, durations: Durations = DURATIONS) -> int:
    """Run a verb and return the exit status: 0 done, 1 budget not met, 2 bad input, 3 failed, 130 interrupted.

    durations: how long models are timed; no option of the command line.
    """
    twice = _given_twice(sys.argv[1:] if argv is None else argv)
    if twice:
        print(f"error: {twice} is given twice; leave one", file=sys.stderr)
        return BAD_INPUT
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # without it Python walks over torch's objects before it ends: a second and more
    options = parser_of_all_verbs().parse_args(argv, argparse.Namespace(durations=durations))
    if not hasattr(options, "verb"):
        print(START, end="")
        return DONE
    progress = Progress(quiet=options.quiet, verbose=options.verbose)
    warnings.showwarning = lambda message, *_: progress.warn(str(message))
    verb: Verb = options.verb
    try:
        return verb(options, progress)
    except MicrobudgetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return DONE  # the reader of our output had enough, as with `| head`
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        if not is_disk_full(error):
            traceback.print_exc()
        return FAILED
    except Exception:
        traceback.print_exc()
        print("error: this is a defect of microbudget; please report the lines above", file=sys.stderr)
        return FAILED


def _given_twice(argv: Sequence[str]) -> str:
    """The first option that is given twice, of which argparse would silently take the last; "" where there is none."""
    names = [text.partition("=")[0] for text in itertools.takewhile(lambda text: text != "--", argv)]
    options = [name for name in names if name.startswith("--")]
    return next((name for index, name in enumerate(options) if name in options[:index]), "")


def parser_of_all_verbs() -> argparse.ArgumentParser:
    """The parser with every verb, those of the kinds of models included."""
    parser = Parser(
        prog="microbudget",
        description="Give it a model, your data and a budget: it hands back the smallest model that keeps the quality,"
        " and proves it.",
    )
    parser.add_argument("--version", action="version", version=f"microbudget {__version__}")
    about = "print the completion of the shell, to be saved where the shell reads it"
    parser.add_argument("--print-completion", action=_Completion, choices=SHELLS, help=about)
    verbs = parser.add_subparsers(metavar="VERB", title="verbs")
    for module in (run, choose, measure, predict, try_, show, estimate):
        module.add_verbs(verbs)
    for module in facets("verbs"):  # of the kinds of models
        module.add_verbs(verbs, add_verb, print_json)
    return parser


class _Completion(argparse.Action):
    """Prints the script for a shell and ends; shtab takes longer to import than the whole parser to make."""

    def __call__(self, parser: argparse.ArgumentParser, _options: Any, shell: Any, _name: str | None = None) -> None:
        import shtab

        (verbs,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        for action in (action for verb in verbs.choices.values() for action in verb._actions):
            if action.type is Path or action.dest in PATHS:
                action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()
