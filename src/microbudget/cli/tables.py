"""Tables for the terminal: what the verbs print without --json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..judge.secondary import SECONDARY
from ..kind import find_facet
from ..report import phrases, terminal
from ..report.outcome import read_outcome
from ..report.part import words_of
from ..report.run_table import about_test, print_outcome
from ..units import format_bytes, format_change, format_joules, format_seconds, format_times

if TYPE_CHECKING:
    from ..judge.budget import Measurement
    from ..judge.comparing import Comparison
    from ..search.delivery import Delivered
    from ..search.kit import Kit
    from ..search.result import Shrunk

MISSING = "-"
BUSY = "*"  # of a speed that was measured on a busy machine
LARGEST = 15  # tensors that a ledger shows
OUTSIDE = ("graph", "metadata", "vocabulary", "files")  # what is in no tensor


def _latency(measurement: Measurement) -> str:
    return MISSING if measurement.latency_s is None else format_seconds(measurement.latency_s)


def _memory(measurement: Measurement) -> str:
    return MISSING if measurement.memory_bytes is None else format_bytes(measurement.memory_bytes)


def _quality(measurement: Measurement) -> str:
    low, high = measurement.quality_low, measurement.quality_high
    return f"{measurement.quality:.4f} ({low:.3f}..{high:.3f})"


def print_measurement(measurement: Measurement) -> None:
    """A row for each field that was measured."""
    rows = [
        ("model", f"{measurement.model} ({measurement.format}, {measurement.runtime})"),
        ("examples", f"{measurement.examples}, {measurement.examples_left_out} left out"),
        (measurement.metric, _quality(measurement)),
        *_secondary_rows(measurement),
        ("size", f"{format_bytes(measurement.size_bytes)} ({measurement.size_bytes} bytes)"),
        ("latency", _interval(measurement)),
        *_timing_rows(measurement.extra),
        *_kind_rows(measurement),
        ("memory", _memory(measurement)),
        ("load", MISSING if measurement.load_s is None else format_seconds(measurement.load_s)),
    ]
    if measurement.energy_j is not None:
        rows.append(("energy", _energy(measurement)))
    if "floor" in measurement.extra:
        floor = measurement.extra["floor"]
        text = f"{format_seconds(floor['least_s'])} at least here, {floor['share']:.0%} of the latency"
        rows.append(("floor", f"{floor['multiply_adds_total'] / 1e6:,.1f} M multiply-adds: {text}"))
    if measurement.parameters:
        bits = f", {measurement.bits_per_weight:.2f} bits each" if measurement.bits_per_weight else ""
        rows.append(("parameters", f"{measurement.parameters:,}{bits}"))
    rows += [(key, f"{value:.4f}") for key, value in measurement.extra.items() if isinstance(value, float)]
    table = terminal.table("", "")
    table.columns[1].justify = "left"
    table.show_header = False
    for name, text in rows:
        table.add_row(name, text)
    console = terminal.console()
    console.print(table)
    if "ledger" in measurement.extra:
        console.print(_ledger(measurement.extra["ledger"]))
        console.print(_rest(measurement.extra["ledger"]))


def _secondary_rows(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """The quality on other data of the same task, such as questions with a text."""
    found = measurement.extra.get(SECONDARY)
    if found is not None:
        yield found["metric"], f"{phrases.secondary(found)}, on {found['examples']} {_called(measurement.task, found)}"


def _called(kind: str, secondary: dict[str, Any]) -> str:
    return words_of(kind, secondary["metric"]).examples


def _timing_rows(extra: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Slow calls, throughput, batches beyond 1, and reasons to distrust a number: dropped blocks, a busy machine."""
    timing = extra.get("timing", {})
    if timing:
        yield "slowest tenth", f"{format_seconds(timing['p90_s'])} or more"
        yield "throughput", f"{timing['throughput_per_s']:.4g}/s"
    for batch in extra.get("batches", ()):
        per_s = f"{batch['throughput_per_s']:.4g}/s"
        yield f"batch of {batch['batch']}", f"{format_seconds(batch['median_s'])} a batch, {per_s}"
    if timing.get("dropped"):
        text = ", ".join(f"{count} ({reason})" for reason, count in timing["dropped"].items())
        yield "blocks dropped", text
    if timing.get("busy"):
        yield "machine", f"busy: {timing['busy']}"
    if timing.get("load_average") is not None:
        yield "machine's load", f"{timing['load_average']:.1f}"


def _kind_rows(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """The rows of the kind's own."""
    own = find_facet(measurement.task, "terminal")
    if own is not None:
        yield from own.rows(measurement)


def _energy(measurement: Measurement) -> str:
    """The number with its origin; an estimate with its range."""
    assert measurement.energy_j is not None
    text = f"{format_joules(measurement.energy_j)} ({measurement.energy_source}"
    details = measurement.extra.get("energy", {})
    if measurement.energy_source == "estimate" and details:
        text += f", {format_joules(details['low_j'])} to {format_joules(details['high_j'])}"
    return text + ")"


def _interval(measurement: Measurement) -> str:
    if measurement.latency_s is None or measurement.latency_low_s is None or measurement.latency_high_s is None:
        return MISSING
    low, high = format_seconds(measurement.latency_low_s), format_seconds(measurement.latency_high_s)
    return f"{format_seconds(measurement.latency_s)} ({low}..{high}), threads {measurement.threads}"


def _ledger(ledger: dict[str, Any]) -> Table:
    rows = ledger["rows"][:LARGEST]
    padding = ("padding",) if any(row["padding_bytes"] for row in rows) else ()
    table = terminal.table("where the bytes are", "shape", "type", "values", "scales", *padding, "bits", "with all")
    for row in rows:
        table.add_row(
            row["name"],
            "x".join(map(str, row["shape"])),
            row["type"],
            format_bytes(row["value_bytes"]),
            format_bytes(row["scale_bytes"] + row["zero_point_bytes"]),
            *(format_bytes(row["padding_bytes"]) for _ in padding),
            str(row["bits"]),
            f"{row['effective_bits']:.2f}" if row.get("effective_bits") else MISSING,
        )
    return table


def _rest(ledger: dict[str, Any]) -> str:
    """What the rows leave out: the other tensors, and what is in no tensor."""
    rest = ledger["rows"][LARGEST:]
    text = [f"{len(rest)} smaller tensors {format_bytes(sum(row['bytes'] for row in rest))}"] if rest else []
    text += [f"{name} {format_bytes(ledger['parts'][name])}" for name in OUTSIDE if ledger["parts"][name]]
    return f"and {', '.join(text)}; together {ledger['size_bytes']} bytes"


def _tokens(divergence: dict[str, Any]) -> str:
    """The divergence of the second model's predictions from the first's."""
    low, high = divergence["kl_low"], divergence["kl_high"]
    return (
        f"KL {divergence['kl']:.5f} nats a token ({low:.5f}..{high:.5f}); the same first choice for"
        f" {100 * divergence['same_top1']:.2f} % of {divergence['tokens']} tokens"
    )


def distinct_names(*names: str) -> tuple[str, ...]:
    """The models' names, of paths the last parts that distinguish them; numbered where all are the same."""
    parts = [Path(name).parts for name in names]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(each[-count:]) for each in parts]
        if len(set(short)) == len(short):
            return tuple(short)
    return tuple(
        f"{'/'.join(each[-1:]) or name} ({place})"
        for place, (each, name) in enumerate(zip(parts, names, strict=True), 1)
    )


def print_comparison(comparison: Comparison) -> None:
    """The ratios of two models with their intervals, in words."""
    row = comparison.as_dict()
    first, second = map(escape, distinct_names(comparison.a.model, comparison.b.model))
    table = terminal.table("", first, second)
    for name, show in (("size", lambda m: format_bytes(m.size_bytes)), ("latency", _latency), ("quality", _quality)):
        table.add_row(name, show(comparison.a), show(comparison.b))
    console = terminal.console()
    console.print(table)
    low, high = row["speedup_low"], row["speedup_high"]
    size_change = phrases.size_change(comparison.a.size_bytes, comparison.b.size_bytes)
    console.print(
        f"{second} is {size_change}; speed: {row['speed_verdict']}, {format_times(row['speedup'])} times as fast"
        f" ({format_times(low)}..{format_times(high)})"
    )
    timing = comparison.extra["timing"]
    threads = " and ".join(dict.fromkeys(str(m.threads) for m in (comparison.a, comparison.b)))
    load = "" if timing["load_average"] is None else f", machine's load {timing['load_average']:.1f}"
    console.print(
        f"timed in {timing['pairs']} pairs of blocks, {timing['openings']} opening(s), threads {threads}{load}"
    )
    metric = comparison.a.metric
    change, low, high = (format_change(row[f"quality_change{end}"], metric) for end in ("", "_low", "_high"))
    if timing.get("busy"):
        console.print(f"timed on a busy machine: {timing['busy']}; its speed is that of now")
    if timing["dropped"]:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in timing["dropped"].items())
        console.print(f"pairs of blocks dropped: {reasons}")
    of_what = f" of the bits that {first} needs" if metric == "bits per byte" else ""
    console.print(f"quality changes by {change} ({low}..{high}){of_what}")
    if "tokens" in comparison.extra:
        console.print(_tokens(comparison.extra["tokens"]))
    if SECONDARY in comparison.extra:
        secondary = comparison.extra[SECONDARY]
        console.print(
            f"on {secondary['examples']} {_called(comparison.a.task, secondary)} {phrases.secondary_change(secondary)}"
        )
    if row["verdict"]:
        console.print(f"verdict: {row['verdict']}: {comparison.extra['verdict']['reason']}")


def print_run(shrunk: Shrunk) -> None:
    """The candidates of a run, the best one marked, and where to find it."""
    print_outcome(read_outcome(shrunk.folder), terminal.console())


def print_delivered(delivered: Delivered) -> None:
    """What was put into the folder, and what the test says of it."""
    console, row = terminal.console(), delivered.row
    console.print(f"{row.recipe or 'the model as given'}", markup=False, soft_wrap=True)
    console.print(about_test(row, delivered.readings))
    for sentence in delivered.unmet:
        console.print(f"the run's budget is not met: {sentence}", style="bold red", markup=False)
    console.print(f"model:  {delivered.folder}", soft_wrap=True, markup=False)


def print_kit(kit: Kit) -> None:
    """Where it is, what it holds, and what to do with it."""
    console = terminal.console()
    console.print(f"rows {', '.join(kit.rows)}, in turns with {kit.base}: {kit.base_is}", soft_wrap=True)
    for called, reason in kit.left_out.items():
        console.print(f"left out: {called}: {reason}", markup=False, soft_wrap=True)
    console.print(f"kit: {kit.folder}", soft_wrap=True, markup=False)
    console.print(
        f"copy it to the other machine and run python {kit.script} there; what it writes is for --timings",
        soft_wrap=True,
    )


def print_methods(rows: list[dict[str, Any]]) -> None:
    """A line for every method; they fit a screen."""
    console, table = terminal.console(), terminal.table("method", "what it does")
    for row in rows:
        table.add_row(row["name"], row["purpose"])
    console.print(table)
    console.print("microbudget methods NAME shows the options of one", markup=False)


def print_method(row: dict[str, Any]) -> None:
    """A method with its options, their defaults, what is allowed and what they mean."""
    console = terminal.console()
    console.print(f"[bold]{row['name']}[/bold]  {row['purpose']}  [dim]{_formats(row)}[/dim]")
    if not row["options"]:
        console.print("it has no options")
        return
    table = terminal.table("option", "default", "meaning")
    for spec in row["options"]:
        choices = f"; one of {', '.join(map(repr, spec['choices']))}" if spec["choices"] else ""
        table.add_row(spec["name"], repr(spec["default"]), Text(f"{spec['doc']}{choices}"))
    console.print(table)


def _formats(row: dict[str, Any]) -> str:
    return ", ".join(f"{taken} -> {made}" for taken, made in row["formats"].items())
