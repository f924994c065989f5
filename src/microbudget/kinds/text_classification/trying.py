"""Texts of one's own on the page of `try`: labels with probabilities, of networks and of what needs none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import BadData
from ...judge.worker import Worker
from ...model import Model
from ...runtimes.onnx.interface import as_logits, scale_of_model
from ...runtimes.prediction import classified
from ...runtimes.text.encoding import TEXT
from ...trying.asking import Answer, Medium
from ...trying.keeping import keep_row, one_line
from .floor import name_of

__all__ = ["MEDIUM", "answers", "check", "keep", "name_of"]
LONGEST = 20_000  # characters
SHOWN = 5  # labels
MEDIUM = Medium("text", "text", "label", LONGEST, placeholder="A text to classify")


def check(given: str) -> None:
    """Raise BadData for a text that is too long."""
    if len(given) > LONGEST:
        raise BadData(f"the text has {len(given):,} characters; at most {LONGEST:,} are taken")


def answers(worker: Worker, model: Model, given: str) -> Iterator[Answer]:
    """The labels that the model finds most likely."""
    started = time.perf_counter()
    outputs = worker.answer({TEXT: np.array([given], np.str_)})
    seconds = time.perf_counter() - started
    (found,) = classified([given], as_logits(outputs, scale_of_model(model)), model.labels)
    yield Answer(labels=tuple(found.probabilities.items())[:SHOWN], seconds=seconds)


def keep(folder: Path, given: str, right: str) -> Path:
    """A row of a table with the columns text and label; line breaks become spaces."""
    return keep_row(folder / "texts.csv", {"text": one_line(given), "label": one_line(right)})
