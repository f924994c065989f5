"""compare(): two models on the same examples and in the same minutes: which is smaller, faster, better, how sure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import metrics
from ..errors import BadData
from ..kinds.language_modelling.tokens import read_both
from ..model import Model
from ..progress import SILENT, Progress
from ..runtimes.loading import load
from ..task import Example, LanguageTask, Split, SpokenTask, Task
from ..units import Drop
from . import memory
from .answering import Logits, Quality, Tally, answer_chunks, chunk_size, columns, evidence, hire, one
from .budget import Measurement
from .measuring import Threads, choose_threads, cost_fields, measurement, open_task
from .twins import Again, PairTiming, SpeedVerdict, time_pair
from .verdict import Verdict, can_show, check_limit, judge_pair
from .worker import Worker


@dataclass(frozen=True)
class Comparison:
    """A against B: ratios are A over B (above 1: B is better), `quality_change` above 0: B is better (0.01 = 1 pt)."""

    a: Measurement
    b: Measurement
    size_ratio: float
    speedup: float
    speedup_low: float
    speedup_high: float
    speed_verdict: SpeedVerdict
    quality_change: float
    quality_change_low: float
    quality_change_high: float
    verdict: str | None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        return {**self.__dict__, "a": self.a.as_dict(), "b": self.b.as_dict()}


def compare(
    a: str | Path | Model,
    b: str | Path | Model,
    data: str | Path | Task,
    *,
    max_drop: Drop | None = None,
    threads: Threads = None,
    seed: int = 0,
    seconds: float = 10.0,
    runtime: str | None = None,
    progress: Progress = SILENT,
    max_memory_bytes: int | None = None,
    split: Split = "test",
    normalizer: str = "basic",
) -> Comparison:
    """Two models in pairs: timed in turns, and judged on the same examples, without those that either has seen.

    threads: None means all cores; "auto" gives each model the better of 1 and all. seconds: the most that timed
    blocks take; opening the models anew between them may take as long again.
    max_drop: the loss of B that is allowed; without it `verdict` is None. split: which examples of a Task.
    normalizer: of transcripts, before they are compared.

    Raises LabelsDisagree, BrokenModel, WorkerFailed, and what loading raises.
    """
    models = (load(a), load(b))
    task = open_task(data, models, progress, normalizer)
    check_limit(max_drop, task.kind)
    for model in models:
        columns(model, task)
    examples = task.examples(split)
    if not examples:
        raise BadData("there is no example to compare with")
    if max_drop is not None:
        count = evidence(task, examples)
        possible, needed = can_show(max_drop, count)
        if not possible:
            progress.say(f"note: {count} examples cannot show a loss within {max_drop} at 95 %: that takes {needed}")
    samples = [one(model, task, examples) for model in models]
    chosen = [choose_threads(m, x, threads, runtime, seed) for m, x in zip(models, samples, strict=True)]
    with hire(task, max_memory_bytes) as first, hire(task, max_memory_bytes) as second:
        workers = (first, second)
        weights = []
        for worker, model, sample, count in zip(workers, models, samples, chosen, strict=True):
            worker.open(model, threads=count, runtime=runtime)
            weights.append(memory.of_model(worker, sample))
        progress.say(f"timing {models[0].path.name} and {models[1].path.name} in turns")
        again = reopening(models, task, chosen, runtime, max_memory_bytes)
        pair = time_pair(first, second, samples[0], samples[1], seconds=seconds, seed=seed, again=again)
        costs = [
            cost_fields(*parts)
            for parts in zip(models, workers, samples, (pair.reference, pair.candidate), weights, chosen, strict=True)
        ]
        judged = judge_both(workers, models, task, examples, progress)
        unlabelled = disagreements(workers, models, task) if max_drop is not None else None
    measured = [measurement(task, quality, cost, {}) for quality, cost in zip(judged.qualities, costs, strict=True)]
    before, after = (quality.scores for quality in judged.qualities)
    verdict = judge_pair(before, after, max_drop, unlabelled=unlabelled, seed=seed)
    return _comparison(measured[0], measured[1], pair, judged, verdict)


def reopening(
    models: Sequence[Model], task: Task, threads: Sequence[int], runtime: str | None, max_memory_bytes: int | None
) -> Again:
    """How `time_pair` opens the same two models in fresh processes."""

    @contextlib.contextmanager
    def again() -> Iterator[tuple[Worker, Worker]]:
        with hire(task, max_memory_bytes) as first, hire(task, max_memory_bytes) as second:
            for worker, model, count in zip((first, second), models, threads, strict=True):
                worker.open(model, threads=count, runtime=runtime)
            yield first, second

    return again


@dataclass(frozen=True)
class Both:
    """Two models on the same examples: their qualities, and how much the answers of B differ from those of A."""

    qualities: tuple[Quality, Quality]
    kl: float | None  # nats per example (per token of a text), of B from A
    same_top1: float | None  # share of the examples, or tokens
    tokens: dict[str, Any] | None = None  # of language models: both with their intervals, and over how many tokens


def judge_both(
    workers: tuple[Worker, Worker],
    models: tuple[Model, Model],
    task: Task,
    examples: Sequence[Example],
    progress: Progress = SILENT,
) -> Both:
    """Quality of two open models on the same examples, chunk by chunk: the memory does not grow with the examples."""
    if isinstance(task, LanguageTask):
        return _judge_readers(workers, task, examples, progress)
    tallies = (Tally(task), Tally(task))
    kl, same, count = 0.0, 0, 0
    for chunk, a, b in _paired(workers, models, task, examples, progress):
        tallies[0].add(chunk, a)
        tallies[1].add(chunk, b)
        if a.dtype.kind == "U":
            same, count = same + int((a == b).sum()), count + len(chunk)
        elif a.shape == b.shape and a.ndim == 2:
            kl += float(metrics.kl_divergence(a, b).sum())
            same += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
            count += len(chunk)
    qualities = (tallies[0].quality(), tallies[1].quality())
    spoken = isinstance(task, SpokenTask)  # which has no probabilities to tell the divergence of
    return Both(qualities, kl / count if count and not spoken else None, same / count if count else None)


def _judge_readers(workers: tuple[Worker, Worker], task: Task, examples: Sequence[Example], progress: Progress) -> Both:
    sides = read_both(*workers, task, examples, progress)
    tallies = (Tally(task), Tally(task))
    for tally, outputs in zip(tallies, (sides.reference, sides.candidate), strict=True):
        tally.add(examples, outputs)
    apart = sides.divergence()
    qualities = (tallies[0].quality(), tallies[1].quality())
    if apart is None:
        return Both(qualities, None, None)
    return Both(qualities, apart.kl, apart.same_top1, apart.as_dict())


def disagreements(
    workers: tuple[Worker, Worker], models: tuple[Model, Model], task: Task, progress: Progress = SILENT
) -> tuple[int, int] | None:
    """On how many of the unlabelled examples two open models disagree, and how many there are; None without any."""
    examples = task.examples("unlabelled")
    if not examples or columns(models[0], task) is None:
        return None
    differ = sum(
        int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
        for _, a, b in _paired(workers, models, task, examples, progress)
    )
    return differ, len(examples)


def _paired(
    workers: tuple[Worker, Worker],
    models: tuple[Model, Model],
    task: Task,
    examples: Sequence[Example],
    progress: Progress,
) -> Iterator[tuple[Sequence[Example], Logits, Logits]]:
    """Chunks of the same examples with the outputs of both models."""
    size = chunk_size(models, task, examples)
    streams = (
        answer_chunks(workers[0], models[0], task, examples, progress, size),
        answer_chunks(workers[1], models[1], task, examples, SILENT, size),
    )
    for (chunk, a), (_, b) in zip(*streams, strict=True):
        yield chunk, a, b


def _comparison(a: Measurement, b: Measurement, pair: PairTiming, judged: Both, verdict: Verdict) -> Comparison:
    return Comparison(
        a=a,
        b=b,
        size_ratio=a.size_bytes / b.size_bytes,
        speedup=pair.ratio,
        speedup_low=pair.low,
        speedup_high=pair.high,
        speed_verdict=pair.verdict,
        quality_change=verdict.change,
        quality_change_low=verdict.change_low,
        quality_change_high=verdict.change_high,
        verdict=verdict.decision if verdict.limit else None,
        extra={
            "kl": judged.kl,
            "same_top1": judged.same_top1,
            **({"tokens": judged.tokens} if judged.tokens else {}),
            "verdict": verdict.as_dict(),
            "timing": pair.as_dict(),
        },
    )
