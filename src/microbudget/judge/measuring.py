"""measure(): what one model costs and how good it is, on this machine and these data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

from ..data.saved import is_saved
from ..errors import InvalidOption
from ..machine import processor as machine
from ..machine.processor import check_threads
from ..model import Model
from ..runtimes.loading import load
from ..task import TO_JUDGE, Data, Example, Inputs, Task, open_data
from ..units import Drop
from . import energy, memory, roofline
from .budget import Measurement
from .judging import Judging, judging_of
from .ledger import ledger as ledger_of
from .memory import Weight
from .options import MeasureKeywords, MeasureOptions
from .quality import Quality
from .secondary import SECONDARY, about, secondary_judging
from .timing import Timing, time_one, time_pair
from .worker import Worker

SAMPLES = 8  # examples whose preprocessing is timed
AUTO_S = 2.0  # what the choice between one thread and all may take
SECONDS = 3.0  # the most that timing one model takes


def open_task(
    data: Data, models: Sequence[Model], options: MeasureOptions | None = None, limit: Drop | None = None
) -> Task:
    """The task of a path, without the examples that one of the models has seen; a Task as it is.

    limit: on the loss, where there is one. Raises InvalidOption for models of different kinds.
    """
    options = options or MeasureOptions()
    questions = None if options.questions is None else Path(options.questions)
    if not isinstance(data, (str, Path)) and not is_saved(data):
        if questions is not None:
            raise InvalidOption("questions are asked with data at a path, and not with a Task of your own")
        return data
    kinds = {model.task: model for model in models}
    if len(kinds) > 1:
        found = ", ".join(f"{model.path} for {kind}" for kind, model in kinds.items())
        raise InvalidOption(f"the models are for different tasks: {found}")
    seen = frozenset(key for model in models for key in model.record.seen)
    how = replace(
        TO_JUDGE,
        leave_out=seen,
        normalizer=options.normalizer,
        columns=options.columns,
        questions=questions,
        limit=limit,
        progress=options.progress,
    )
    return open_data(cast(str, data), models[0].task, how)


def measure(
    model: str | Path | Model,
    data: Data,
    *,
    ledger: bool = False,
    batches: Iterable[int] = (),
    **options: Unpack[MeasureKeywords],
) -> Measurement:
    """Quality, size, latency, memory and energy of a model on the examples of `data`.

    ledger: every tensor's bytes, in `extra["ledger"]`. batches: batch sizes beyond 1 to time, in `extra["batches"]`.
    options: the fields of MeasureOptions.

    Raises LabelsDisagree, BrokenModel, WorkerFailed, and what loading the model and the data raise.
    """
    how = MeasureOptions.of(options)
    opened = load(model)
    task = open_task(data, [opened], how)
    judging = judging_of(task)
    judging.masked_accuracy = how.masked_accuracy
    opened = judging.resolved(opened, how.output)
    judging.check(opened)  # labels that disagree are reported before anything is computed
    examples = task.examples(how.split)
    preprocessing_s = time_preprocessing(judging, opened, examples)
    sample = judging.timing_input(opened, examples)
    chosen = choose_threads(opened, sample, how)
    seconds = SECONDS if how.seconds is None else how.seconds
    with judging.opened(opened, opening=how.opening(chosen)) as worker:
        weight = memory.of_model(worker, sample)
        how.progress.say(f"timing {opened.path.name}, {worker.runtime}, {chosen} threads")
        timing = time_one(worker, sample, seconds=seconds)
        costs = cost_fields(judging, Measured(opened, worker, sample, timing, weight, chosen, seconds))
        batched = [_batch(judging, worker, opened, examples, size, seconds) for size in batches]
        judged = judging.quality(opened, examples, worker, progress=how.progress)
        further = judging.quality_extra(worker, examples)
        if (other := secondary_judging(task)) is not None:
            further[SECONDARY] = about(
                other.quality(opened, other.task.examples(how.split), worker, progress=how.progress)
            )
    extra: dict[str, Any] = {"preprocessing_s": preprocessing_s, **further}
    if ledger:
        extra["ledger"] = ledger_of(opened).as_dict()
    if batched:
        extra["batches"] = batched
    # What was measured, not what a run began with: a record's source is the first model of all steps.
    costs["model"] = str(model) if isinstance(model, (str, Path)) else costs["model"]
    return measurement(task, judged, costs, extra)


@dataclass(frozen=True)
class Measured:
    """What was measured of an open model: its worker still holds the inputs that were timed.

    seconds: the most that the timing took; what else is timed takes no longer.
    """

    model: Model
    worker: Worker
    inputs: Inputs
    timing: Timing
    weight: Weight
    threads: int
    seconds: float


def measurement(task: Task, judged: Quality, costs: dict[str, Any], extra: dict[str, Any]) -> Measurement:
    """A Measurement from its parts: the Quality, `cost_fields`, and further numbers for `extra`."""
    left_out = int(getattr(task, "left_out", 0))
    qualities = quality_fields(judged, {**costs["extra"], **extra})
    return Measurement(task=task.kind, examples_left_out=left_out, **{**costs, **qualities})


def quality_fields(judged: Quality, extra: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Measurement that are quality; `extra` are further numbers for the field of that name."""
    return {
        "examples": len(judged.scores.numerator),
        "metric": judged.scores.metric,
        "quality": judged.scores.value,
        "quality_low": judged.low,
        "quality_high": judged.high,
        "extra": {**extra, **judged.extra},
    }


def cost_fields(judging: Judging, measured: Measured) -> dict[str, Any]:
    """The fields of a Measurement that are costs."""
    model, worker, timing, weight = measured.model, measured.worker, measured.timing, measured.weight
    sizes = ledger_of(model)
    used = energy.of_model(worker, timing.median_s, timing.processor_s, energy.find_meter())
    bound = roofline.roofline(model, measured.inputs, timing.median_s, measured.threads)
    extra: dict[str, Any] = {"memory": weight.as_dict(), "energy": used.as_dict(), "timing": timing.as_dict()}
    extra |= judging.cost_extra(worker, measured.inputs, timing, measured.seconds)
    return {
        "model": model.record.source or str(model.path),
        "format": model.format,
        "runtime": worker.runtime,
        "size_bytes": model.size_bytes,
        "parameters": sizes.parameters,
        "bits_per_weight": sizes.bits_per_weight,
        "latency_s": timing.median_s,
        "latency_low_s": timing.low_s,
        "latency_high_s": timing.high_s,
        "throughput_per_s": timing.throughput_per_s,
        "load_s": worker.load_s,
        "threads": measured.threads,
        "memory_bytes": weight.bytes,
        "energy_j": used.joules,
        "energy_source": used.source,
        "machine": machine.describe(),
        "extra": extra if bound is None else {**extra, "floor": bound},
        "not_measured": [] if bound is not None else ["floor"],
    }


def _batch(
    judging: Judging, worker: Worker, model: Model, examples: Sequence[Example], size: int, seconds: float
) -> dict[str, Any]:
    if size < 1:
        raise InvalidOption(f"a batch has at least 1 example, not {size}")
    timing = time_one(worker, judging.timing_input(model, examples, size), seconds=seconds)
    return timing.as_dict()


def time_preprocessing(judging: Judging, model: Model, examples: Sequence[Example]) -> float:
    """Seconds that one example takes from the data to the model's input; the median of a few."""
    prepare = judging.preparation(model)
    durations = []
    for example in examples[:SAMPLES]:
        started = time.perf_counter()
        prepare(example)
        durations.append(time.perf_counter() - started)
    return sorted(durations)[len(durations) // 2] if durations else 0.0


def choose_threads(model: Model, sample: Inputs, options: MeasureOptions) -> int:
    """The number of threads to measure with: as given, all cores for 0, the faster of 1 and all for "auto"."""
    cores = machine.cores()
    threads = check_threads(options.threads)
    if threads != "auto":
        return threads or cores
    if cores == 1:
        return 1
    with Worker() as single, Worker() as all_cores:
        single.open(model, threads=1, runtime=options.runtime)
        all_cores.open(model, threads=cores, runtime=options.runtime)
        return cores if time_pair(single, all_cores, sample, seconds=AUTO_S, seed=options.seed).ratio > 1 else 1
