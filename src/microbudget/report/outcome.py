"""Outcome: the result of a run that has ended, else what it found so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..judge.budget import Budget
from ..model import Record
from ..runs.candidates import Candidate
from ..runs.reading_order import reading_order
from ..runs.run import LAYOUT, Run
from ..task import Example, Split

Role = Literal["reference", "best", "other"]


@dataclass(frozen=True)
class Outcome:
    """The reference, the other candidates, and the one that ships."""

    run: Run
    settings: dict[str, Any]  # of run.toml
    reference: Candidate
    candidates: tuple[Candidate, ...]
    best: Candidate | None
    budget: Budget | None  # of the last command
    unmet: tuple[str, ...]
    interrupted: bool
    ended: bool  # whether the last command came to its end, by itself or by Ctrl-C
    examples: dict[str, Any] = field(default_factory=dict)  # how many the splits have, and what is learnt from them

    @property
    def rows(self) -> tuple[Candidate, ...]:
        """The reference and the candidates."""
        return (self.reference, *self.candidates)

    @property
    def has_divergence(self) -> bool:
        """Whether the expected losses of its candidates follow from their divergence from the reference too."""
        return any(row.measurement is not None and row.measurement.divergence is not None for row in self.candidates)

    @property
    def smaller(self) -> Candidate | None:
        """What ships, where that is another model than the reference."""
        return None if self.best is None or self.is_reference(self.best) else self.best

    @property
    def kind(self) -> str:
        """The kind of task that the models are for; "" where nothing was measured."""
        measured = next((row.measurement for row in self.rows if row.measurement is not None), None)
        return "" if measured is None else measured.task

    @property
    def metric(self) -> str:
        """What quality is measured by; "" where nothing was measured."""
        measured = next((row.measurement for row in self.rows if row.measurement is not None), None)
        return "" if measured is None else measured.metric

    @property
    def test_readings(self) -> int:
        """How many models have read the test split, besides the reference: each is one more chance to be wrong."""
        return sum(row.test is not None for row in self.candidates)

    @property
    def there(self) -> Outcome:
        """With the costs on the machine that the run is chosen for; itself where that is this one."""
        best = None if self.best is None else self.best.there
        return replace(
            self, reference=self.reference.there, candidates=tuple(row.there for row in self.candidates), best=best
        )

    def ships(self, candidate: Candidate) -> bool:
        """Whether this candidate is the one that ships."""
        return self.best is not None and candidate.fingerprint == self.best.fingerprint

    def is_reference(self, candidate: Candidate) -> bool:
        """Whether this candidate is the reference."""
        return candidate.fingerprint == self.reference.fingerprint

    def role(self, candidate: Candidate) -> Role:
        """What a candidate is in the run; a reference that ships itself is the best."""
        if self.ships(candidate):
            return "best"
        return "reference" if self.is_reference(candidate) else "other"

    def record(self, candidate: Candidate) -> Record | None:
        """The `microbudget.json` of a candidate's model, where it is still on disk."""
        if self.ships(candidate):
            shipped = Record.read(self.run.best)
            if shipped is not None:
                return shipped
        return Record.read(self.run.folder / candidate.path) if candidate.path else None

    def logits(self, candidate: Candidate, split: Split) -> NDArray[np.float32] | None:
        """A candidate's logits (examples, classes) on what it has read of a split, in the order of reading.

        None where there are none, or where the run is of an earlier version, whose answers had another order.
        """
        if self.settings.get("layout") != LAYOUT:
            return None
        try:
            return self.run.answers(candidate.fingerprint, split)
        except (OSError, ValueError):
            return None

    def read(self, examples: Sequence[Example]) -> list[Example]:
        """The examples of a split in the order of reading, which the rows of `logits` are in."""
        return reading_order(examples, self.run.seed)


def read_outcome(folder: Path) -> Outcome:
    """The Outcome of a run's folder. Raises BadInput for a folder that is no run or has no row yet."""
    run = Run(folder)
    if not (folder / "run.toml").is_file():
        raise BadInput(f"{folder} is no run: it has no run.toml. Give the folder that was --out of shrink or run")
    result = run.result
    return _ended(run, result) if result.is_file() else _unfinished(run)


def _ended(run: Run, path: Path) -> Outcome:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        reference = Candidate.from_dict(result["reference"])
        found = _all_rows(run, [Candidate.from_dict(row) for row in result["candidates"]])
        best = None if result["best"] is None else Candidate.from_dict(result["best"])
        budget = Budget.from_dict(result["budget"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is damaged ({error}): delete it, or give the run's command again") from error
    return Outcome(
        run=run,
        settings=run.settings,
        reference=reference,
        candidates=_without(reference, found),
        best=best,
        budget=budget,
        unmet=tuple(result.get("unmet", ())),
        interrupted=bool(result.get("interrupted")),
        ended=True,
        examples=result.get("examples", {}),
    )


def _all_rows(run: Run, found: list[Candidate]) -> list[Candidate]:
    """The rows of a result with what was tested since, and those of earlier commands."""
    kept = {row.fingerprint: row for row in run.candidates()}
    rows = []
    for row in found:
        now = kept.pop(row.fingerprint, row)
        rows.append(replace(row, test=now.test, test_verdict=now.test_verdict) if row.test is None else row)
    return [*rows, *kept.values()]


def _unfinished(run: Run) -> Outcome:
    """From the rows alone; the best so far is the one that was delivered last."""
    rows = run.candidates()
    if not rows:
        raise BadInput(f"{run.folder} has no candidates yet: wait for the first one, then write the report again")
    reference = next((row for row in rows if row.measurement is not None and row.verdict is None), rows[0])
    shipped = Record.read(run.best)
    best = next((row for row in rows if shipped is not None and row.fingerprint == shipped.fingerprint), None)
    asked = run.budget
    budget = None if asked is None else Budget.from_dict(asked)
    return Outcome(run, run.settings, reference, _without(reference, rows), best, budget, (), False, ended=False)


def _without(reference: Candidate, rows: list[Candidate]) -> tuple[Candidate, ...]:
    return tuple(row for row in rows if row.fingerprint != reference.fingerprint)
