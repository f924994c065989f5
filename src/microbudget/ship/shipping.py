"""Shipping: what a kind of model adds to RUN/best and its card: `SHIPPING` in `kinds/<kind>/shipping.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..judge.budget import Measurement
from ..kind import find_facet
from ..model import Model
from ..task import Task

CardRow = tuple[str, str, str]  # of the card's table: what, of this model, of the reference ("" where not measured)


def _no_files(_folder: Path, _model: Model, _task: Task) -> None:
    return None


def _no_bytes(_model: Model, _task: Task) -> int:
    return 0


def _no_rows(_test: Measurement, _reference: Measurement | None) -> tuple[CardRow, ...]:
    return ()


@dataclass(frozen=True)
class Shipping:
    """What a kind adds.

    pipeline_tag: Hugging Face's name of the kind. add_files: writes files into the folder with the model's own.
    added_bytes: how many bytes that adds to the files that opening the model reads.
    card_rows: more rows of the card from what was measured on test, of this model and of the reference.
    has_preprocessor: whether a record's preprocessing is what a preprocessor_config.json holds.
    """

    pipeline_tag: str
    add_files: Callable[[Path, Model, Task], None] = _no_files
    card_rows: Callable[[Measurement, Measurement | None], tuple[CardRow, ...]] = _no_rows
    added_bytes: Callable[[Model, Task], int] = _no_bytes
    has_preprocessor: bool = True


def shipping_of(kind: str) -> Shipping:
    """Of a kind; nothing is added for one without the facet, such as a task of the user's own."""
    found = find_facet(kind, "shipping")
    if found is None:
        return Shipping(pipeline_tag=kind)
    shipping: Shipping = found.SHIPPING
    return shipping
