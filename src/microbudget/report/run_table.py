"""Run table: the candidates of a run as a table of the terminal, and what ships, in about ten lines."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from ..judge.budget import Measurement
from ..judge.secondary import SECONDARY
from ..runs.candidates import Candidate
from ..units import format_bytes, format_change, format_seconds, format_times
from . import phrases, terminal
from .abridged import abridged
from .outcome import Outcome
from .part import opening_of, words_of
from .rows import name

MISSING = "-"
BUSY = "*"  # of a speed that was measured on a busy machine
WIDTH = 120  # characters of a line, where there is no terminal
# In a notebook rich would display what is printed as well, and take the text for a terminal's.
PLAIN: dict[str, Any] = {"width": WIDTH, "highlight": False, "force_jupyter": False, "force_terminal": False}


def text_of(outcome: Outcome) -> str:
    """The table as text, without colours."""
    stream = StringIO()
    print_outcome(outcome, Console(file=stream, no_color=True, **PLAIN))
    return stream.getvalue().rstrip()


def html_of(outcome: Outcome) -> str:
    """The table as HTML, for a notebook."""
    console = Console(file=StringIO(), record=True, **PLAIN)
    print_outcome(outcome, console)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The candidates of a run, the best one marked, and where to find it."""
    outcome = outcome.there
    measured = outcome.reference.measurement
    secondary = (measured.extra.get(SECONDARY) if measured else None) or {}
    other = (secondary["metric"],) if secondary else ()
    _print_rows(outcome, console, other)
    for note in filter(None, (phrases.timed_on(outcome.reference), _evidence(outcome))):
        console.print(note, soft_wrap=True, markup=False)
    for candidate in outcome.candidates:
        if candidate.measurement is None:
            what, _, reason = candidate.without_result.partition(": ")
            console.print(f"{what}: {candidate.short}: {reason}", markup=False, soft_wrap=True)
    if marked := [candidate for candidate in outcome.candidates if candidate.busy]:
        console.print(f"{BUSY} {phrases.busy(marked[0])}; give the command again when it is quiet", soft_wrap=True)
    if outcome.best is None:
        console.print("no candidate could be built and measured")
        return
    if opening := opening_of(outcome):
        console.print(opening, style="bold", markup=False, soft_wrap=True)
    console.print(f"best: {outcome.best.short}", soft_wrap=True, markup=False)
    if outcome.best.test and outcome.best.test_verdict:
        console.print(f"{about_test(outcome.best, outcome.test_readings)}: {outcome.best.test_verdict.reason}")
        if "change" in (secondary := outcome.best.test.extra.get(SECONDARY) or {}):
            called = _called(outcome.best.test.task, secondary)
            console.print(f"on {secondary['examples']} validation {called} {phrases.secondary_change(secondary)}")
    if outcome.best.slower_than_float:
        speedup = outcome.best.speed["over_float"]["speedup"]
        why = ", which breaks a limit" if outcome.budget and outcome.budget.limits_costs else ""
        console.print(f"note: it has {format_times(speedup)} times the speed of the same model in float{why}")
    for sentence in outcome.unmet:
        console.print(f"budget not met: {sentence}", style="bold red")
    console.print(
        f"model:  {outcome.run.folder / 'best'}\nreport: {outcome.run.folder / 'report.html'}", soft_wrap=True
    )


def _print_rows(outcome: Outcome, console: Console, other: tuple[str, ...]) -> None:
    """The table; on a terminal that is too narrow for the steps of recipes these stand below it, a line each.

    other: the name of the metric on secondary data, if there is one.
    """
    kl = ("KL",) if any(row.measurement is not None and row.measurement.kl is not None for row in outcome.rows) else ()
    rows = outcome.rows
    recipes = ["reference", *abridged([row.recipe for row in outcome.candidates])]
    words = max(len(word) for text in recipes for word in text.split(" > "))

    def table_of(*recipe: str) -> Table:
        table = terminal.table("#", *recipe, "size", "latency", "speed", "quality", "change", *kl, "verdict", *other)
        for place, row in enumerate(rows):
            ships = outcome.best is not None and row.fingerprint == outcome.best.fingerprint
            style = ("bold green" if not outcome.unmet else "bold red") if ships else None
            cells = _row(row)
            cells[-1:-1] = [_divergence(row)] if kl else []
            further = (_secondary_cell(row),) if other else ()
            table.add_row(name(place), *(recipes[place] for _ in recipe), *cells, *further, style=style)
        return table

    narrow = table_of()
    if console.width - console.measure(narrow).maximum - 2 >= words + 2:  # a step and the sign after it
        console.print(table_of("recipe"))
        return
    console.print(narrow)
    for place, text in enumerate(recipes[1:], start=1):
        console.print(f"{name(place):<3}  {text}", markup=False, soft_wrap=True)


def _divergence(row: Candidate) -> str:
    known = row.measurement is not None and row.measurement.kl is not None
    return phrases.kl(row.measurement) if row.measurement is not None and known else MISSING


def about_test(row: Candidate, readings: int) -> str:
    """What the test split says of a row."""
    if row.test is None:
        return "the test split was not read"
    found = f"{row.test.metric} {_quality(row.test)} on {row.test.examples} examples"
    if (verdict := row.test_verdict) is not None:
        found += f", {format_change(verdict.change, row.test.metric)} against the reference; {verdict.decision}"
    return f"test, {phrases.readings(readings)}: {found}"


def _secondary_cell(candidate: Candidate) -> str:
    """The quality on the other data, and its change from the reference."""
    found = candidate.measurement.extra.get(SECONDARY) if candidate.measurement else None
    if not found:
        return MISSING
    return f"{found['quality']:.4f}" + (
        f", {format_change(found['change'], found['metric'])}" if "change" in found else ""
    )


def _evidence(outcome: Outcome) -> str:
    """How many examples stand behind the verdicts."""
    known, measured = outcome.examples, outcome.reference.measurement
    if not known:
        return ""
    examples = (words_of(measured.task, measured.metric) if measured else words_of("")).examples
    use = {"nothing": "", "calibration": f", {known['train']:,} calibrate", "training": f", {known['train']:,} train"}
    read = 0 if measured is None else measured.examples  # by need: those that a decision took
    judged = f"{read:,} of {known['validation']:,}" if read < known["validation"] else f"{read:,}"
    return f"judged on {judged} {examples}, {known['test']:,} others test the best{use[known['use']]}"


def _row(candidate: Candidate) -> list[str]:
    if candidate.measurement is None:
        return [*[MISSING] * 5, candidate.without_result.partition(":")[0]]
    measurement, verdict = candidate.measurement, candidate.verdict
    speedup = candidate.speed.get("speedup")
    return [
        format_bytes(measurement.size_bytes),
        _latency(measurement),
        f"{format_times(speedup)}x{BUSY if candidate.busy else ''}" if speedup else MISSING,
        f"{measurement.quality:.4f}",
        format_change(verdict.change, measurement.metric) if verdict else MISSING,
        verdict.decision if verdict else MISSING,
    ]


def _latency(measurement: Measurement) -> str:
    return MISSING if measurement.latency_s is None else format_seconds(measurement.latency_s)


def _quality(measurement: Measurement) -> str:
    low, high = measurement.quality_low, measurement.quality_high
    return f"{measurement.quality:.4f} ({low:.3f}..{high:.3f})"


def _called(kind: str, secondary: dict[str, Any]) -> str:
    return words_of(kind, secondary["metric"]).examples
