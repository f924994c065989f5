"""The verbs that judge models that exist: measure, compare."""

from __future__ import annotations

import argparse
from typing import Any

from .. import units
from ..progress import Progress
from .options import DONE, add_data, add_model, add_verb, columns_of, data_of, print_json, unit


def add_verbs(verbs: Any) -> None:
    """Add the parsers."""
    parser = add_verb(
        verbs,
        "measure",
        _measure,
        "quality, size, latency, memory and energy of one model",
        "runs/flowers/best --data photos/",
    )
    add_model(parser)
    add_data(parser)
    _add_masked(parser)
    parser.add_argument("--ledger", action="store_true", help="where every byte is: the largest rows")
    about = "what each layer of a quantized model loses, the largest error first"
    parser.add_argument("--layers", action="store_true", help=about)
    about = "onnx, openvino, torch, gguf or ct2 (default: the first that takes the format)"
    parser.add_argument("--runtime", help=about)
    parser.add_argument("--batch", type=_batches, default=(), metavar="4,16", help="batch sizes to time besides 1")

    about = "which of two models is smaller, faster, better, and with what confidence"
    parser = add_verb(
        verbs, "compare", _compare, about, "mobilenet_v2/ runs/flowers/best --data photos/ --max-drop 1pt"
    )
    add_model(parser, "model_a")
    add_model(parser, "model_b")
    add_data(parser)
    _add_masked(parser)
    about = "the limit on the loss of MODEL_B"
    parser.add_argument("--max-drop", type=unit(units.parse_drop), metavar="1pt", help=about)


def _add_masked(parser: Any) -> None:
    about = "also the accuracy where only the data's classes may be answered (masked_accuracy)"
    parser.add_argument("--masked-accuracy", action="store_true", help=about)


def _batches(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if all(size.isdigit() and int(size) > 0 for size in sizes):
        return tuple(map(int, sizes))
    raise argparse.ArgumentTypeError(f"batch sizes are numbers from 1 with commas between, not {text!r}")


def _measure(options: argparse.Namespace, progress: Progress) -> int:
    from ..judge import measure

    measurement = measure(
        options.model,
        data_of(options),
        ledger=options.ledger,
        batches=options.batch,
        threads=options.threads,
        seed=options.seed,
        seconds=options.durations.verb_s,
        runtime=options.runtime,
        normalizer=options.normalizer,
        columns=columns_of(options),
        output=options.output,
        masked_accuracy=options.masked_accuracy,
        questions=options.questions,
        progress=progress,
    )
    if options.json:
        print_json(measurement.as_dict() | ({"layers": _layers(options.model)} if options.layers else {}))
        return DONE
    from .tables import print_measurement

    print_measurement(measurement)
    if options.layers:
        from .layers import print_layers

        print_layers(options.model)
    return DONE


def _layers(model: str) -> list[dict[str, Any]]:
    """The layers as `quantize` reported them; empty where the model has no such table."""
    from ..report.layers import reported
    from ..runtimes.loading import load

    return reported(load(model).record)


def _compare(options: argparse.Namespace, progress: Progress) -> int:
    from ..judge import compare

    comparison = compare(
        options.model_a,
        options.model_b,
        data_of(options),
        max_drop=options.max_drop,
        threads=options.threads,
        seed=options.seed,
        seconds=options.durations.verb_s,
        normalizer=options.normalizer,
        columns=columns_of(options),
        output=options.output,
        masked_accuracy=options.masked_accuracy,
        questions=options.questions,
        progress=progress,
    )
    if options.json:
        print_json(comparison.as_dict())
    else:
        from .tables import print_comparison

        print_comparison(comparison)
    return DONE
