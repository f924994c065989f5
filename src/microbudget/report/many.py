"""Many: the runs in a folder on one page, with what each chose and how the choices change over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from ..errors import BadInput, MicrobudgetError
from ..judge.budget import Measurement
from ..machine import files
from . import phrases
from .headline import limits_text
from .outcome import Outcome, read_outcome
from .page import document
from .rows import finite

PAGE, TEMPLATE = "index.html", "many.html.jinja"
DEEPEST = 4  # folders between the one that is given and a run
# What a damaged file of a run can raise where its values are used.
UNREADABLE = (MicrobudgetError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
WIDTH, HEIGHT, MARGIN = 240.0, 56.0, 8.0  # of a drawing, in its own units


@dataclass(frozen=True)
class Entry:
    """A run in the list. problem: why nothing, or not everything, can be said of it."""

    name: str  # its folder, as seen from the page
    link: str = ""  # to its report, where there is one
    model: str = ""
    data: str = ""
    when: str = ""
    moment: float = 0.0  # seconds since the epoch
    size: str = ""
    latency: str = ""
    quality: str = ""
    verdict: str = ""
    recipe: str = ""
    limits: str = ""
    state: str = ""  # "met", "broken", "none" or "open"
    tried: int = 0
    problem: str = ""
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Dot:
    """A run in a drawing."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Trend:
    """One number of the choices over time: the first and the last value, and the drawing."""

    name: str
    first: str
    last: str
    dots: tuple[Dot, ...]

    @property
    def line(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


@dataclass(frozen=True)
class Group:
    """The runs of one model and one data set, the newest first."""

    model: str
    data: str
    entries: tuple[Entry, ...]
    trends: tuple[Trend, ...]


def write_many(folder: Path) -> Path:
    """Write FOLDER/index.html over the runs in a folder; their own reports are not touched.

    Runs that have not ended, or cannot be read, are listed with the reason. Raises BadInput for a folder without runs.
    """
    found = [entry(run, folder) for run in runs_in(folder)]
    if not found:
        raise BadInput(f"{folder} is no run and holds none: give the folder that was --out of shrink, or one above it")
    page = folder / PAGE
    facts = {"title": folder.resolve().name, "count": len(found), "groups": groups(found), "lost": lost(found)}
    text = document(TEMPLATE, {**facts, "sizes": {"width": WIDTH, "height": HEIGHT}})
    files.write_bytes(page, text.encode("utf-8", "backslashreplace"))
    return page


def runs_in(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The runs in a folder and in the folders in it, by name. Not what is in a run, and no link is followed."""
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
    except OSError:  # may not be read, or is gone
        return
    for each in inside:
        if (each / "run.toml").is_file():
            yield each
        elif depth:
            yield from runs_in(each, depth - 1)


def entry(run: Path, above: Path) -> Entry:
    """What the list says of a run, whatever state it is in."""
    name = run.relative_to(above).as_posix()
    try:
        return _entry(read_outcome(run), name)
    except UNREADABLE as error:
        said = str(error) if isinstance(error, MicrobudgetError) else f"cannot be read: {type(error).__name__}: {error}"
        return Entry(name, _link(run, name), problem=said)


def _link(run: Path, name: str) -> str:
    report = run / "report.html"
    return quote(f"{name}/{report.name}".encode("utf-8", "surrogateescape")) if report.is_file() else ""


def _entry(outcome: Outcome, name: str) -> Entry:
    outcome = outcome.there
    run, best = outcome.run, outcome.best or outcome.reference
    moment = (run.result if outcome.ended else run.rows).stat().st_mtime
    measured = best.test or best.measurement
    verdict = best.test_verdict or best.verdict
    limits = "" if outcome.budget is None else limits_text(outcome.budget)
    return Entry(
        name=name,
        link=_link(run.folder, name),
        model=str(outcome.settings.get("model", "")),
        data=str(outcome.settings.get("data", "")),
        when=datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M"),
        moment=moment,
        size="" if measured is None else phrases.size(measured),
        latency="" if measured is None else phrases.latency(measured),
        quality="" if measured is None else f"{measured.metric} {phrases.quality(measured)}",
        verdict="" if verdict is None else phrases.change(verdict),
        recipe="the reference" if outcome.is_reference(best) else best.short,
        limits=limits or "no limits",
        state=_state(outcome, limits),
        tried=len(outcome.candidates),
        problem=_problem(outcome),
        measurement=measured,
    )


def _state(outcome: Outcome, limits: str) -> str:
    if not outcome.ended:
        return "open"
    if outcome.best is None or outcome.unmet:
        return "broken"
    return "met" if limits else "none"


def _problem(outcome: Outcome) -> str:
    if not outcome.ended:
        return "has not ended (it is running, or was killed): the best so far"
    if outcome.best is None:
        return "nothing ships: no candidate could be built and measured"
    return "was stopped before all recipes were tried" if outcome.interrupted else ""


def lost(found: Sequence[Entry]) -> tuple[Entry, ...]:
    """The runs of which nothing can be said."""
    return tuple(each for each in found if each.measurement is None)


def groups(found: Sequence[Entry]) -> tuple[Group, ...]:
    """By model and data, the group with the newest run first."""
    by_name: dict[tuple[str, str], list[Entry]] = {}
    for each in sorted(found, key=lambda each: (each.moment, each.name)):
        if each.measurement is not None:
            by_name.setdefault((each.model, each.data), []).append(each)
    made = [Group(*name, tuple(reversed(entries)), trends(entries)) for name, entries in by_name.items()]
    return tuple(sorted(made, key=lambda group: -group.entries[0].moment))


def trends(entries: Sequence[Entry]) -> tuple[Trend, ...]:
    """Quality, size and latency of the choices, oldest first; none of a single run, or where metrics differ."""
    measured = [(each, each.measurement) for each in entries if each.measurement is not None]
    metrics = {measurement.metric for _, measurement in measured}
    reads: list[tuple[str, Callable[[Measurement], float | None], Callable[[Measurement], str]]] = [
        ("size", lambda m: m.size_bytes, phrases.size),
        ("latency", lambda m: m.latency_s, phrases.latency),
    ]
    if len(metrics) == 1:
        reads.insert(0, (metrics.pop(), lambda m: m.quality, phrases.quality))
    drawn = []
    for name, read, show in reads:
        known = [(each, m, value) for each, m in measured if (value := finite(read(m))) is not None]
        if len(known) > 1:
            drawn.append(_trend(name, [(f"{each.name}, {each.when}: {show(m)}", show(m), v) for each, m, v in known]))
    return tuple(drawn)


def _trend(name: str, points: Sequence[tuple[str, str, float]]) -> Trend:
    """One dot a run, at even distances: their order matters, not the days between them."""
    values = [value for _, _, value in points]
    low, span = min(values), max(values) - min(values)
    across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    dots = [
        Dot(MARGIN + across * place / (len(points) - 1), MARGIN + up * (1 - ((v - low) / span if span else 0.5)), title)
        for place, (title, _, v) in enumerate(points)
    ]
    return Trend(name, points[0][1], points[-1][1], tuple(dots))
