"""Quality: a model's answers, computed in a worker in bounded chunks, checked, and scored against the data.

The outputs are never all in memory at once, unless `answers` is asked for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..audio.sound import RATE_HZ
from ..errors import BadData, BrokenModel, LabelsDisagree
from ..model import Model
from ..progress import SILENT, Progress
from ..runtimes.loading import match_labels
from ..task import LONG_S, SPLITS, Example, Inputs, LanguageTask, Scores, SpokenTask, Task
from . import statistics as stats
from .worker import Worker

# Inputs of one request: 4 photos of 224 pixels. With more, torch's activations leave the caches: a photo took 73 ms in
# a batch of 16, 29 ms in one of 4. By size and not by time, since the last bits of an answer depend on the batch.
CHUNK_BYTES = 2_500_000
LARGEST_CHUNK = 64
LARGEST_CONFUSION = 100  # classes: a larger matrix would drown what else a Measurement tells
# What a request may take: reading a passage takes a large model minutes.
PATIENCE_S, READING_S = 120.0, 1800.0
CLASSIFICATION = ("image-classification", "text-classification")

Logits = NDArray[Any]  # float32; texts of a model that writes what it hears


@dataclass(frozen=True)
class Quality:
    """Scores example by example, the interval of their metric, and what else the task's kind tells."""

    scores: Scores
    low: float
    high: float
    extra: dict[str, Any] = field(default_factory=dict)


def columns(model: Model, task: Task) -> tuple[int, ...] | None:
    """For each of the data's labels the index of the model's output; None for tasks without labels."""
    return match_labels(model, task.labels) if task.kind in CLASSIFICATION else None


def preprocessing(model: Model) -> dict[str, Any]:
    """How the model wants its inputs; empty where its record says nothing."""
    return model.record.preprocessing or {}


def chunk_size(models: Iterable[Model], task: Task, examples: Sequence[Example]) -> int:
    """Examples per request, so that the inputs of none of the models exceed the limit; one passage of text."""
    if isinstance(task, LanguageTask):
        return 1
    if isinstance(task, SpokenTask):  # rows are as long as the longest, and a long recording is alone
        longest = max((task.seconds(each) for each in examples if task.seconds(each) <= LONG_S), default=0.0)
        return min(LARGEST_CHUNK, max(1, int(CHUNK_BYTES / (4 * RATE_HZ * max(longest, 0.1)))))
    largest = max(
        sum(array.nbytes for array in task.collate(examples[:1], preprocessing(model)).values()) for model in models
    )
    return min(LARGEST_CHUNK, max(1, CHUNK_BYTES // largest))


def hire(task: Task, max_memory_bytes: int | None = None) -> Worker:
    """A worker with the patience that the task takes."""
    return Worker(timeout_s=_patience_s(task), max_memory_bytes=max_memory_bytes)


def _patience_s(task: Task) -> float:
    """Of speech at least twice the longest recording: a model that takes longer has hung."""
    if isinstance(task, SpokenTask):
        every = (example for split in SPLITS for example in task.examples(split))
        return max(READING_S, 2 * max((task.seconds(example) for example in every), default=0.0))
    return READING_S if isinstance(task, LanguageTask) else PATIENCE_S


def evidence(task: Task, examples: Sequence[Example]) -> int:
    """How many examples can speak for a verdict: unlabelled ones too where an answer is a class."""
    return len(examples) + (len(task.examples("unlabelled")) if task.kind in CLASSIFICATION else 0)


def answer_chunks(
    worker: Worker,
    model: Model,
    task: Task,
    examples: Sequence[Example],
    progress: Progress = SILENT,
    size: int | None = None,
) -> Iterator[tuple[Sequence[Example], Logits]]:
    """Chunks of examples with their checked outputs in the order of the task's labels.

    The next chunk is read while the worker answers. size: examples per chunk, by default `chunk_size` of this model.
    Raises BrokenModel, LabelsDisagree, WorkerFailed.
    """
    if not examples:
        raise BadData("there is no example to measure with")
    size = size or chunk_size([model], task, examples)
    chunks = list(_chunks(task, examples, size))
    check = Check(model, columns(model, task), len(task.labels))
    ahead = task.collate(chunks[0], preprocessing(model))
    for chunk, following in progress.track(
        list(zip(chunks, [*chunks[1:], None], strict=True)), f"answers of {model.path.name}"
    ):
        worker.send("answer", inputs=ahead)
        if following is not None:
            ahead = task.collate(following, preprocessing(model))
        yield chunk, check(worker.receive(), len(chunk))
    check.finish()


def _chunks(task: Task, examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """The examples in their order, so many at a time; a long recording, which takes as long as many, is alone."""
    start, spoken = 0, task if isinstance(task, SpokenTask) else None
    for place, example in enumerate(examples):
        alone = spoken is not None and spoken.seconds(example) > LONG_S
        if place > start and (alone or place - start == size):
            yield examples[start:place]
            start = place
        if alone:
            yield examples[place : place + 1]
            start = place + 1
    if start < len(examples):
        yield examples[start:]


class Check:
    """Looks at a model's outputs chunk by chunk and refuses those of a broken model."""

    def __init__(self, model: Model, chosen: tuple[int, ...] | None, labels: int) -> None:
        self._model, self._columns, self._labels = model, chosen, labels
        self._first: NDArray[Any] | None = None
        self._seen, self._varied = 0, False

    def __call__(self, outputs: NDArray[Any], examples: int) -> Logits:
        """The outputs at the task's labels, float32. Raises BrokenModel or LabelsDisagree."""
        name = self._model.path
        if outputs.ndim == 0 or len(outputs) != examples:
            raise BrokenModel(f"{name} answers {examples} examples with an output of shape {outputs.shape}")
        if outputs.dtype.kind == "U":  # texts may all be the same: silence, or a model that has one word
            return outputs
        if self._columns is not None:
            outputs = self._at_labels(outputs)
        unfit = int((~np.isfinite(outputs.reshape(examples, -1)).all(axis=1)).sum())
        if unfit:
            raise BrokenModel(f"{name} answers {unfit} of {examples} examples with NaN or infinity")
        self._first = outputs[:1] if self._first is None else self._first
        self._seen += examples
        self._varied = self._varied or bool((outputs != self._first).any())
        return np.asarray(outputs, np.float32)

    def _at_labels(self, outputs: NDArray[Any]) -> NDArray[Any]:
        assert self._columns is not None
        if outputs.ndim != 2:
            raise BrokenModel(
                f"{self._model.path} answers with an output of shape {outputs.shape}; a classifier gives"
                " (examples, labels)"
            )
        names = self._model.labels
        if names is None and outputs.shape[1] != self._labels:
            raise LabelsDisagree(
                f"{self._model.path} names no labels and has {outputs.shape[1]} outputs; the data have {self._labels}"
                " labels. Use data with its classes, or teach it yours: `microbudget shrink` finetunes by itself"
            )
        if names is not None and outputs.shape[1] != len(names):
            raise BrokenModel(f"{self._model.path} names {len(names)} labels but has {outputs.shape[1]} outputs")
        return outputs[:, list(self._columns)]

    def finish(self) -> None:
        """After the last chunk: a model that says the same of everything is broken (texts may be the same)."""
        if self._seen > 1 and not self._varied:
            raise BrokenModel(f"{self._model.path} gives the same answer to all {self._seen} examples")


def answers(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    *,
    worker: Worker | None = None,
    threads: int = 0,
    runtime: str | None = None,
    progress: Progress = SILENT,
) -> Logits:
    """All outputs in the order of the task's labels, (examples, classes) float32. Opens a worker when none is given."""
    if worker is None:
        with hire(task) as own:
            own.open(model, threads=threads, runtime=runtime)
            return answers(model, task, examples, worker=own, progress=progress)
    return np.concatenate([outputs for _, outputs in answer_chunks(worker, model, task, examples, progress)])


class Tally:
    """Adds up chunks into a Quality; its memory does not grow but for two numbers an example."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._scores: list[Scores] = []
        self._outputs: list[NDArray[Any]] = []  # of a language task: two numbers an example; of a spoken one: texts
        self._examples: list[Example] = []
        classes = len(task.labels) if task.kind in CLASSIFICATION else 0
        self._confusion = np.zeros((classes, classes), np.int64)

    def add(self, examples: Sequence[Example], outputs: NDArray[Any]) -> Scores:
        """Score a chunk."""
        scores = self._task.score(outputs, examples)
        self._scores.append(scores)
        if isinstance(self._task, (LanguageTask, SpokenTask)):
            self._outputs.append(outputs)
            self._examples += examples
        if len(self._confusion):
            labels = np.array([example.label for example in examples])
            self._confusion += metrics.confusion_matrix(outputs.argmax(axis=1), labels, len(self._confusion))
        return scores

    def quality(self) -> Quality:
        """The Quality of everything added."""
        first = self._scores[0]
        scores = Scores(
            first.metric,
            np.concatenate([part.numerator for part in self._scores]),
            np.concatenate([part.denominator for part in self._scores]),
            first.higher_is_better,
        )
        low, high = interval(scores)
        return Quality(scores, low, high, self._extra())

    def _extra(self) -> dict[str, Any]:
        if isinstance(self._task, LanguageTask):
            return self._task.extra(np.concatenate(self._outputs))
        if isinstance(self._task, SpokenTask):
            return self._task.extra(np.concatenate(self._outputs), self._examples)
        classes = len(self._confusion)
        if not classes:
            return {}
        matrix = {"confusion": self._confusion.tolist(), "labels": list(self._task.labels)}
        return {**metrics.macro(self._confusion), **(matrix if classes <= LARGEST_CONFUSION else {})}


def interval(scores: Scores) -> tuple[float, float]:
    """95 % interval of a metric: Wilson's for a share of examples, else a bootstrap over examples."""
    if np.isin(scores.numerator, (0, 1)).all() and (scores.denominator == 1).all():
        return stats.wilson(float(scores.numerator.sum()), len(scores.numerator))
    return _bootstrap(scores)


def _bootstrap(scores: Scores, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    coin, n = np.random.default_rng(seed), len(scores.numerator)
    values = np.empty(draws)
    for draw in range(draws):  # one at a time: (draws, n) indices would grow with the data
        chosen = coin.integers(0, n, n)
        values[draw] = scores.numerator[chosen].sum() / scores.denominator[chosen].sum()
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def quality(
    model: Model,
    task: Task,
    examples: Sequence[Example],
    *,
    worker: Worker | None = None,
    threads: int = 0,
    runtime: str | None = None,
    progress: Progress = SILENT,
) -> Quality:
    """The Quality of a model on examples with labels. Opens a worker when none is given."""
    if worker is None:
        with hire(task) as own:
            own.open(model, threads=threads, runtime=runtime)
            return quality(model, task, examples, worker=own, progress=progress)
    tally = Tally(task)
    for chunk, outputs in answer_chunks(worker, model, task, examples, progress):
        tally.add(chunk, outputs)
    return tally.quality()


def one(model: Model, task: Task, examples: Sequence[Example], batch: int = 1) -> Inputs:
    """The inputs of the first `batch` examples (repeated when there are fewer), for timing; of a text, of one token."""
    if not examples:
        raise BadData("there is no example to measure with")
    if isinstance(task, (LanguageTask, SpokenTask)):
        return task.sample(examples)
    chosen = [examples[i % len(examples)] for i in range(batch)]
    return task.collate(chosen, preprocessing(model))
