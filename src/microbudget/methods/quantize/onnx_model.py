"""quantize an `onnx` Model with a task's training examples, and record what became of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import BadData
from ...model import ONNX_NAME, Model, Record
from ...runtimes.onnx.interface import read_signature
from ...runtimes.onnx.session import OnnxSession, write_metadata
from ...runtimes.signature import Signature
from ...task import Example, Inputs, Split, Task
from .. import Context
from .layer_report import LayerReport
from .quantizing import CHECKED_EXAMPLES, Outcome, quantize_graph

EXAMPLES_AT_ONCE = 8
FRESH: tuple[Split, ...] = ("validation", "train")
HALF = ("float16", "bfloat16")  # types that are widened
SHOWN = 3  # layers whose reasons are printed
NOTABLE_KL = 0.01  # nats: below it hardly an answer in a hundred changes, and the reasons are in the report only


class Batches:
    """A task's examples as model inputs, collated again for every pass: memory does not grow with their number.

    feed: gives the inputs the names and types that a graph asks for. batch: the number of examples that it takes, where
    that is fixed; the last batch is filled up with its last example.
    """

    def __init__(
        self,
        task: Task,
        examples: Sequence[Example],
        preprocessing: dict[str, Any],
        feed: Callable[[Inputs], Inputs] = dict,
        batch: int | None = None,
    ) -> None:
        self._task, self._preprocessing, self._feed, self._size = task, preprocessing, feed, batch or 1
        self._examples = [*examples, *[examples[-1]] * (-len(examples) % self._size)]

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Inputs]:
        step = self._size * max(1, EXAMPLES_AT_ONCE // self._size)
        for start in range(0, len(self._examples), step):
            yield self._feed(self._task.collate(self._examples[start : start + step], self._preprocessing))


def _of_float32(signature: Signature) -> Signature:
    """As `prepared` leaves the graph: half floats are widened."""
    inputs = [replace(port, dtype="float32") if port.dtype in HALF else port for port in signature.inputs]
    return replace(signature, inputs=tuple(inputs))


def _batch(model: Model, task: Task, examples: Sequence[Example]) -> int | None:
    """The one number of examples that the graph takes, in its inputs or by a Reshape inside; None where it is free."""
    session = OnnxSession(model.weights, output=model.record.output, classes=len(model.labels or ()) or None)
    if session.batch is None and len(examples) > 1:
        session.answer(task.collate(examples[:2], model.record.preprocessing or {}))
    found = session.batch
    session.close()
    return found


def quantize_onnx(model: Model, context: Context, out: Path, samples: int, options: Mapping[str, Any]) -> Record:
    """Write `model.onnx` into `out`. options: fields of `quantizing.Options`. Raises what `quantize_graph` raises."""
    calibration = context.task.examples("train")[:samples]
    if not calibration:
        raise BadData("no training examples to calibrate on: quantize needs some, without labels")
    path = out / ONNX_NAME
    batch = _batch(model, context.task, calibration)
    signature = read_signature(model.weights)
    feed, preprocessing = _of_float32(signature).feed, model.record.preprocessing or {}
    batches = Batches(context.task, calibration, preprocessing, feed, batch)
    fresh = fresh_examples(context.task, calibration)
    half = [port.name for port in signature.inputs if port.dtype in HALF]
    if half:
        context.progress.detail_once(
            f"quantize  the float16 model is widened first: its input {half[0]} takes float32 now"
        )
    outcome = quantize_graph(
        model.weights,
        batches,
        path,
        fresh=Batches(context.task, fresh, preprocessing, feed, batch) if fresh else None,
        describe=lambda proto: write_metadata(proto, model.labels, model.record.preprocessing),
        examples=len(batches),
        output=model.record.output,
        batch=batch,
        threads=context.threads,
        seed=context.seed,
        progress=context.progress,
        journal=context.journal("quantize"),
        **options,
    )
    for line in summary_lines(outcome):
        context.progress.detail_once(f"quantize  {line}")
    record = model.record.with_seen(example.key for example in calibration)
    return record.with_report("quantize", report(options, len(calibration), outcome))


def fresh_examples(task: Task, calibration: Sequence[Example]) -> list[Example]:
    """Examples that rounding is not fitted to, on which the divergence is measured: of validation, else of train."""
    fitted = {example.key for example in calibration}
    others = (example for split in FRESH for example in task.examples(split) if example.key not in fitted)
    return list(islice(others, CHECKED_EXAMPLES))


def summary_lines(outcome: Outcome) -> Iterator[str]:
    """The decisions, their divergence, and where that is large the worst layers with their reasons."""
    yield from outcome.notes
    if outcome.kl is not None:
        where = "on calibration data" if outcome.kl_is_fitted else "on examples that it was not calibrated with"
        yield f"the answers diverge by {outcome.kl:.2g} nats {where}"
    if outcome.kl is not None and outcome.kl < NOTABLE_KL:
        return
    with_reason = [layer for layer in worst_first(outcome.layers) if layer.reason]
    yield from (f"{layer.name}: {layer.reason}" for layer in with_reason[:SHOWN])
    if len(with_reason) > SHOWN:
        yield f"{len(with_reason) - SHOWN} more layers have a notable loss: see the report"


def worst_first(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """By the share of the loss where it was measured, else by the larger of both errors."""
    return sorted(
        layers,
        key=lambda layer: (-(layer.loss_share or 0.0), -max(layer.weight_error or 0.0, layer.activation_error or 0.0)),
    )


def report(options: Mapping[str, Any], samples: int, outcome: Outcome) -> dict[str, Any]:
    """What the record keeps: JSON-ready, numbers to four digits."""
    return {
        "bits": options["bits"],
        "samples": samples,
        "repair": ", ".join(outcome.corrections) or "none",
        "kl": None if outcome.kl is None else float(f"{outcome.kl:.4g}"),
        "kl_is_fitted": outcome.kl_is_fitted,
        "notes": list(outcome.notes),
        "layers": [_short(layer.as_dict()) for layer in worst_first(outcome.layers)],
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
