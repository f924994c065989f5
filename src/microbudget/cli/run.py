"""The verbs that make a run: demo, shrink, run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..judge.budget import GOALS, MINUTES, Budget
from ..progress import Progress
from .options import (
    DONE,
    INTERRUPTED,
    NOT_MET,
    add_data,
    add_limits,
    add_model,
    add_verb,
    columns_of,
    data_of,
    limits_of,
    print_json,
)  # fmt: skip

if TYPE_CHECKING:
    from ..search.options import RunKeywords
    from ..search.result import Shrunk


def add_verbs(verbs: Any) -> None:
    """Add the parsers."""
    parser = add_verb(
        verbs, "demo", _demo, "the main job on embedded data, offline, in about six minutes", "--out runs/demo"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN")
    parser.add_argument("--force", action="store_true", help="start again where RUN exists")

    parser = add_verb(
        verbs,
        "shrink",
        _shrink,
        "find the smallest model within the budget",
        "mobilenet_v2/ --data photos/ --max-size 2MB --max-drop 1pt --out runs/flowers",
    )
    about = "hub id, folder, .onnx or .gguf file; of several the one to begin with is chosen (see `microbudget choose`)"
    parser.add_argument("models", nargs="+", metavar="MODEL", help=about)
    about = f"what to make best within the limits: {', '.join(GOALS)}, or a product of costs such as size*latency"
    parser.add_argument("--goal", default="size", metavar="GOAL", help=about)
    about = "only recipes of these, such as quantize,prune (and export, and what teaches the labels)"
    parser.add_argument("--methods", type=_names, metavar="NAMES", help=about)
    about = 'try this in place of the own recipes; open options are searched: "prune(size=?) > export() > quantize()"'
    parser.add_argument("--recipe", metavar="RECIPE", help=about)
    _add_run_options(parser)

    parser = add_verb(
        verbs,
        "run",
        _run,
        "build and measure one recipe",
        'mobilenet_v2/ "finetune() > export() > quantize(bits=4)" --data photos/ --out runs/flowers',
    )
    add_model(parser)
    about = 'such as "finetune() > export() > quantize()", or a .toml file'
    parser.add_argument("recipe", metavar="RECIPE", help=about)
    _add_run_options(parser)
    parser.set_defaults(verbose=True)  # of one recipe the steps are what there is to see


def _add_run_options(parser: Any) -> None:
    add_data(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder for the run; it can be resumed")
    about = f"time for everything, the test and the report included; default {MINUTES:g}. The best so far is delivered"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=about)
    about = "of quality (shrink: 1pt); relative for language models (1%%)"
    add_limits(parser, about)
    about = "language models: the prompts that each answers for the report, one a line of .txt"
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=about)
    about = "choose by these timings of another machine, which a kit of RUN wrote (microbudget kit RUN)"
    parser.add_argument("--timings", type=Path, metavar="FILE", help=about)
    parser.add_argument("--prove", action="store_true", help="accept only a loss that is shown to be within --max-drop")
    parser.add_argument("--keep", action="store_true", help="keep intermediate steps and the cache")
    parser.add_argument("--force", action="store_true", help="start again in a RUN that was made from something else")


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
    status = _show(shrunk, options)
    if not options.json:
        print(f"Try it with digits of your own: microbudget try {options.out / 'run'}")
    return status


def _shrink(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.shrink import shrink

    budget = _budget(options, goal=options.goal)
    how = _run_options(options, progress) | {"methods": options.methods, "recipes": options.recipe}
    if len(options.models) > 1:
        from ..search.beginning import shrink_one_of

        return _show(shrink_one_of(options.models, data_of(options), budget, out=options.out, **how), options)
    return _show(shrink(options.models[0], data_of(options), budget, out=options.out, **how), options)


def _names(text: str) -> list[str]:
    """The type of --methods."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _run(options: argparse.Namespace, progress: Progress) -> int:
    from ..search.shrink import run_recipe

    budget, how = _budget(options), _run_options(options, progress)
    return _show(run_recipe(options.model, options.recipe, data_of(options), budget, out=options.out, **how), options)


def _budget(options: argparse.Namespace, **more: Any) -> Budget:
    return Budget(minutes=options.minutes, prove=options.prove, **limits_of(options), **more)


def _run_options(options: argparse.Namespace, progress: Progress) -> RunKeywords:
    return {
        "seed": options.seed,
        "threads": options.threads,
        "keep": options.keep,
        "force": options.force,
        "prompts": options.prompts,
        "normalizer": options.normalizer,
        "columns": columns_of(options),
        "output": options.output,
        "questions": options.questions,
        "timings": options.timings,
        "durations": options.durations,
        "progress": progress,
    }


def _show(shrunk: Shrunk, options: argparse.Namespace) -> int:
    if options.json:
        print_json(shrunk.as_dict())
    else:
        from .tables import print_run

        print_run(shrunk)
    return INTERRUPTED if shrunk.interrupted else DONE if shrunk.met else NOT_MET
