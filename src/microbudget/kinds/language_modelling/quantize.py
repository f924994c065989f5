"""The part of `quantize` that is language modelling's: the texts from which an importance matrix is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...task import Example


class _HasText(Protocol):
    def text(self, example: Example) -> str: ...


def calibration_texts(task: _HasText, examples: Sequence[Example]) -> Iterator[str]:
    """The text of each example, as the model is to read it."""
    return map(task.text, examples)
