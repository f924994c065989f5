"""Weights: where the bytes of the shipped model are, its largest tensors as bars."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MicrobudgetError
from ..units import format_bytes
from .outcome import Outcome

MOST = 12
PARTS = {"zero_points": "zero points", "other_tensors": "other tensors", "graph": "graph and names", "files": "configs"}


@dataclass(frozen=True)
class Bar:
    """A part of the file with its share of the whole and its width relative to the largest bar."""

    name: str
    size: str
    share: float
    width: float
    detail: str = ""


@dataclass(frozen=True)
class Weights:
    """The parts of the file, and its largest tensors."""

    parts: tuple[Bar, ...]
    tensors: tuple[Bar, ...]
    more: int  # tensors that are not shown
    summary: str


def weights(outcome: Outcome) -> Weights | None:
    """From the ledger of RUN/best; None when nothing ships or its format has no ledger."""
    from ..judge.ledger import ledger
    from ..runtimes.loading import load

    if not outcome.run.best.is_dir():
        return None
    try:
        found = ledger(load(outcome.run.best))
    except (MicrobudgetError, OSError):
        return None
    total = found.size_bytes
    parts = [(PARTS.get(name, name), count) for name, count in found.parts().items() if count]
    parts.sort(key=lambda part: -part[1])
    largest = found.largest(MOST)
    return Weights(
        parts=tuple(_bar(name, count, total, parts[0][1]) for name, count in parts),
        tensors=tuple(
            _bar(
                row.name,
                row.bytes,
                total,
                largest[0].bytes,
                f"{' × '.join(map(str, row.shape)) or 'scalar'}, {row.type}, {row.effective_bits:.2f} bits each",
            )
            for row in largest
        ),
        more=len(found.rows) - len(largest),
        summary=_summary(found.parameters, found.bits_per_weight, total),
    )


def _summary(parameters: int, bits: float | None, total: int) -> str:
    each = f" of {bits:.2f} bits each, scales and zero points counted," if bits else ""
    return f"{parameters:,} parameters{each} in {format_bytes(total)}"


def _bar(name: str, count: int, total: int, largest: int, detail: str = "") -> Bar:
    return Bar(name, format_bytes(count), count / max(total, 1), count / max(largest, 1), detail)
