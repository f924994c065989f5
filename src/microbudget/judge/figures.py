"""Figures of results, for notebooks and scripts: estimates with their intervals, and costs against quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, ROW, MARGIN = 6.4, 0.45, 1.0  # inches
INK, BEST, OTHER, LIMIT = "#333333", "#0b6e4f", "#5b7db1", "#b3261e"


@dataclass(frozen=True)
class Estimate:
    """A named value with its 95 % interval, in the axis' unit."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Spot:
    """A model by a cost and its quality, in the axes' units."""

    name: str
    cost: float
    quality: Estimate


def empty(width: float = WIDTH, height: float = 4.0) -> Figure:
    """A figure that a notebook shows as a picture. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot() needs matplotlib: pip install 'microbudget[train]'") from error

    class Shown(Figure):
        """IPython shows it, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            stream = BytesIO()
            self.savefig(stream, format="png", dpi=100)
            return stream.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def intervals(panels: Sequence[tuple[str, Sequence[Estimate], float | None]]) -> Figure:
    """One panel below the other: the axis' title, estimates with bars, and where a line marks a limit or no change."""
    figure = empty(WIDTH, MARGIN * len(panels) + ROW * sum(len(rows) for _, rows, _ in panels))
    shares = [MARGIN + ROW * len(rows) for _, rows, _ in panels]
    for axes, (title, rows, line) in zip(
        figure.subplots(len(panels), 1, squeeze=False, height_ratios=shares)[:, 0], panels, strict=True
    ):
        for place, row in enumerate(rows):
            _bar(axes, row, place)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(title)
        if line is not None:
            axes.axvline(line, color=LIMIT, linewidth=1, linestyle=":")
        _plain(axes)
    return figure


def trade_offs(panels: Sequence[tuple[str, Sequence[Spot], float | None]], quality: str) -> Figure:
    """Beside each other: a cost against the quality of every model, and the limit on the cost."""
    figure = empty(WIDTH * len(panels) * 0.8, 4.2)
    for axes, (title, spots, limit) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        for spot in spots:
            color = BEST if spot.quality.best else OTHER
            axes.errorbar(
                spot.cost, spot.quality.value, yerr=_reach(spot.quality), fmt="D" if spot.quality.best else "o",
                color=color, capsize=3, linewidth=1,
            )  # fmt: skip
            axes.annotate(
                spot.name, (spot.cost, spot.quality.value), (5, 5), textcoords="offset points", fontsize=8, color=color
            )
        axes.set_xlim(0, 1.15 * max(spot.cost for spot in spots))
        axes.set_xlabel(title)
        if limit is not None:
            axes.axvline(limit, color=LIMIT, linewidth=1, linestyle=":")
        _plain(axes)
    figure.axes[0].set_ylabel(quality)
    return figure


def _bar(axes: Any, row: Estimate, place: int) -> None:
    axes.errorbar(row.value, place, xerr=_reach(row), fmt="o", color=BEST if row.best else INK, capsize=4)


def _reach(row: Estimate) -> list[list[float]] | None:
    """How far the interval reaches to both sides, as matplotlib takes it."""
    if row.low is None or row.high is None:
        return None
    return [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]


def _plain(axes: Any) -> None:
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
