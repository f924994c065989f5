"""Delivery: any row of a run in a folder of its own, after it has read the test split."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AlreadyExists, BadData, InvalidOption
from ..judge.budget import Budget
from ..judge.evidence import ERROR
from ..judge.judging import Opening, judging_of
from ..machine.processor import thread_count
from ..progress import SILENT, Progress
from ..report import write_report
from ..report.data import reopened
from ..report.outcome import Outcome, read_outcome
from ..report.rows import name
from ..runs.candidates import Candidate
from ..runs.run import held
from ..runtimes.loading import load
from ..ship import ship
from ..ship.shipment import Shipment
from ..task import Task
from .answers import Answers
from .final_test import SHARES
from .reading import Reader
from .reference import Reference
from .testing import Testing


@dataclass(frozen=True)
class Delivered:
    """A model in its folder. unmet: the limits of the run that it breaks. readings: models that read the test split."""

    folder: Path
    row: Candidate
    unmet: list[str]
    readings: int

    def as_dict(self) -> dict[str, Any]:
        """What `deliver --json` prints."""
        return {"folder": str(self.folder), "row": self.row.as_dict(), "unmet": self.unmet, "readings": self.readings}


def deliver_row(
    run: str | Path, row: str | int, out: str | Path, *, force: bool = False, progress: Progress = SILENT
) -> Delivered:
    """Put a row of a run into a folder, complete with card and script, and test it where it was not tested before.

    row: its number or its recipe, as the report has them. The verdict on the test may be wrong as often as the share of
    the error that its reading gets: each model that reads the test split is one more chance to be wrong. Raises
    InvalidOption where there is no such row, or it has no model; AlreadyExists; BadData where the run's data are not
    there any more.
    """
    folder, target = Path(run), Path(out)
    outcome = read_outcome(folder)
    check_target(target, folder, force)
    with held(folder):
        chosen = _row(outcome, row)
        with reopened(outcome) as (task, missing):
            if task is None:
                raise BadData(f"row {row} cannot be tested: {missing}")
            reference, chosen = _tested(outcome, task, chosen, progress)
            budget, model = outcome.budget or Budget(), load(folder / chosen.path)
            readings = read_outcome(folder).test_readings  # with this one
            ship(Shipment(model, chosen, budget, task, outcome.settings, reference, readings), target)
        write_report(folder)
    unmet = [*chosen.broken_limits(budget), *chosen.broken_on_test(budget)]
    return Delivered(target, chosen, unmet, read_outcome(folder).test_readings)


def check_target(target: Path, run: Path, force: bool, own: str | None = None) -> None:
    """Raise InvalidOption, AlreadyExists for a folder that a part of a run must not be written into.

    own: the name of a folder in the run itself that may be.
    """
    in_run = target.resolve().is_relative_to(run.resolve())
    if in_run and (own is None or target.resolve() != (run / own).resolve()):
        raise InvalidOption(f"--out {target} lies in the run {run}: give a folder outside of it")
    if target.exists() and not target.is_dir():
        raise AlreadyExists(f"{target} is a file: give a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise AlreadyExists(f"{target} holds files: give another --out, or --force to replace it")


def _row(outcome: Outcome, wanted: str | int) -> Candidate:
    """The row of a number or a recipe, in full or in short. Raises InvalidOption."""
    text = str(wanted).strip()
    named = {name(place): row for place, row in enumerate(outcome.rows)}
    same = [row for row in outcome.rows if text and text in (row.recipe, row.short)]
    found = [named[text]] if text in named else same
    if not found:
        known = "; ".join(f"{number}: {row.short}" for number, row in named.items())
        raise InvalidOption(f"the run has no row {text!r}. It has {known}")
    if len(found) > 1:
        numbers = " and ".join(number for number, row in named.items() if row in found)
        raise InvalidOption(f"{text!r} is the recipe of rows {numbers}: give the number")
    row = found[0]
    if row.measurement is None:
        raise InvalidOption(f"row {text} has no model: {row.failure or 'it was not measured'}")
    if not row.path or not (outcome.run.folder / row.path).exists():
        raise InvalidOption(f"the model of row {text} is not there any more: give the run's command again to build it")
    return row


def _tested(outcome: Outcome, task: Task, row: Candidate, progress: Progress) -> tuple[Candidate, Candidate]:
    """The reference and the row with their test, of as many examples as the run has tested its choice on."""
    run, judging, reference = outcome.run, judging_of(task), outcome.reference
    measured = row.measurement
    assert measured is not None
    total = len(task.examples("test"))
    count = outcome.best.test.examples if outcome.best and outcome.best.test else total
    threads = measured.threads or thread_count(0)
    model = load(run.folder / row.path)
    with closing(Reference(load(run.folder / reference.path), judging, threads)) as opened:
        answers = Answers(run, judging, opened, Opening(threads), progress)
        reader = Reader(answers, judging, opened.model, outcome.budget or Budget(), run.seed)
        reading = Testing(run, judging, opened, answers, reader, threads)
        if reference.test is None:
            progress.doing("the reference reads the test split")
            reference = reading.of(reference, opened.model, count, ERROR)
        if row.test is None and not outcome.is_reference(row):
            progress.doing("testing what is delivered")
            share = SHARES[min(outcome.test_readings, len(SHARES) - 1)]
            row = reading.of(row, model, count, ERROR * share)
    return reference, reference if outcome.is_reference(row) else row
