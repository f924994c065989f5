"""Tables of benchmarks: written between markers, so that a page's numbers are a script's and nobody's hand's."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from microbudget.machine import processor as machine

ROOT = Path(__file__).parents[1]
RESULTS, PICTURES = ROOT / "docs" / "results", ROOT / "docs" / "pictures"


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
    """Replace the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Raises ValueError without them."""
    before, _, after = _split(path, name)
    path.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def between(path: Path, name: str) -> str:
    """The text between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Raises ValueError without them."""
    return _split(path, name)[1].strip("\n")


def _split(path: Path, name: str) -> tuple[str, str, str]:
    """A page up to and with the begin marker, the text between, and the rest from the end marker on."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, rest = path.read_text(encoding="utf-8").partition(begin)
    text, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{path} has no markers {begin} and {end}")
    return before + begin, text, end + after
