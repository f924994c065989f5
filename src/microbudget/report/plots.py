"""Plots as SVG text that sits in the page: its colours are the page's own, so they follow light and dark.

matplotlib is imported here alone, and only when something is drawn.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

from .outcome import Role
from .pointing import point_id, pointed

# matplotlib takes real colours only: each represents a colour of page.css and is replaced in the finished SVG.
INK, FAINT = "#010101", "#010102"
ROLE_COLORS: dict[Role, str] = {"reference": "#010103", "best": "#010104", "other": "#010105"}
LIMIT, REGION = "#010106", "#010107"
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    ROLE_COLORS["reference"]: "--reference",
    ROLE_COLORS["best"]: "--best",
    ROLE_COLORS["other"]: "--other",
    LIMIT: "--limit",
    REGION: "--region",
}
MARKERS: dict[Role, str] = {"reference": "s", "best": "D", "other": "o"}
FIRST: dict[Role, int] = {"best": 0, "reference": 1, "other": 2}
LARGE, SMALL = (5.4, 3.9), (4.2, 3.0)  # inches: two or three in a row fill a page
SPREAD_POINTS = 5.5  # between symbols that would cover each other
LOG_FROM = 30  # ratio of the largest to the smallest cost from which the axis is logarithmic
# Where a label may go, in points from its symbol, the best place first.
PLACES = [(8, 5), (8, -11), (-8, 5), (-8, -11), (0, 10), (0, -17), (14, 14), (14, -20), (-14, 14), (-14, -20)]
PLACES += [(26, 3), (-26, 3), (30, 22), (30, -28), (-30, 22), (-30, -28), (44, 12), (44, -18), (-44, 12), (-44, -18)]

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Point:
    """One candidate in a plot of a cost against quality; costs in the axis' unit, quality as shown on its axis."""

    label: str
    role: Role
    cost: float
    quality: float
    quality_low: float
    quality_high: float
    cost_low: float | None = None
    cost_high: float | None = None
    row: str = ""  # its name in the table
    about: tuple[str, ...] = ()  # what is said where it is pointed at, in lines


@dataclass(frozen=True)
class Limits:
    """The budget in a plot: the most that may be spent and the least quality that will do."""

    cost: float | None = None
    quality: float | None = None
    cost_label: str = ""
    quality_label: str = ""
    higher_is_better: bool = True


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def trade_off(
    name: str, points: Sequence[Point], limits: Limits, cost_axis: str, quality_axis: str, *, log: str = ""
) -> str:
    """Cost against quality with 95 % bars, the budget's lines and region, and the Pareto front joined.

    log: "x", "y" or "xy", the axes that are logarithmic whatever they span; values there are above 0.
    """
    with _figure(name) as (figure, axes, finish):
        axes.set_xlabel(cost_axis)
        axes.set_ylabel(quality_axis)
        _set_limits(axes, points, limits)
        if "x" in log:
            _set_log(axes.xaxis, [point.cost for point in points])
        if "y" in log:
            _set_log(axes.yaxis, [quality for point in points for quality in (point.quality_low, point.quality_high)])
        _draw_budget(axes, limits)
        _draw_front(axes, points, limits.higher_is_better)
        shifts = _shifts(axes, points)
        for place, (point, shift) in enumerate(zip(points, shifts, strict=True)):
            _draw_point(figure, axes, point, shift, point_id(place))
        _draw_labels(figure, axes, points, shifts)
        best = front(points, limits.higher_is_better)
        on_front = [place for place, point in enumerate(points) if any(point is one for one in best)]
        return pointed(finish(), name, [(point.row, point.about) for point in points], on_front)


def curves(name: str, lines: Sequence[tuple[str, Role, Sequence[float]]], axis: str, stop: int | None = None) -> str:
    """One line per quantity over the epochs, named at its end. stop: the epoch that was kept."""
    with _figure(name, SMALL) as (_, axes, finish):
        axes.set_xlabel("epoch")
        axes.set_ylabel(axis)
        for label, role, values in lines:
            style = "--" if role == "reference" else "-"
            axes.plot(range(1, len(values) + 1), values, style, color=ROLE_COLORS[role], label=label, linewidth=1.8)
        if stop is not None:
            axes.axvline(stop, color=LIMIT, linewidth=1, linestyle=":", label=f"kept: epoch {stop}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=True)
        axes.legend(frameon=False, fontsize=9)
        return finish()


def growth(
    name: str,
    examples: Sequence[int],
    accuracy: Sequence[float],
    more: tuple[int, float, float, float] | None,
    axes_labels: tuple[str, str],
) -> str:
    """The learning curve in per cent, and beyond it what more examples would give: (examples, estimate, low, high)."""
    with _figure(name, SMALL) as (_, axes, finish):
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])
        axes.plot(examples, accuracy, "o-", color=ROLE_COLORS["other"], linewidth=1.8, label="measured")
        if more is not None:
            at, estimate, low, high = more
            axes.plot([examples[-1], at], [accuracy[-1], estimate], ":", color=ROLE_COLORS["best"])
            bars = [[max(0.0, estimate - low)], [max(0.0, high - estimate)]]
            axes.errorbar([at], [estimate], bars, fmt="D", color=ROLE_COLORS["best"], capsize=4, label="expected, 95 %")
        axes.set_ylim(top=min(axes.get_ylim()[1], 100.5))  # half a symbol above what there can be
        axes.grid(visible=True)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        return finish()


@contextmanager
def _figure(name: str, inches: tuple[float, float] = LARGE) -> Iterator[tuple[Any, Any, Callable[[], str]]]:
    """A figure, its axes, and what turns them into SVG. Raises ImportError without matplotlib."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)

        def finish() -> str:
            stream = StringIO()
            figure.savefig(stream, format="svg", transparent=True)
            return _inline(stream.getvalue(), name)

        yield figure, figure.add_subplot(), finish


def _inline(svg: str, name: str) -> str:
    """SVG for the inside of an HTML page: no headers or addresses, ids of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg role="img"', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg


def _set_limits(axes: Any, points: Sequence[Point], limits: Limits) -> None:
    """Room for all points, bars and limit lines; sizes and times start at zero unless they span orders of magnitude."""
    costs = [cost for point in points for cost in (point.cost, point.cost_low, point.cost_high) if cost is not None]
    largest, least = max(costs), min(cost for cost in costs if cost > 0)
    if limits.cost is not None and limits.cost < 2 * largest:
        largest = max(largest, limits.cost)
    if largest / least >= LOG_FROM:
        _set_log(axes.xaxis, [least, largest])
    else:
        axes.set_xlim(0, largest * 1.12)
    qualities = [quality for point in points for quality in (point.quality_low, point.quality_high)]
    if limits.quality is not None:
        qualities.append(limits.quality)
    margin = max(0.08 * (max(qualities) - min(qualities)), 1e-3 * abs(max(qualities)), 1e-9)
    axes.set_ylim(min(qualities) - margin, max(qualities) + margin)
    axes.grid(visible=True)


def _set_log(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with room around the values; its usual powers of ten are typeset, and these are text."""
    from matplotlib.ticker import LogLocator

    positive = [value for value in values if value > 0]
    narrow = max(positive) < LOG_FROM * min(positive)
    {"x": axis.axes.set_xscale, "y": axis.axes.set_yscale}[axis.axis_name]("log")
    axis.set_view_interval(min(positive) / 1.4, max(positive) * 1.4, ignore=True)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def _draw_budget(axes: Any, limits: Limits) -> None:
    if limits.cost is None and limits.quality is None:
        return
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    end = right if limits.cost is None else min(limits.cost, right)
    edge = limits.quality if limits.quality is not None else bottom if limits.higher_is_better else top
    best = top if limits.higher_is_better else bottom
    axes.fill_between([left, end], edge, best, color=REGION, alpha=0.13, linewidth=0)
    line: dict[str, Any] = {"color": LIMIT, "linewidth": 1.2, "linestyle": "--"}
    text: dict[str, Any] = {"color": LIMIT, "fontsize": 8, "textcoords": "offset points", "annotation_clip": False}
    if limits.cost is not None and limits.cost <= right:
        axes.axvline(limits.cost, **line)
        axes.annotate(limits.cost_label, (limits.cost, bottom), xytext=(3, 4), **text)
    if limits.quality is not None:
        axes.axhline(limits.quality, **line)
        across = axes.get_yaxis_transform()  # x in shares of the axis, whatever its scale
        axes.annotate(limits.quality_label, (0.62, limits.quality), xycoords=across, xytext=(0, -10), **text)


def _draw_front(axes: Any, points: Sequence[Point], higher_is_better: bool) -> None:
    """Steps: what can be had for a cost is what the last cheaper point has."""
    chosen = front(points, higher_is_better)
    style = {"color": ROLE_COLORS["other"], "alpha": 0.55, "linewidth": 1.4, "drawstyle": "steps-post", "zorder": 1.5}
    ends = [*(point.cost for point in chosen), axes.get_xlim()[1]]
    axes.plot(ends, [*(point.quality for point in chosen), chosen[-1].quality], **style)


def front(points: Sequence[Point], higher_is_better: bool = True) -> list[Point]:
    """The points that no other beats in this plot's cost and quality at once, cheapest first."""
    sign = 1 if higher_is_better else -1
    chosen: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.quality)):
        if not chosen or sign * point.quality > sign * chosen[-1].quality:
            chosen.append(point)
    return chosen


def _shifts(axes: Any, points: Sequence[Point]) -> list[float]:
    """How far to move each symbol sideways, in points, so that those of one cost are drawn side by side.

    What ships, or else the reference, stays where it is.
    """
    spots = [axes.transData.transform((point.cost, point.quality))[0] * 72 / axes.figure.dpi for point in points]
    order = sorted(range(len(points)), key=lambda row: (spots[row], points[row].cost))
    clusters: list[list[int]] = []
    for row in order:
        if clusters and spots[row] - spots[clusters[-1][0]] < SPREAD_POINTS:
            clusters[-1].append(row)
        else:
            clusters.append([row])
    shifts = [0.0] * len(points)
    for cluster in clusters:
        fixed = min(range(len(cluster)), key=lambda place: FIRST[points[cluster[place]].role])
        for place, row in enumerate(cluster):
            shifts[row] = (place - fixed) * SPREAD_POINTS
    return shifts


def _draw_point(figure: Any, axes: Any, point: Point, shift: float, gid: str) -> None:
    from matplotlib.transforms import ScaledTranslation

    place = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
    color = ROLE_COLORS[point.role]
    thin = {"color": color, "alpha": 0.6, "linewidth": 1.1, "transform": place}
    axes.plot([point.cost] * 2, [point.quality_low, point.quality_high], **thin)
    if point.cost_low is not None and point.cost_high is not None:
        axes.plot([point.cost_low, point.cost_high], [point.quality] * 2, **thin)
    size = 5.5 if point.role == "other" else 7.5
    marker = MARKERS[point.role]
    axes.plot([point.cost], [point.quality], marker, color=color, markersize=size, transform=place, zorder=3, gid=gid)


def _draw_labels(figure: Any, axes: Any, points: Sequence[Point], shifts: Sequence[float]) -> None:
    """Labels where they cover neither each other nor a symbol; what ships and the reference choose first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    FigureCanvasAgg(figure).draw()  # lays the axes out: positions are known only then
    taken = [label.get_window_extent() for label in axes.texts]
    for point, shift in zip(points, shifts, strict=True):
        (x, low), (_, y), (_, high) = axes.transData.transform(
            [(point.cost, q) for q in (point.quality_low, point.quality, point.quality_high)]
        )
        x += shift * figure.dpi / 72
        taken += [Bbox.from_bounds(x - 6, y - 6, 12, 12), Bbox.from_bounds(x - 1, low, 2, high - low)]
    for row in sorted(range(len(points)), key=lambda row: FIRST[points[row].role]):
        taken.append(place_label(axes, points[row], shifts[row], taken))


def place_label(axes: Any, point: Point, shift: float, taken: Sequence[Any]) -> Any:
    """Draw the label at the first free place, else where it covers the least; returns its box in pixels."""
    weight = "normal" if point.role == "other" else "bold"
    label = axes.annotate(
        point.label,
        (point.cost, point.quality),
        xytext=PLACES[0],
        textcoords="offset points",
        color=ROLE_COLORS[point.role],
        fontsize=9,
        fontweight=weight,
        zorder=4,
    )
    label.set_in_layout(False)  # else the axes would make room for it, and move
    inside = axes.get_window_extent()

    def cost(place: tuple[int, int]) -> float:
        box = _box(label, place, shift)
        covered = sum(_overlap(box, other) for other in taken)
        return covered + float(box.width * box.height) - _overlap(box, inside)

    best = min(PLACES, key=cost)  # the first of equals
    return _box(label, best, shift)


def _box(label: Any, place: tuple[int, int], shift: float) -> Any:
    x, y = place
    label.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    label.set_position((x + shift, y))
    return label.get_window_extent()


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(0.0, width) * max(0.0, height))
