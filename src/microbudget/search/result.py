"""The result of a run: the reference, the candidates, the best of them, and whether the budget is met."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..judge.budget import Budget
from ..judge.figures import Estimate, Spot, trade_offs
from ..judge.tabular import Tabular
from ..report.outcome import read_outcome
from ..report.phrases import SHARES
from ..report.run_table import html_of, text_of
from ..runs.candidates import Candidate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Shrunk(Tabular):
    """What a run ends with. `unmet` says which limits the best candidate breaks; empty: the budget is met.

    examples: what the recipes learn from the data, the examples of each split, and what the best was chosen by.
    """

    folder: Path
    reference: Candidate
    candidates: list[Candidate]
    best: Candidate | None
    budget: Budget
    unmet: list[str] = field(default_factory=list)
    interrupted: bool = False
    examples: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Every row knows where its model is: that of the choice is in `best`."""
        object.__setattr__(self, "reference", _placed(self.reference, self.folder))
        object.__setattr__(self, "candidates", [_placed(each, self.folder) for each in self.candidates])
        if self.best is not None:
            object.__setattr__(self, "best", replace(self.best, folder=self.folder / "best"))

    @property
    def met(self) -> bool:
        """Whether the best candidate holds all limits."""
        return self.best is not None and not self.unmet

    def __str__(self) -> str:
        """The lines of the terminal: the candidates, and what ships."""
        return text_of(read_outcome(self.folder))

    @property
    def numbered(self) -> tuple[Candidate, ...]:
        """The reference, which is row 0, and the others by their numbers in the report."""
        return (self.reference, *(row for row in self.candidates if row.fingerprint != self.reference.fingerprint))

    def __repr__(self) -> str:
        """As `str`: a prompt of Python shows it so."""
        return str(self)

    def _repr_html_(self) -> str:
        """As `str`, in a notebook."""
        return html_of(read_outcome(self.folder))

    def as_dict(self) -> dict[str, Any]:
        """What `shrink --json` prints, and `result.json` holds."""
        return {
            "reference": self.reference.as_dict(),
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "best": None if self.best is None else self.best.as_dict(),
            "budget": self.budget.as_dict(),
            "met": self.met,
            "unmet": self.unmet,
            "interrupted": self.interrupted,
            "examples": self.examples,
        }

    def rows(self) -> list[dict[str, Any]]:
        """The reference and the candidates, a row for each, with the columns of the report's table."""
        return [_row(place, each, self.best) for place, each in enumerate(self.numbered)]

    def plot(self) -> Figure:
        """Size and latency against quality, the choice marked, and the limits of the budget."""
        measured = [row for row in self.rows() if row["quality"] is not None]
        metric = measured[0]["metric"] if measured else "quality"
        share = metric.lower() in SHARES
        limits = {"size_bytes": self.budget.max_size_bytes, "latency_s": self.budget.max_latency_s}
        panels = []
        for title, column, unit in (("size (MB)", "size_bytes", 1e-6), ("latency (ms)", "latency_s", 1e3)):
            limit = limits[column]
            spots = [
                _spot(row, unit * row[column], 100.0 if share else 1.0) for row in measured if row[column] is not None
            ]
            if spots:
                panels.append((title, spots, None if limit is None else unit * limit))
        return trade_offs(panels, f"{metric} on validation{' (%)' if share else ''}")


def read_run(folder: str | Path) -> Shrunk:
    """The result of a run that the command line or an earlier call made; of one that has not ended, what it has found.

    Raises BadInput for a folder that is no run or has no row yet.
    """
    found = read_outcome(Path(folder))
    return Shrunk(
        folder=Path(folder),
        reference=found.reference,
        candidates=list(found.candidates),
        best=found.best,
        budget=found.budget or Budget(),
        unmet=list(found.unmet),
        interrupted=found.interrupted,
        examples=found.examples,
    )


def _placed(row: Candidate, folder: Path) -> Candidate:
    return replace(row, folder=folder / row.path) if row.path else row


def _row(place: int, row: Candidate, best: Candidate | None) -> dict[str, Any]:
    measured, verdict = row.measurement, row.verdict
    costs = ("metric", "quality", "quality_low", "quality_high", "size_bytes", "latency_s", "memory_bytes", "energy_j")
    return {
        "number": place,
        "recipe": row.short if place else "reference",
        **{name: getattr(measured, name, None) for name in costs},
        "speedup": row.speed.get("speedup"),
        "change": None if verdict is None else verdict.change,
        "decision": None if verdict is None else verdict.decision,
        "test_quality": None if row.test is None else row.test.quality,
        "ships": best is not None and row.fingerprint == best.fingerprint,
        "failure": row.failure,
    }


def _spot(row: dict[str, Any], cost: float, scale: float) -> Spot:
    middle, low, high = (scale * row[name] for name in ("quality", "quality_low", "quality_high"))
    quality = Estimate(str(row["number"]), middle, low, high, best=row["ships"])
    return Spot(f"{row['number']} ships" if row["ships"] else str(row["number"] or "reference"), cost, quality)
