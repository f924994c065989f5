"""Elsewhere: a command that chooses by the timings of another machine, checked before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import BadInput, InvalidOption
from ..judge.budget import Budget
from ..runs.run import Run
from ..runs.timings import Timings
from .options import RunOptions


def check_timings(how: RunOptions, out: Path, budget: Budget) -> None:
    """Say what the timings that a command chooses by are of, and which rows they lack.

    Raises BadInput for a file that holds none, and where OUT is no run; RunMismatch for those of another run or of
    other files; InvalidOption with a limit on energy, or --force.
    """
    if how.timings is None:
        return
    timings, run = Timings.read(Path(how.timings)), Run(out)
    if budget.max_energy_j is not None or "energy" in budget.costs:
        raise InvalidOption("--timings says nothing of energy on that machine: leave --max-energy and --goal energy")
    if how.force:
        raise InvalidOption(f"--force starts {out} again, without the models that were timed: leave it, or --timings")
    if not (out / "run.toml").is_file():
        raise BadInput(f"--timings chooses among the rows of a run, and {out} is none yet: give the RUN of the kit")
    rows = [row for row in run.candidates() if row.measurement is not None]
    timings.check(out, run.settings, rows)
    laid = timings.laid_over(rows)
    timed = [row for row in laid if "costs" in row.elsewhere]
    how.progress.say(f"timings   {timings.machine}: {len(timed)} of {len(rows)} rows")
    for reason in ("missing", "failure"):
        if names := [row.short for row in laid if reason in row.elsewhere]:
            consequence = "not chosen under a limit on latency or memory" if reason == "missing" else "not chosen"
            said = "not timed there, hence" if reason == "missing" else "fails or answers otherwise there, hence"
            how.progress.say(f"          {said} {consequence}: {'; '.join(names)}")


def with_kept_timings(how: RunOptions, out: Path) -> RunOptions:
    """The options of a command that has the limits of the one before: its timings too."""
    kept = out / "timings.json"
    return replace(how, timings=kept) if how.timings is None and not how.force and kept.is_file() else how
