"""Answers: a model's outputs, computed in a worker in bounded chunks and checked. They are never all in memory here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData, BrokenModel, LabelsDisagree
from ..model import Model
from ..progress import SILENT, Progress
from ..runtimes.labels import order_of
from ..task import Example, Inputs, Task
from .worker import Worker

Logits = NDArray[Any]  # float32, or texts
Columns = tuple[int, ...] | None  # for each of the data's labels the index of the model's output
Convert = Callable[[Logits], Logits]  # from what a model's file answers to logits


def unchanged(outputs: Logits) -> Logits:
    """Of a model whose outputs are logits, or no scores of classes."""
    return outputs


def preprocessing(model: Model) -> dict[str, Any]:
    """How the model wants its inputs; empty where its record has no preprocessing."""
    return model.record.preprocessing or {}


def collated(task: Task, model: Model, examples: Sequence[Example]) -> Inputs:
    """The model's inputs for examples, by the names and in the types that its own file asks for."""
    inputs = task.collate(examples, preprocessing(model))
    if model.format != "onnx" or any(map(is_text, inputs.values())):  # texts are cut into tokens by the session
        return inputs
    from ..runtimes.onnx.interface import read_signature

    return read_signature(model.weights).feed(inputs)


def answer_chunks(
    worker: Worker,
    model: Model,
    task: Task,
    chunks: Sequence[Sequence[Example]],
    columns: Columns = None,
    progress: Progress = SILENT,
    convert: Convert = unchanged,
) -> Iterator[tuple[Sequence[Example], Logits]]:
    """Each chunk of examples with the model's checked outputs: those of the task's labels first, then all the others.

    The next chunk is prepared while the worker computes. Raises BadData without an example, BrokenModel,
    LabelsDisagree, WorkerFailed.
    """
    if not chunks:
        raise BadData("there is no example to measure with")
    check = Check(model, columns, len(task.labels), convert)
    prepared = collated(task, model, chunks[0])
    pairs = list(zip(chunks, [*chunks[1:], None], strict=True))
    for chunk, following in progress.track(pairs, f"answers of {model.path.name}"):
        worker.send("answer", inputs=prepared)
        if following is not None:
            prepared = collated(task, model, following)
        yield chunk, check(worker.receive(), len(chunk))
    check.finish()


class Check:
    """Looks at a model's outputs chunk by chunk and refuses those of a broken model."""

    def __init__(self, model: Model, columns: Columns, labels: int, convert: Convert = unchanged) -> None:
        self._model, self._columns, self._labels, self._convert = model, columns, labels, convert
        self._first: NDArray[Any] | None = None
        self._seen, self._varied = 0, False

    def __call__(self, outputs: NDArray[Any], examples: int) -> Logits:
        """The outputs as logits, float32, the task's labels first. Raises BrokenModel or LabelsDisagree."""
        name = self._model.path
        if outputs.ndim == 0 or len(outputs) != examples:
            raise BrokenModel(f"{name} answers {examples} examples with an output of shape {outputs.shape}")
        if is_text(outputs):  # texts may all be the same: silence, or a model that has one word
            return outputs
        if self._columns is not None:
            outputs = self._convert(self._ordered(outputs, self._columns))
        unfit = int((~np.isfinite(outputs.reshape(examples, -1)).all(axis=1)).sum())
        if unfit:
            raise BrokenModel(f"{name} answers {unfit} of {examples} examples with NaN or infinity")
        self._first = outputs[:1] if self._first is None else self._first
        self._seen += examples
        self._varied = self._varied or bool((outputs != self._first).any())
        return np.asarray(outputs, np.float32)

    def _ordered(self, outputs: NDArray[Any], columns: tuple[int, ...]) -> NDArray[Any]:
        """All the outputs: a class that the data do not have can be answered too, and is wrong then."""
        if outputs.ndim > 2 and outputs.size == len(outputs) * outputs.shape[1]:  # (examples, labels, 1, 1)
            outputs = outputs.reshape(len(outputs), -1)
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
        return outputs[:, order_of(names, columns, outputs.shape[1])]

    def finish(self) -> None:
        """After the last chunk: a model with one output for everything is broken (texts may be the same)."""
        if self._seen > 1 and not self._varied:
            raise BrokenModel(f"{self._model.path} gives the same answer to all {self._seen} examples")


def is_text(outputs: NDArray[Any]) -> bool:
    """Whether a model's outputs are texts: transcripts, and no logits."""
    return bool(np.issubdtype(outputs.dtype, np.str_))
