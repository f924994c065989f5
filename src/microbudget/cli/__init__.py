"""The command line: verbs, parsed and printed. Everything else is in the modules that the verbs call."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, units
from ..errors import InvalidOption, MicrobudgetError
from ..judge.budget import GOALS, Budget
from ..machine.files import is_disk_full
from ..machine.processor import Threads
from ..progress import Progress
from ..search.options import DURATIONS, Durations
from . import language as cli_language
from . import speech as cli_speech

if TYPE_CHECKING:
    from ..search.result import Shrunk

DONE, NOT_MET, FAILED, INTERRUPTED = 0, 1, 3, 130


def main(argv: Sequence[str] | None = None, *, durations: Durations = DURATIONS) -> int:
    """Run a verb and return the exit status: 0 done, 1 budget not met, 2 bad input, 3 failed, 130 interrupted.

    durations: how long runs time their models; no option of the command line.
    """
    options = _parser().parse_args(argv, argparse.Namespace(durations=durations))
    progress = Progress(quiet=options.quiet)
    warnings.showwarning = lambda message, *_: progress.warn(str(message))
    verb: Callable[[argparse.Namespace, Progress], int] = options.verb
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="microbudget",
        description="Give it a model, your data and a budget: it hands back the smallest model that keeps the quality,"
        " and proves it.",
    )
    parser.add_argument("--version", action="version", version=f"microbudget {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    _add_demo(verbs)
    _add_shrink(verbs)
    _add_run(verbs)
    _add_measure(verbs)
    _add_compare(verbs)
    _add_report(verbs)
    _add_methods(verbs)
    cli_language.add_verbs(verbs, _verb, _print_json)
    cli_speech.add_verbs(verbs, _verb)
    return parser


def _verb(verbs: Any, name: str, call: Callable[[argparse.Namespace, Progress], int], about: str) -> Any:
    parser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(verb=call)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, progress on stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--seed", type=int, default=0, help="of splits, augmentation and training (default 0)")
    parser.add_argument("--threads", type=_threads, default=0, help="of the runtime: a number, or auto (default all)")
    return parser


def _add_run_options(parser: Any) -> None:
    parser.add_argument(
        "--data", required=True, help="folder of examples or recordings, .txt files or a folder of them"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder for the run; it can be resumed")
    parser.add_argument("--max-size", type=_unit(units.parse_bytes), metavar="2MB")
    parser.add_argument("--max-latency", type=_unit(units.parse_seconds), metavar="5ms")
    parser.add_argument("--max-memory", type=_unit(units.parse_bytes), metavar="500MB")
    parser.add_argument("--max-energy", type=_unit(units.parse_joules), metavar="3mJ")
    about = "of quality (shrink: 1pt); relative for language models (1%%)"
    parser.add_argument("--max-drop", type=_unit(units.parse_drop), metavar="1pt", help=about)
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="language models: what each is asked to write, one a line of .txt"
    )
    _add_normalizer(parser)
    parser.add_argument("--prove", action="store_true", help="accept only a loss that is shown to be within --max-drop")
    parser.add_argument("--keep", action="store_true", help="keep intermediate steps and the cache")
    parser.add_argument("--force", action="store_true", help="begin anew in a RUN that was made from something else")


def _add_normalizer(parser: Any) -> None:
    about = "of transcripts before they are compared (default basic; english writes numbers as digits)"
    parser.add_argument("--normalizer", choices=("basic", "english", "none"), default="basic", help=about)


def _threads(text: str) -> Threads:
    if text == "auto":
        return "auto"
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"threads must be a number from 1, or auto, not {text!r}")


def _batches(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if all(size.isdigit() and int(size) > 0 for size in sizes):
        return tuple(map(int, sizes))
    raise argparse.ArgumentTypeError(f"batch sizes are numbers from 1 with commas between, not {text!r}")


def _unit(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except MicrobudgetError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _budget(options: argparse.Namespace, **more: Any) -> Budget:
    return Budget(
        max_size_bytes=options.max_size,
        max_latency_s=options.max_latency,
        max_memory_bytes=options.max_memory,
        max_energy_j=options.max_energy,
        max_drop=options.max_drop,
        prove=options.prove,
        **more,
    )


def _add_demo(verbs: Any) -> None:
    parser = _verb(verbs, "demo", _demo, "the main job on embedded data, offline, in about a minute")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN")
    parser.add_argument("--force", action="store_true", help="begin anew where RUN stands")


def _demo(options: argparse.Namespace, progress: Progress) -> int:
    from .demo import demo

    shrunk = demo(
        options.out,
        force=options.force,
        seed=options.seed,
        threads=options.threads,
        durations=options.durations,
        progress=progress,
    )
    return _show_shrunk(shrunk, options)


def _add_shrink(verbs: Any) -> None:
    parser = _verb(verbs, "shrink", _shrink, "find the smallest model within the budget")
    parser.add_argument("model", metavar="MODEL", help="hub id, folder, .onnx or .gguf file")
    parser.add_argument("--minutes", type=float, help="time for the search; the best so far is delivered")
    parser.add_argument("--goal", choices=GOALS, default="size", help="what to make best within the limits")
    _add_run_options(parser)


def _shrink(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.shrink import shrink

    budget = _budget(options, minutes=options.minutes, goal=options.goal)
    return _show_shrunk(
        shrink(
            options.model,
            options.data,
            budget,
            out=options.out,
            seed=options.seed,
            threads=options.threads,
            keep=options.keep,
            force=options.force,
            prompts=options.prompts,
            normalizer=options.normalizer,
            durations=options.durations,
            progress=progress,
        ),
        options,
    )


def _add_run(verbs: Any) -> None:
    parser = _verb(verbs, "run", _run, "build and measure one recipe")
    parser.add_argument("model", metavar="MODEL", help="hub id, folder, .onnx or .gguf file")
    parser.add_argument(
        "recipe", metavar="RECIPE", help='such as "finetune() > export() > quantize()", or a .toml file'
    )
    _add_run_options(parser)


def _run(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.shrink import run_recipe

    return _show_shrunk(
        run_recipe(
            options.model,
            options.recipe,
            options.data,
            _budget(options),
            out=options.out,
            seed=options.seed,
            threads=options.threads,
            keep=options.keep,
            force=options.force,
            prompts=options.prompts,
            normalizer=options.normalizer,
            durations=options.durations,
            progress=progress,
        ),
        options,
    )


def _show_shrunk(shrunk: Shrunk, options: argparse.Namespace) -> int:
    if options.json:
        _print_json(shrunk.as_dict())
    else:
        from .tables import print_run

        print_run(shrunk)
    return INTERRUPTED if shrunk.interrupted else DONE if shrunk.met else NOT_MET


def _add_measure(verbs: Any) -> None:
    parser = _verb(verbs, "measure", _measure, "quality, size, latency, memory and energy of one model")
    parser.add_argument("model", metavar="MODEL", help="hub id, folder, .onnx or .gguf file")
    parser.add_argument(
        "--data", required=True, help="folder of examples or recordings, .txt files or a folder of them"
    )
    parser.add_argument("--ledger", action="store_true", help="where every byte is: the largest rows")
    parser.add_argument(
        "--runtime", help="onnx, openvino, torch, gguf or ct2 (default: the first that takes the format)"
    )
    _add_normalizer(parser)
    parser.add_argument("--batch", type=_batches, default=(), metavar="4,16", help="batch sizes to time beside 1")


def _measure(options: argparse.Namespace, progress: Progress) -> int:
    from ..judge import measure

    measurement = measure(
        options.model,
        options.data,
        threads=options.threads,
        seed=options.seed,
        runtime=options.runtime,
        ledger=options.ledger,
        batches=options.batch,
        normalizer=options.normalizer,
        progress=progress,
    )
    if options.json:
        _print_json(measurement.as_dict())
    else:
        from .tables import print_measurement

        print_measurement(measurement)
    return DONE


def _add_compare(verbs: Any) -> None:
    parser = _verb(verbs, "compare", _compare, "which of two models is smaller, faster, better, and how sure that is")
    parser.add_argument("model_a", metavar="MODEL_A", help="hub id, folder, .onnx or .gguf file")
    parser.add_argument("model_b", metavar="MODEL_B")
    parser.add_argument(
        "--data", required=True, help="folder of examples or recordings, .txt files or a folder of them"
    )
    parser.add_argument(
        "--max-drop", type=_unit(units.parse_drop), metavar="1pt", help="judge the loss of B against it"
    )
    _add_normalizer(parser)


def _compare(options: argparse.Namespace, progress: Progress) -> int:
    from ..judge import compare

    comparison = compare(
        options.model_a,
        options.model_b,
        options.data,
        max_drop=options.max_drop,
        threads=options.threads,
        seed=options.seed,
        normalizer=options.normalizer,
        progress=progress,
    )
    if options.json:
        _print_json(comparison.as_dict())
    else:
        from .tables import print_comparison

        print_comparison(comparison)
    return DONE


def _add_report(verbs: Any) -> None:
    parser = _verb(verbs, "report", _report, "write the run's report anew, one HTML file")
    parser.add_argument("run", metavar="RUN", type=Path)


def _report(options: argparse.Namespace, _progress: Progress) -> int:
    from ..report import write_report

    path = write_report(options.run)
    print(json.dumps({"report": str(path)}) if options.json else path)
    return DONE


def _add_methods(verbs: Any) -> None:
    _verb(verbs, "methods", _methods, "the methods of recipes, with their options")


def _methods(options: argparse.Namespace, _progress: Progress) -> int:
    from ..methods import describe, names

    rows = [describe(name) for name in names()]
    if options.json:
        _print_json(rows)
    else:
        from .tables import print_methods

        print_methods(rows)
    return DONE


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()  # a NumPy number
    raise InvalidOption(f"{type(value).__name__} has no JSON form")


if __name__ == "__main__":
    sys.exit(main())
