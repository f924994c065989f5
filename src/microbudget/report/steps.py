"""Steps: the report of each method that made the shipped model, as facts and tables, whatever its keys are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..model import Record
from ..units import format_bytes, format_joules, format_seconds
from . import phrases
from .training import DRAWN

SHARES = ("share", "saturation", "same_top1", "sparsity", "_teacher")  # fractions that read better in per cent
WORDS = {"same_top1": "same answers", "difference": "largest difference of logits"}


@dataclass(frozen=True)
class Cell:
    """A value as text; numbers also as a share of the largest in their column, for a bar in the background."""

    text: str
    number: bool = False
    bar: float | None = None


@dataclass(frozen=True)
class Listing:
    """A list of rows that a step reported, such as its layers."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Step:
    """One step of the recipe: single facts, and tables."""

    name: str
    facts: tuple[tuple[str, str], ...]
    listings: tuple[Listing, ...]


def steps(record: Record, *, without: Iterable[str] = ()) -> tuple[Step, ...]:
    """The reports of the record's history, except those named in `without`."""
    left_out = set(without)
    found = [_step(name, report) for name, report in record.history.items() if name not in left_out]
    return tuple(step for step in found if step.facts or step.listings)


def _step(name: str, report: Any) -> Step:
    if not isinstance(report, Mapping):
        return Step(name, (("result", text("", report)),), ())
    facts, listings = [], []
    drawn = DRAWN if report.get("epochs") else ()
    for key, value in ((key, value) for key, value in report.items() if key not in drawn):
        if _is_table(value):
            listings.append(_listing(key, value))
        elif isinstance(value, Mapping):
            facts += [(f"{words(key)}: {words(inner)}", text(inner, kept)) for inner, kept in value.items()]
        else:
            facts.append((words(key), text(key, value)))
    return Step(name, tuple(facts), tuple(listings))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _listing(name: str, rows: list[Mapping[str, Any]]) -> Listing:
    columns = tuple(dict.fromkeys(str(key) for row in rows for key in row))
    largest = {column: max((_size(row.get(column)) for row in rows), default=0.0) for column in columns}
    cells = tuple(tuple(_cell(column, row.get(column), largest[column]) for column in columns) for row in rows)
    return Listing(name, columns, cells)


def _size(value: Any) -> float:
    """The magnitude of a fractional number: only those get a bar, which would mean nothing for counts and bits."""
    return abs(value) if isinstance(value, float) and abs(value) < float("inf") else 0.0


def _cell(column: str, value: Any, largest: float) -> Cell:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    bar = _size(value) / largest if largest and isinstance(value, float) else None
    return Cell(text(column, value), number, bar)


def words(key: str) -> str:
    """A key in words: "weight_error" -> "weight error"."""
    for unit in ("_bytes", "_s", "_j"):
        key = key.removesuffix(unit)
    return WORDS.get(key, key.replace("_", " "))


def text(key: str, value: Any) -> str:
    """A value as text; the unit is in its key's name."""
    if value is None or value == "":
        return phrases.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(key, value)
    if isinstance(value, (list, tuple)):
        return " × ".join(text("", item) for item in value) if len(value) <= 6 else f"{len(value)} values"
    return str(value)


def _number(key: str, value: float) -> str:
    for unit, show in (("_bytes", format_bytes), ("_s", format_seconds), ("_j", format_joules)):
        if key.endswith(unit):
            return show(value)
    if key.endswith(SHARES):
        return phrases.share(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
