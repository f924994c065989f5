"""The ladder in plots: what each level of a language model loses, and how fast it writes, against its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..judge.budget import Measurement
from ..runs.candidates import Candidate
from ..units import format_bytes
from . import phrases, plots
from .outcome import Outcome
from .rows import label

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Values = tuple[float, float, float]  # a number with its interval
Read = Callable[[Candidate, Measurement], Values | None]


@dataclass(frozen=True)
class Foretold:
    """A level's file, memory and speed as they were predicted from the model's shapes, and as they are."""

    name: str
    size: tuple[str, str]
    memory: tuple[str, str]
    speed: tuple[str, str]  # tokens per second: at most, and measured


def foretold(outcome: Outcome) -> Iterator[Foretold]:
    """The levels for which there is a prediction, the largest file first."""
    rows = [row for row in outcome.rows if row.measurement is not None and "predicted" in row.measurement.extra]
    for row in sorted(rows, key=lambda row: -row.measurement.size_bytes if row.measurement else 0):
        measurement = row.measurement
        assert measurement is not None
        told, written = measurement.extra["predicted"], measurement.latency_s
        rates = (told["decode_tokens_per_s"], 1 / written if written else None)
        at_most, measured = (phrases.MISSING if rate is None else f"{rate:,.0f}" for rate in rates)
        yield Foretold(
            label(row) or row.recipe,
            (f"{told['size_bytes']:,}", f"{measurement.size_bytes:,}"),
            (format_bytes(told["memory_bytes"]), phrases.memory(measurement)),
            (at_most, measured),
        )


def plots_of(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    """SVG texts with their captions; empty where nothing is known to draw."""
    rows = [row for row in outcome.rows if row.measurement is not None]
    factor, unit = next((u for u in UNITS if _middle_size(rows) >= u[0]), UNITS[-1])
    size, limit = f"size ({unit})", outcome.budget.max_drop if outcome.budget else None
    most = plots.Limits(
        quality=100 * limit.amount if limit is not None and limit.relative else None,
        quality_label="" if limit is None else f"loss at most {limit}",
        higher_is_better=False,
    )

    def drawn(name: str, read: Read, limits: plots.Limits, axis: str, log: str = "x") -> str:
        points = [_point(outcome, row, read, factor) for row in rows]
        known = [point for point in points if point is not None]
        return plots.trade_off(name, known, limits, size, axis, log=log) if known else ""

    return (
        (
            drawn("loss", _loss, most, "more bits per byte than the reference (%)"),
            "What each level costs: how many more bits it needs for the same text, judged passage by passage.",
        ),
        (
            drawn("kl", _divergence, plots.Limits(higher_is_better=False), "KL (nats a token)", log="xy"),
            "How far its predictions are from the reference's. It sees small differences that the text's bits hide.",
        ),
        (drawn("speed", _speed, plots.Limits(), "tokens written per second"), "Writing one token behind 128 others."),
    )


def _middle_size(rows: Sequence[Candidate]) -> float:
    sizes = sorted(row.measurement.size_bytes for row in rows if row.measurement)
    return sizes[len(sizes) // 2]


def _point(outcome: Outcome, row: Candidate, read: Read, factor: float) -> plots.Point | None:
    measurement = row.measurement
    values = None if measurement is None else read(row, measurement)
    if measurement is None or values is None:
        return None
    ships = outcome.best is not None and row.fingerprint == outcome.best.fingerprint
    first = row.fingerprint == outcome.reference.fingerprint
    name = label(row) or ("reference" if first else outcome.run.folder.name)
    return plots.Point(
        label=f"{name} ships" if ships else name,
        role="best" if ships else "reference" if first else "other",
        cost=measurement.size_bytes / factor,
        quality=values[0],
        quality_low=values[1],
        quality_high=values[2],
    )


def _loss(row: Candidate, _measurement: Measurement) -> Values | None:
    """In per cent of the reference's bits, above 0 where the level needs more."""
    verdict = row.verdict
    if verdict is None:
        return None
    return -100 * verdict.change, -100 * verdict.change_high, -100 * verdict.change_low


def _divergence(_row: Candidate, measurement: Measurement) -> Values | None:
    apart = measurement.extra.get("divergence")
    if apart is None or apart["kl_low"] <= 0:  # the reference itself, in another file
        return None
    return apart["kl"], apart["kl_low"], apart["kl_high"]


def _speed(_row: Candidate, measurement: Measurement) -> Values | None:
    if not measurement.latency_s or not measurement.latency_low_s or not measurement.latency_high_s:
        return None
    return 1 / measurement.latency_s, 1 / measurement.latency_high_s, 1 / measurement.latency_low_s
