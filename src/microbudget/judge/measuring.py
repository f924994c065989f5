"""measure(): what one model costs and how good it is, on this machine and these data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidOption
from ..kind import open_data
from ..kinds.language_modelling import reading
from ..kinds.transcription import listening
from ..machine import processor as machine
from ..model import Model
from ..progress import SILENT, Progress
from ..runtimes.loading import load
from ..task import Example, Inputs, Split, SpokenTask, Task
from . import energy, memory, roofline
from .answering import Quality, columns, hire, one, preprocessing, quality
from .budget import Measurement
from .ledger import ledger as ledger_of
from .memory import Weight
from .twins import Timing, time_one, time_pair
from .worker import Worker

Threads = int | Literal["auto"] | None
SAMPLES = 8  # examples whose preprocessing is timed
AUTO_S = 2.0  # what the choice between one thread and all may take


def open_task(
    data: str | Path | Task, models: Sequence[Model], progress: Progress = SILENT, normalizer: str = "basic"
) -> Task:
    """The task of a path, without the examples that one of the models has seen; a Task as it is.

    Raises InvalidOption for models that are for different tasks.
    """
    if not isinstance(data, (str, Path)):
        return data
    kinds = {model.task: model for model in models}
    if len(kinds) > 1:
        told = ", ".join(f"{model.path} for {kind or 'images'}" for kind, model in kinds.items())
        raise InvalidOption(f"the models are for different tasks: {told}")
    seen = frozenset(key for model in models for key in model.record.seen)
    kind = next(iter(kinds), None)
    return open_data(data, kind, splits=False, leave_out=seen, normalizer=normalizer, progress=progress)


def measure(
    model: str | Path | Model,
    data: str | Path | Task,
    *,
    threads: Threads = None,
    seed: int = 0,
    seconds: float = 3.0,
    runtime: str | None = None,
    progress: Progress = SILENT,
    ledger: bool = False,
    max_memory_bytes: int | None = None,
    batches: Iterable[int] = (),
    split: Split = "test",
    normalizer: str = "basic",
) -> Measurement:
    """Quality, size, latency, memory and energy of a model on the examples of `data`.

    threads: None means all cores, "auto" tries 1 and all and keeps the better. seconds: the most that timing takes.
    ledger: every tensor's bytes, in `extra["ledger"]`. batches: batch sizes beyond 1 to time, in `extra["batches"]`.
    split: which examples of a Task; a path is one unsplit folder. normalizer: of transcripts, before they are compared.

    Raises LabelsDisagree, BrokenModel, WorkerFailed, and what loading the model and the data raise.
    """
    opened = load(model)
    task = open_task(data, [opened], progress, normalizer)
    columns(opened, task)  # labels that disagree are told before anything is computed
    examples = task.examples(split)
    preprocessing_s = time_preprocessing(opened, task, examples)
    sample = one(opened, task, examples)
    chosen = choose_threads(opened, sample, threads, runtime, seed)
    with hire(task, max_memory_bytes) as worker:
        worker.open(opened, threads=chosen, runtime=runtime)
        weight = memory.of_model(worker, sample)
        progress.say(f"timing {opened.path.name}, {worker.runtime}, {chosen} threads")
        timing = time_one(worker, sample, seconds=seconds)
        costs = cost_fields(opened, worker, sample, timing, weight, chosen)
        batched = [_batch(worker, opened, task, examples, size, seconds) for size in batches]
        judged = quality(opened, task, examples, worker=worker, progress=progress)
        heard = listening.long_form(worker, task, examples)
    extra: dict[str, Any] = {"preprocessing_s": preprocessing_s, **heard}
    if ledger:
        extra["ledger"] = ledger_of(opened).as_dict()
    if batched:
        extra["batches"] = batched
    return measurement(task, judged, costs, extra)


def measurement(task: Task, judged: Quality, costs: dict[str, Any], extra: dict[str, Any]) -> Measurement:
    """A Measurement from its parts: `quality`, `cost_fields`, and what else there is to tell."""
    left_out = int(getattr(task, "left_out", 0))
    told = quality_fields(judged, {**costs["extra"], **extra})
    return Measurement(task=task.kind, examples_left_out=left_out, **{**costs, **told})


def quality_fields(judged: Quality, extra: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Measurement that are quality; `extra` is what else stands in the field of that name."""
    return {
        "examples": len(judged.scores.numerator),
        "metric": judged.scores.metric,
        "quality": judged.scores.value,
        "quality_low": judged.low,
        "quality_high": judged.high,
        "extra": {**extra, **judged.extra},
    }


def cost_fields(
    model: Model, worker: Worker, inputs: Inputs, timing: Timing, weight: Weight, threads: int
) -> dict[str, Any]:
    """The fields of a Measurement that are no quality. The worker still holds the inputs that were timed."""
    sizes = ledger_of(model)
    used = energy.of_model(worker, timing.median_s, timing.processor_s, energy.find_meter())
    bound = roofline.roofline(model, inputs, timing.median_s, threads)
    extra: dict[str, Any] = {"memory": weight.as_dict(), "energy": used.as_dict(), "timing": timing.as_dict()}
    extra |= {**reading.speeds(worker, inputs, timing), **listening.speed(inputs, timing)}
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
        "threads": threads,
        "memory_bytes": weight.bytes,
        "energy_j": used.joules,
        "energy_source": used.source,
        "machine": machine.describe(),
        "extra": extra if bound is None else {**extra, "floor": bound},
        "not_measured": [] if bound is not None else ["floor"],
    }


def _batch(
    worker: Worker, model: Model, task: Task, examples: Sequence[Example], size: int, seconds: float
) -> dict[str, Any]:
    if size < 1:
        raise InvalidOption(f"a batch has at least 1 example, not {size}")
    timing = time_one(worker, one(model, task, examples, size), seconds=seconds)
    return timing.as_dict()


def time_preprocessing(model: Model, task: Task, examples: Sequence[Example]) -> float:
    """Seconds that one example takes from the data to the model's input; the median of a few."""
    prepare = _preparation(model, task)
    durations = []
    for example in examples[:SAMPLES]:
        started = time.perf_counter()
        prepare(example)
        durations.append(time.perf_counter() - started)
    return sorted(durations)[len(durations) // 2] if durations else 0.0


def _preparation(model: Model, task: Task) -> Callable[[Example], object]:
    """From an example to the input. Photos are read and decoded anew: the task's `collate` would find them cached."""
    path_of = getattr(task, "path_of", None)
    if path_of is None or isinstance(task, SpokenTask):
        return lambda example: task.collate([example], preprocessing(model))
    from ..images.photos import read_photo
    from ..images.preprocess import Preprocessing

    how = Preprocessing.parse(preprocessing(model))
    return lambda example: how([read_photo(path_of(example))])


def choose_threads(model: Model, sample: Inputs, threads: Threads, runtime: str | None = None, seed: int = 0) -> int:
    """The number of threads to measure with: as given, all for None or 0, the faster of 1 and all for "auto"."""
    cores = machine.cores()
    if threads != "auto":
        if threads is not None and threads < 0:
            raise InvalidOption(f"threads must be a number of threads or auto, not {threads}")
        return threads or cores
    if cores == 1:
        return 1
    with Worker() as single, Worker() as all_cores:
        single.open(model, threads=1, runtime=runtime)
        all_cores.open(model, threads=cores, runtime=runtime)
        return cores if time_pair(single, all_cores, sample, seconds=AUTO_S, seed=seed).ratio > 1 else 1
