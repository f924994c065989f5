"""Charts: from a run to the plots of its page. Without matplotlib there are none, and the page says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..judge.budget import Measurement
from ..training.learning_curve import LearningCurve
from ..units import format_bytes, format_seconds
from . import phrases, plots
from .outcome import Outcome, Role
from .part import Part, words_of
from .pointing import about
from .rows import name
from .training import STEP, Training

BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
SECOND_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

Unit = tuple[float, str]


@dataclass(frozen=True)
class Charts:
    """SVG texts; an empty one was not drawn. `available` is False where matplotlib is not installed."""

    available: bool
    size: str = ""
    latency: str = ""
    loss: str = ""
    accuracy: str = ""
    growth: str = ""
    further: tuple[tuple[str, str], ...] = ()  # of other steps that trained: a plot and its caption


def charts(outcome: Outcome, part: Part, trained: Training | None, others: Sequence[Training] = ()) -> Charts:
    """All plots of a run; size and latency against quality where the kind has no plots in their place."""
    if not plots.available():
        return Charts(available=False)
    curve, usual = trained.learning_curve if trained else None, part.plots is None
    called = words_of(outcome.kind, outcome.metric)
    return Charts(
        available=True,
        size=_trade_off(outcome, "size", BYTE_UNITS) if usual else "",
        latency=_trade_off(outcome, "latency", SECOND_UNITS) if usual else "",
        loss=_epochs(trained, "loss", "loss (cross-entropy, nats)", 1.0) if trained else "",
        accuracy=_epochs(trained, "accuracy", "accuracy (%)", 100.0) if trained else "",
        growth=_growth(curve, trained.classes, called.examples) if curve and trained else "",
        further=_epoch_plots(others),
    )


def _costs(cost: str, measurement: Measurement) -> tuple[float | None, float | None, float | None]:
    """A cost and its interval's ends."""
    if cost == "size":
        return measurement.size_bytes, None, None
    return measurement.latency_s, measurement.latency_low_s, measurement.latency_high_s


def _trade_off(outcome: Outcome, cost: str, units: Sequence[Unit]) -> str:
    measured = [
        (place, one.measurement, _costs(cost, one.measurement))
        for place, one in enumerate(outcome.rows)
        if one.measurement is not None
    ]
    known = [entry for entry in measured if entry[2][0]]
    if not known:
        return ""
    typical = math.exp(sum(math.log(costs[0] or 1.0) for _, _, costs in known) / len(known))
    factor, unit = next((u for u in units if typical >= u[0]), units[-1])
    points = [_point(outcome, place, measurement, costs, factor) for place, measurement, costs in known]
    metric = known[0][1].metric
    suffix = " (%)" if _scale(metric) == 100 else ""
    return plots.trade_off(
        cost, points, _limits(outcome, cost, factor), f"{cost} ({unit})", f"{metric} on validation{suffix}"
    )


def _scale(metric: str) -> float:
    return 100.0 if metric.lower() in phrases.SHARES else 1.0


def _point(
    outcome: Outcome,
    place: int,
    measurement: Measurement,
    costs: tuple[float | None, float | None, float | None],
    factor: float,
) -> plots.Point:
    scale = _scale(measurement.metric)
    middle, low, high = costs
    role = outcome.role(outcome.rows[place])
    return plots.Point(
        label=("reference, ships" if not place else f"{place} ships") if role == "best" else _name(place),
        role=role,
        cost=(middle or 0.0) / factor,
        quality=measurement.quality * scale,
        quality_low=measurement.quality_low * scale,
        quality_high=measurement.quality_high * scale,
        cost_low=None if low is None else low / factor,
        cost_high=None if high is None else high / factor,
        row=name(place),
        about=about(outcome, place),
    )


def _name(place: int) -> str:
    return str(place) if place else "reference"


def _limits(outcome: Outcome, cost: str, factor: float) -> plots.Limits:
    """The budget's lines. The loss is judged in pairs on the same examples, so its line lies below the reference."""
    budget, reference = outcome.budget, outcome.reference.measurement
    if budget is None or reference is None:
        return plots.Limits()
    most, show = (budget.max_size_bytes, format_bytes) if cost == "size" else (budget.max_latency_s, format_seconds)
    least, higher = None, reference.metric.lower() not in phrases.LOWER_IS_BETTER
    if budget.max_drop is not None:
        loss = budget.max_drop.amount * (reference.quality if budget.max_drop.relative else 1.0)
        least = (reference.quality - loss if higher else reference.quality + loss) * _scale(reference.metric)
    return plots.Limits(
        cost=None if most is None else most / factor,
        quality=least,
        cost_label="" if most is None else f"at most {show(most)}",
        quality_label="" if budget.max_drop is None else f"loss at most {budget.max_drop}",
        higher_is_better=higher,
    )


def _epoch_plots(others: Sequence[Training]) -> tuple[tuple[str, str], ...]:
    """Loss and accuracy of each training over its epochs, with captions."""
    axes = (("loss", "loss", 1.0), ("accuracy", "accuracy (%)", 100.0))
    plots_of = (
        (_epochs(trained, what, axis, scale), f"{trained.step}: the {what} over the epochs.")
        for trained in others
        for what, axis, scale in axes
    )
    return tuple(plot for plot in plots_of if plot[0])


def _epochs(trained: Training, what: str, axis: str, scale: float) -> str:
    """Loss or accuracy of training and validation over the epochs, what there is of them."""
    lines: list[tuple[str, Role, Sequence[float]]] = [
        (label, role, [value * scale for value in trained.series(f"{split}_{what}")]) for label, role, split in _SPLITS
    ]
    drawn = [line for line in lines if line[2]]
    name = what if trained.step == STEP else f"{trained.step}-{what}"
    return plots.curves(name, drawn, axis, trained.kept) if drawn else ""


_SPLITS: tuple[tuple[str, Role, str], ...] = (
    ("training", "reference", "train"),
    ("validation", "best", "validation"),
)


def _growth(curve: LearningCurve, classes: int, examples: str) -> str:
    if len(curve.examples) < 2 or not classes:
        return ""
    more = curve.accuracy[-1] < 1  # nothing can be expected beyond 100 %
    estimate, low, high = (100 * (curve.accuracy[-1] + gain) for gain in (curve.gain, curve.gain_low, curve.gain_high))
    expected = (curve.examples[-1] + curve.more_per_class * classes, estimate, low, high)
    labels = (f"training {examples}", "accuracy (%)")
    return plots.growth(
        "growth", curve.examples, [100 * value for value in curve.accuracy], expected if more else None, labels
    )
