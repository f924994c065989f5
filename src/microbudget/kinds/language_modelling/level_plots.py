"""Plots of the levels of a language model: what each loses, and how fast it writes, against its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...judge.budget import Measurement
from ...report import plots
from ...report.outcome import Outcome
from ...report.part import Plots
from ...report.pointing import about
from ...report.rows import name as row_name
from ...runs.candidates import Candidate
from .levels import level_name
from .questions.task import METRIC

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
NOTE = (
    "Bars are 95 % intervals; the line joins the levels that no smaller one beats. Symbols that would cover each other"
    " are drawn side by side."
)

Values = tuple[float, float, float]  # a number with its interval
Read = Callable[[Candidate, Measurement], Values | None]


def level_plots(outcome: Outcome) -> Plots:
    """Loss, divergence and speed against bytes; no figures where matplotlib is not installed."""
    figures = tuple(figure for figure in _figures(outcome) if figure[0]) if plots.available() else ()
    return Plots("Loss and speed against size", figures, NOTE)


def _figures(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    rows = [row for row in outcome.rows if row.measurement is not None]
    factor, unit = next((u for u in UNITS if _middle_size(rows) >= u[0]), UNITS[-1])
    size, limit = f"size ({unit})", outcome.budget.max_drop if outcome.budget else None
    points, fits = outcome.metric == METRIC, limit is not None and limit.relative != (outcome.metric == METRIC)
    lost = "points of accuracy lost" if points else "more bits per byte than the reference (%)"
    judged = "how many more questions it has wrong" if points else "how many more bits it needs for the same text"
    most = plots.Limits(
        quality=100 * limit.amount if limit is not None and fits else None,
        quality_label="" if limit is None else f"loss at most {limit}",
        higher_is_better=False,
    )

    def drawn(name: str, read: Read, limits: plots.Limits, axis: str, log: str = "x") -> str:
        points = [_point(outcome, place, read, factor) for place in range(len(outcome.rows))]
        known = [point for point in points if point is not None]
        return plots.trade_off(name, known, limits, size, axis, log=log) if known else ""

    return (
        (
            drawn("loss", _loss, most, lost),
            f"The loss of each level: {judged}, judged in pairs of {'questions' if points else 'passages'}.",
        ),
        (
            drawn("kl", _divergence, plots.Limits(higher_is_better=False), "KL (nats a token)", log="xy"),
            "The divergence of its predictions from the reference's. It shows small differences that bits per byte"
            " do not.",
        ),
        (
            drawn("speed", _speed, plots.Limits(), "tokens written per second"),
            "Speed of generation, one token after 128 others.",
        ),
    )


def _middle_size(rows: Sequence[Candidate]) -> float:
    sizes = sorted(row.measurement.size_bytes for row in rows if row.measurement)
    return sizes[len(sizes) // 2]


def _point(outcome: Outcome, place: int, read: Read, factor: float) -> plots.Point | None:
    row = outcome.rows[place]
    measurement = row.measurement
    values = None if measurement is None else read(row, measurement)
    if measurement is None or values is None:
        return None
    name = level_name(row) or ("reference" if outcome.is_reference(row) else outcome.run.folder.name)
    return plots.Point(
        label=f"{name} ships" if outcome.ships(row) else name,
        role=outcome.role(row),
        cost=measurement.size_bytes / factor,
        quality=values[0],
        quality_low=values[1],
        quality_high=values[2],
        row=row_name(place),
        about=about(outcome, place),
    )


def _loss(row: Candidate, _measurement: Measurement) -> Values | None:
    """In per cent of the reference's bits, or in points: above 0 where the level needs more, or has fewer right."""
    verdict = row.verdict
    if verdict is None:
        return None
    return -100 * verdict.change, -100 * verdict.change_high, -100 * verdict.change_low


def _divergence(_row: Candidate, measurement: Measurement) -> Values | None:
    divergence = measurement.extra.get("divergence")
    if divergence is None or divergence["kl_low"] <= 0:  # the reference itself, in another file
        return None
    return divergence["kl"], divergence["kl_low"], divergence["kl_high"]


def _speed(_row: Candidate, measurement: Measurement) -> Values | None:
    if not measurement.latency_s or not measurement.latency_low_s or not measurement.latency_high_s:
        return None
    return 1 / measurement.latency_s, 1 / measurement.latency_high_s, 1 / measurement.latency_low_s
