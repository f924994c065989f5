"""Tables of benchmarks: written between markers, so that a page's numbers are a script's and nobody's hand's."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from microbudget.machine import processor as machine

ROOT = Path(__file__).parents[1]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def provenance(script: str) -> str:
    """Which script wrote it, when and where."""
    facts = machine.describe()
    return (
        f"Written by `benchmarks/{script}` on {datetime.date.today()}: {facts.get('cpu', platform.processor())},"
        f" {machine.cores()} cores, Python {platform.python_version()}."
    )


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Raises ValueError without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = path.read_text(encoding="utf-8")
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{path} has no markers {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
