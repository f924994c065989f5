"""The result of a run: the reference, the candidates, the best of them, and whether the budget is met."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..judge.budget import Budget
from ..report.outcome import read_outcome
from ..report.run_table import html_of, text_of
from ..runs.candidates import Candidate


@dataclass(frozen=True)
class Shrunk:
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

    @property
    def met(self) -> bool:
        """Whether the best candidate holds all limits."""
        return self.best is not None and not self.unmet

    def __str__(self) -> str:
        """The lines of the terminal: the candidates, and what ships."""
        return text_of(read_outcome(self.folder))

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
