"""Side by side: the numbers of a run's rows as data in the page, from which its script compares any two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ..judge.budget import Measurement
from . import phrases
from .outcome import Outcome
from .rows import Row, finite


@dataclass(frozen=True)
class Measure:
    """A line of the comparison.

    as_ratio: two values are compared by how many times one is the other, else by their difference. better, worse: the
    words for the better and the worse of two, such as "smaller" and "larger"; without `worse` a ratio below 1 says it.
    scale and unit: of a difference.
    """

    key: str
    label: str
    read: Callable[[Measurement], float | None]
    show: Callable[[Measurement], str]
    as_ratio: bool = True
    lower: bool = True
    better: str = "less"
    worse: str = "more"
    scale: float = 1.0
    unit: str = ""

    @property
    def rule(self) -> dict[str, Any]:
        """What the script has to know of it."""
        names = ("key", "label", "as_ratio", "lower", "better", "worse", "scale", "unit")
        return {name: getattr(self, name) for name in names}


def measures(metric: str) -> tuple[Measure, ...]:
    """What two rows are compared by, in the order of the table."""
    scale, unit = (100, " pt") if metric.lower() in phrases.SHARES else (1, "")
    lower = metric.lower() in phrases.LOWER_IS_BETTER
    return (
        Measure("size", "size", lambda m: m.size_bytes, phrases.size, better="smaller", worse="larger"),
        Measure("latency", "latency", lambda m: m.latency_s, phrases.latency, better="as fast", worse=""),
        Measure("memory", "memory", lambda m: m.memory_bytes, phrases.memory),
        Measure(
            "quality", metric or "quality", lambda m: m.quality, phrases.quality,
            as_ratio=False, lower=lower, better="better", worse="worse", scale=scale, unit=unit,
        ),
        Measure("kl", "KL (nats)", lambda m: m.kl, phrases.kl),
    )  # fmt: skip


def side_by_side(outcome: Outcome, rows: tuple[Row, ...]) -> Markup:
    """The data as JSON that can stand in a script element, whatever the names and recipes hold."""
    compared = measures(outcome.metric)
    found = [_row(outcome, place, row, compared) for place, row in enumerate(rows)]
    known = {key for row in found for key, value in row["values"].items() if value[1] is not None}
    rules = [measure.rule for measure in compared if measure.key in known]
    return htmlsafe_json_dumps({"measures": rules, "rows": found})


def _row(outcome: Outcome, place: int, row: Row, compared: tuple[Measure, ...]) -> dict[str, Any]:
    candidate = outcome.rows[place]
    measurement = candidate.measurement
    values = (
        {} if measurement is None else {m.key: [m.show(measurement), finite(m.read(measurement))] for m in compared}
    )
    return {
        "name": row.name,
        "role": row.role,
        "recipe": candidate.short,
        "steps": candidate.steps,
        "values": values,
        "change": " ".join(filter(None, (row.change, f"({row.change_interval})" if row.change_interval else ""))),
        "verdict": row.verdict,
        "failure": row.failure,
    }
