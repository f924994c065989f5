"""Judging: how the models of a task are run, timed, scored and compared. A kind that differs has a subclass.

`judging_of` finds it in the `judging.py` of the kind's folder; a task of the user's own has the class that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..errors import BadData
from ..kind import find_facet
from ..model import Model
from ..progress import SILENT, Progress
from ..runtimes.labels import check_labels, for_labels, match_labels, other_labels
from ..task import Example, Inputs, Task
from ..units import Drop
from .answering import Columns, Convert, Logits, answer_chunks, collated, is_text, unchanged
from .quality import Quality, interval, joined
from .timing import Timing
from .worker import Worker

# Inputs of one request: 4 photos of 224 pixels. With more, torch's activations leave the caches: a photo took 73 ms in
# a batch of 16, 29 ms in one of 4. By size and not by time, since the last bits of an answer depend on the batch.
CHUNK_BYTES = 2_500_000
LARGEST_CHUNK = 64
LARGEST_CONFUSION = 100  # classes: a larger matrix would drown the rest of a Measurement
TIMEOUT_S = 120.0
ANOTHER = "(another class)"  # of the model, which the data do not have

Chunk = tuple[Sequence[Example], Logits]


@dataclass(frozen=True)
class Block:
    """Examples that are read together. start: how many a run has read before them."""

    examples: Sequence[Example]
    start: int = 0

    @property
    def end(self) -> int:
        """How many have been read after them."""
        return self.start + len(self.examples)


@dataclass(frozen=True)
class Opening:
    """How a model is opened in a worker process. threads: 0 means all cores; runtime: None, the first of its format."""

    threads: int = 0
    runtime: str | None = None
    max_memory_bytes: int | None = None


OPENING = Opening()


@dataclass(frozen=True)
class Agreement:
    """Two models on the same examples: their qualities, and how much the answers of B differ from those of A."""

    qualities: tuple[Quality, Quality]
    kl: float | None  # nats per example (per token of a text), of B from A
    same_top1: float | None  # fraction of the examples, or tokens
    tokens: dict[str, Any] | None = None  # of language models: both with their intervals, and over how many tokens


def judging_of(task: Task) -> Judging:
    """The Judging of a task's kind; where its tasks differ, a function of this name in its module chooses one."""
    module = find_facet(task.kind, "judging")
    if module is None:
        return Judging(task)
    found: Judging = getattr(module, "judging_of", module.Judging)(task)
    return found


class Judging:
    """A task whose outputs are an array for each example: the logits of a classifier where the task has labels."""

    more_evidence = "Give more"  # how a user gets more examples to judge by
    has_quality_extra = False  # whether `quality_extra` has something to report
    compares_predictions = False  # whether `compared_answers` has something to compare
    look_every = 256  # examples: after so many a run looks whether they are enough; what is cheap is read at once
    masked_accuracy = False  # whether it is reported too: that among the data's classes alone

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def timeout_s(self) -> float:
        """The longest that one request may take; a worker that takes longer hangs."""
        return TIMEOUT_S

    def start_worker(self, max_memory_bytes: int | None = None) -> Worker:
        """A worker process with this timeout."""
        return Worker(timeout_s=self.timeout_s, max_memory_bytes=max_memory_bytes)

    @contextmanager
    def opened(self, model: Model, worker: Worker | None = None, opening: Opening = OPENING) -> Iterator[Worker]:
        """The given worker, which has the model open already, else one of its own that ends with the block."""
        if worker is not None:
            yield worker
            return
        with self.start_worker(opening.max_memory_bytes) as own:
            own.open(model, threads=opening.threads, runtime=opening.runtime)
            yield own

    def resolved(self, model: Model, output: str | None = None) -> Model:
        """The model with what only the data tell: its output with the scores, its labels. Raises as `for_labels`."""
        return for_labels(model, self.task.labels, output)

    def check(self, model: Model) -> None:
        """Raise LabelsDisagree, before anything is computed, for a model that does not know the data's labels."""
        if self.task.labels:
            check_labels(model, self.task.labels)

    def to_logits(self, model: Model) -> Convert:
        """From what the model's file answers to logits; a task of the user's own gets the answers as they are."""
        return unchanged

    def columns(self, model: Model) -> Columns:
        """For each of the data's labels the index of the model's output; None for tasks without labels.

        Raises LabelsDisagree.
        """
        return match_labels(model, self.task.labels) if self.task.labels else None

    def check_limit(self, limit: Drop | None) -> None:
        """Raise InvalidOption for a limit on the loss that the metric of this kind of task cannot have."""

    def evidence(self, examples: Sequence[Example]) -> int:
        """How many examples count for a verdict: unlabelled ones too where an answer is a class."""
        return len(examples) + (len(self.task.examples("unlabelled")) if self.task.labels else 0)

    def lengths(self, examples: Sequence[Example]) -> NDArray[np.float64] | None:
        """What each counts, (examples,), such as its words; None where each counts once. It is known beforehand."""
        return None

    def chunks(self, models: Iterable[Model], examples: Sequence[Example]) -> list[Sequence[Example]]:
        """The examples in their order, so many in one request that the inputs of no model exceed the limit."""
        if not examples:
            return []
        arrays = [collated(self.task, model, examples[:1]) for model in models]
        largest = max(sum(array.nbytes for array in inputs.values()) for inputs in arrays)
        size = min(LARGEST_CHUNK, max(1, CHUNK_BYTES // largest))
        return [examples[start : start + size] for start in range(0, len(examples), size)]

    def timing_input(self, model: Model, examples: Sequence[Example], batch: int = 1) -> Inputs:
        """The inputs that are timed: the first `batch` examples, repeated when there are fewer. Raises BadData."""
        if not examples:
            raise BadData("there is no example to measure with")
        return collated(self.task, model, [examples[index % len(examples)] for index in range(batch)])

    def preparation(self, model: Model) -> Callable[[Example], object]:
        """From an example to the model's input: what `preprocessing_s` times."""
        return lambda example: collated(self.task, model, [example])

    def cost_extra(self, worker: Worker, inputs: Inputs, timing: Timing, seconds: float) -> dict[str, Any]:
        """More on what the open model costs, for `extra`; `seconds` at most each. Raises WorkerFailed."""
        return {}

    def quality_extra(self, worker: Worker, examples: Sequence[Example]) -> dict[str, Any]:
        """Further numbers on how good the open model is, which take runs of their own. Raises WorkerFailed."""
        return {}

    def answer_chunks(
        self,
        worker: Worker,
        model: Model,
        examples: Sequence[Example],
        progress: Progress = SILENT,
        chunks: list[Sequence[Example]] | None = None,
    ) -> Iterator[Chunk]:
        """Each chunk with the open model's checked outputs; see `answering.answer_chunks`."""
        chunks = self.chunks([model], examples) if chunks is None else chunks
        return answer_chunks(worker, model, self.task, chunks, self.columns(model), progress, self.to_logits(model))

    def answers(
        self,
        model: Model,
        examples: Sequence[Example],
        worker: Worker | None = None,
        opening: Opening = OPENING,
        progress: Progress = SILENT,
    ) -> Logits:
        """All outputs in the order of the task's labels, (examples, ...) float32, or (examples,) texts."""
        with self.opened(model, worker, opening) as open_worker:
            return np.concatenate([found for _, found in self.answer_chunks(open_worker, model, examples, progress)])

    def quality(
        self,
        model: Model,
        examples: Sequence[Example],
        worker: Worker | None = None,
        opening: Opening = OPENING,
        progress: Progress = SILENT,
    ) -> Quality:
        """The Quality of a model on examples with labels, chunk by chunk."""
        score = Scoring(self)
        with self.opened(model, worker, opening) as open_worker:
            for chunk, outputs in self.answer_chunks(open_worker, model, examples, progress):
                score.add(chunk, outputs)
        return score.quality()

    def reference_answers(
        self, model: Model, block: Block, worker: Worker, kept: Path, progress: Progress = SILENT
    ) -> Logits:
        """As `answers`, of the reference of a run. kept: a folder for what `compared_answers` needs of them."""
        return self.answers(model, block.examples, worker, progress=progress)

    def compared_answers(
        self,
        model: Model,
        block: Block,
        workers: tuple[Callable[[], Worker], Worker],
        kept: Path,
        progress: Progress = SILENT,
    ) -> tuple[Logits, NDArray[Any]]:
        """A candidate's outputs, and for each example what `divergence_extra` adds up, (examples, ...).

        workers: what opens the reference's, which is seldom needed, and the candidate's. kept: the folder that
        `reference_answers` has filled. Only of a kind that compares predictions.
        """
        raise NotImplementedError

    def divergence_extra(self, sums: NDArray[Any]) -> dict[str, Any]:
        """How far a candidate's predictions are from the reference's, for `extra` of a Measurement."""
        return {}

    def summary(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """What `extra` needs of a chunk's outputs, (examples, ...): small, since it is kept for all examples.

        Of a classifier the classes that it answers, among all and among the data's; None where nothing is needed.
        """
        if not self.task.labels:
            return None
        return np.stack([outputs.argmax(axis=1), outputs[:, : len(self.task.labels)].argmax(axis=1)], axis=1)

    def extra(self, summary: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What a Measurement reports besides the metric, from the summaries of all examples."""
        targets = np.array([each.label for each in examples])
        return class_report(summary, targets, self.task.labels, masked=self.masked_accuracy)

    def agreement(
        self,
        workers: tuple[Worker, Worker],
        models: tuple[Model, Model],
        examples: Sequence[Example],
        progress: Progress = SILENT,
    ) -> Agreement:
        """Two open models on the same examples, chunk by chunk: the memory does not grow with the examples."""
        scores = (Scoring(self), Scoring(self))
        kl, probabilities, same, count = 0.0, False, 0, 0
        classes = in_common(self.task, models)
        for chunk, a, b in paired(self, workers, models, examples, progress):
            scores[0].add(chunk, a)
            scores[1].add(chunk, b)
            if is_text(a):
                same, count = same + int((a == b).sum()), count + len(chunk)
            elif a.ndim == b.ndim == 2 and (classes is not None or a.shape == b.shape):
                kl, probabilities = kl + float(metrics.kl_divergence(a[:, :classes], b[:, :classes]).sum()), True
                same += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
                count += len(chunk)
        qualities = (scores[0].quality(), scores[1].quality())
        return Agreement(qualities, kl / count if probabilities else None, same / count if count else None)

    def disagreements(
        self, workers: tuple[Worker, Worker], models: tuple[Model, Model], progress: Progress = SILENT
    ) -> tuple[int, int] | None:
        """On how many of the unlabelled examples two open models disagree, and how many there are; None without any."""
        examples = self.task.examples("unlabelled")
        if not examples or not self.task.labels:
            return None
        pairs = paired(self, workers, models, examples, progress)
        return sum(int((a.argmax(axis=1) != b.argmax(axis=1)).sum()) for _, a, b in pairs), len(examples)


@dataclass
class Scoring:
    """Adds up chunks into a Quality; of each example it keeps its score and the kind's summary of the outputs."""

    judging: Judging
    _scores: list[Any] = field(default_factory=list)
    _summaries: list[NDArray[Any]] = field(default_factory=list)
    _examples: list[Example] = field(default_factory=list)

    def add(self, examples: Sequence[Example], outputs: NDArray[Any]) -> None:
        """Score a chunk."""
        self._scores.append(self.judging.task.score(outputs, examples))
        summary = self.judging.summary(outputs)
        if summary is not None:
            self._summaries.append(summary)
            self._examples += examples

    def quality(self) -> Quality:
        """The Quality of everything added."""
        scores = joined(self._scores)
        extra = self.judging.extra(np.concatenate(self._summaries), self._examples) if self._summaries else {}
        return Quality(scores, *interval(scores), extra)


def scored(judging: Judging, examples: Sequence[Example], outputs: Logits) -> Quality:
    """The Quality of outputs that are there already."""
    score = Scoring(judging)
    score.add(examples, outputs)
    return score.quality()


def class_report(
    summary: NDArray[Any], targets: NDArray[Any], labels: Sequence[str], *, masked: bool = False
) -> dict[str, Any]:
    """What a Measurement reports of a classifier. summary: (examples, 2), the answers among all and the data's classes.

    masked: with the accuracy among the data's classes.
    """
    confusion = metrics.confusion_matrix(summary[:, 0], targets, len(labels))
    found: dict[str, Any] = dict(metrics.macro(confusion))
    if masked:
        found["masked_accuracy"] = float((summary[:, 1] == targets).mean())
    if len(labels) <= LARGEST_CONFUSION:
        others = confusion.shape[1] - len(labels)  # answers that are none of the data's classes: a row without any
        found["confusion"] = np.pad(confusion, ((0, others), (0, 0))).tolist()
        found["labels"] = [*labels, *[ANOTHER] * others]
    return found


def in_common(task: Task, models: tuple[Model, Model]) -> int | None:
    """How many of the first outputs are of the same classes in both models; None for all of them."""
    if not task.labels:
        return None
    others = [other_labels(model.labels, task.labels) for model in models]
    return None if others[0] == others[1] else len(task.labels)


def paired(
    judging: Judging,
    workers: tuple[Worker, Worker],
    models: tuple[Model, Model],
    examples: Sequence[Example],
    progress: Progress,
) -> Iterator[tuple[Sequence[Example], Logits, Logits]]:
    """Chunks of the same examples with the outputs of both open models."""
    chunks = judging.chunks(models, examples)
    first = judging.answer_chunks(workers[0], models[0], examples, progress, chunks)
    second = judging.answer_chunks(workers[1], models[1], examples, SILENT, chunks)
    for (chunk, a), (_, b) in zip(first, second, strict=True):
        yield chunk, a, b
