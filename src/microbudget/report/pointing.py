"""Pointing: the points of a plot say what they are, to a pointer, to the keyboard and to a screen reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import escape

from ..judge.budget import Measurement
from ..runs.candidates import Candidate
from . import phrases
from .outcome import Outcome

Lines = tuple[str, ...]


def about(outcome: Outcome, place: int) -> Lines:
    """What a row of a run is, in lines: name and recipe, size and latency, quality, and the divergence if known."""
    row = outcome.rows[place]
    measurement = row.measurement
    called = str(place) if place else "reference"
    first = f"{called}{' (ships)' if outcome.ships(row) else ''}: {row.short}"
    if measurement is None:
        return (first, row.without_result)
    return tuple(filter(None, (first, _costs(row, measurement), _quality(row, measurement), _divergence(measurement))))


def _costs(row: Candidate, measurement: Measurement) -> str:
    speed = f" ({phrases.speedup(row.speed)} the reference's speed)" if row.speed.get("speedup") else ""
    latency = "" if measurement.latency_s is None else f"{phrases.latency(measurement)}{speed}"
    return " · ".join(filter(None, (phrases.size(measurement), latency)))


def _quality(row: Candidate, measurement: Measurement) -> str:
    change = f", change {phrases.change(row.verdict)}" if row.verdict is not None else ""
    interval = phrases.quality_interval(measurement)
    return f"{measurement.metric} {phrases.quality(measurement)} ({interval}){change}"


def _divergence(measurement: Measurement) -> str:
    return "" if measurement.kl is None else f"KL {phrases.kl(measurement)} nats"


def point_id(place: int) -> str:
    """The name of a point's group in the SVG."""
    return f"point-{place}"


def pointed(svg: str, name: str, points: Sequence[tuple[str, Lines]], on_front: Iterable[int]) -> str:
    """The SVG of a plot whose points have a description, for screen readers, and the browser's own tooltips.

    name: of the plot, which its ids begin with. points: the row and the lines of each. on_front: places of points.
    """
    front = set(on_front)
    for place, (row, lines) in enumerate(points):
        if not lines:
            continue
        said = escape("\n".join((*lines, "on the front of this plot") if place in front else lines))
        group = f'<g id="{name}-{point_id(place)}"'
        svg = svg.replace(
            f"{group}>",
            f'{group} class="point" role="img" aria-label="{said}" data-row="{escape(row)}"><title>{said}</title>',
            1,
        )
    return svg.replace('role="img"', 'role="group"', 1)  # what is in an image is not there for a screen reader
