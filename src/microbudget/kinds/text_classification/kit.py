"""What a text classifier is timed and checked with on another machine: tokens, so that no tokenizer is needed there."""

from __future__ import annotations

from collections.abc import Sequence

from ...judge.answering import collated
from ...model import Model
from ...runtimes.text.encoding import TextEncoder
from ...ship.kit import Work, of_graph
from ...task import Example, Task
from .data import TextTask


def work(task: Task, model: Model, examples: Sequence[Example], threads: int) -> Work | None:
    """Of an ONNX file; the text of middle length is timed, as in the run. None for a model in another format."""
    if model.format != "onnx":
        return None
    if not isinstance(task, TextTask):
        return of_graph(task, model, [collated(task, model, [each]) for each in examples], threads)
    encoder = TextEncoder.of(model)
    rows = sorted((encoder.tokens(task.text_of(each)) for each in examples), key=len)
    rows.insert(0, rows.pop(len(rows) // 2))
    return of_graph(task, model, [encoder.batch([row]) for row in rows], threads)
