"""Kit: the rows of a run that another machine can time, with the work for each, in a folder of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadData, BadInput, Failed
from ..judge.answering import collated
from ..kind import find_facet
from ..model import Model
from ..progress import SILENT, Progress
from ..recipes.recipe import Recipe
from ..report.data import reopened
from ..report.outcome import Outcome, read_outcome
from ..report.rows import name
from ..runs.candidates import Candidate
from ..runs.reading_order import reading_order
from ..runs.run import held
from ..runs.timings import IDENTITY
from ..runtimes.loading import load
from ..ship.kit import SCRIPT, Timeable, Work, of_graph, write_kit
from ..task import Example, Task
from .delivery import check_target

FACET = IN_RUN = "kit"  # the facet of a kind; the folder in a run
EXAMPLES = 8  # of validation: enough to see another answer, few enough to send


@dataclass(frozen=True)
class Kit:
    """A kit in its folder. base: what all are timed in turns with, and what it is. left_out: row names, and why."""

    folder: Path
    rows: tuple[str, ...]
    base: str
    base_is: str
    left_out: dict[str, str]
    script: str = SCRIPT

    def as_dict(self) -> dict[str, Any]:
        """What `kit --json` prints."""
        return {
            "folder": str(self.folder),
            "script": self.script,
            "rows": list(self.rows),
            "base": self.base,
            "base_is": self.base_is,
            "left_out": self.left_out,
        }


def make_kit(
    run: str | Path, out: str | Path | None = None, *, force: bool = False, progress: Progress = SILENT
) -> Kit:
    """Write the kit of a run into a folder, by default RUN/kit.

    Raises BadInput for a folder that is no run, a run without a model that can be timed elsewhere; AlreadyExists;
    BadData where the run's data are not there any more.
    """
    folder = Path(run)
    target = folder / IN_RUN if out is None else Path(out)
    outcome = read_outcome(folder)
    check_target(target, folder, force, own=IN_RUN)
    with held(folder), reopened(outcome) as (task, missing):
        if task is None:
            raise BadData(f"a kit needs a few validation examples: {missing}")
        found, left_out = _timeable(outcome, task, progress)
        if not found:
            reasons = "; ".join(f"{called}: {reason}" for called, reason in left_out.items())
            raise BadInput(f"{folder} has no model that another machine can time. {reasons or 'It has no candidates'}")
        base, base_is = _base(outcome, found)
        ordered = [base, *(each for each in found if each is not base)]
        write_kit(target, _identity(outcome, base, base_is), ordered)
    return Kit(target, tuple(each.name for each in ordered), base.name, base_is, left_out)


def _identity(outcome: Outcome, base: Timeable, base_is: str) -> dict[str, Any]:
    known = {key: outcome.settings.get(key) for key in IDENTITY}
    as_base = base.row.fingerprint if base_is != BASES[-1] else None
    return {**known, "reference": outcome.reference.fingerprint, "reference_as": as_base}


def _timeable(outcome: Outcome, task: Task, progress: Progress) -> tuple[list[Timeable], dict[str, str]]:
    """The rows with a model that a kit can hold, and of the others why not, by their names."""
    examples = reading_order(task.examples("validation"), outcome.run.seed)[:EXAMPLES]
    found, left_out = list[Timeable](), dict[str, str]()
    for place, row in enumerate(outcome.rows):
        called = name(place)
        if row.measurement is None:
            continue
        if not (outcome.run.folder / row.path).exists():
            left_out[called] = "its model is not there any more: give the run's command again to build it"
            continue
        progress.doing(f"answering with row {called}")
        model = load(outcome.run.folder / row.path)
        try:
            work = _work(task, model, examples, row.measurement.threads or 0)
        except Failed as error:
            left_out[called] = str(error)
            continue
        if work is None:
            left_out[called] = f"{model.format} files are not for a kit"
        else:
            found.append(Timeable(called, row, model, work))
    return found, left_out


def _work(task: Task, model: Model, examples: Sequence[Example], threads: int) -> Work | None:
    """A kind's own, else of a graph that takes what the task prepares; None for a format that a kit cannot hold."""
    facet = find_facet(task.kind, FACET)
    if facet is not None:
        found: Work | None = facet.work(task, model, examples, threads)
        return found
    if model.format != "onnx":
        return None
    return of_graph(task, model, [collated(task, model, [each]) for each in examples], threads)


FLOAT_EXPORTS = ("onnx", "gguf")  # formats in which `export` rounds nothing but to 16 bits
BASES = (
    "the reference",
    "the reference in float, exported",
    "the largest model, as the reference runs in torch alone and has no float export among the rows",
)


def _base(outcome: Outcome, found: Sequence[Timeable]) -> tuple[Timeable, str]:
    """What the others are timed in turns with: the reference, else its float export, else the largest."""
    exported = _steps(outcome.reference)
    for each in found:
        if outcome.is_reference(each.row):
            return each, BASES[0]
    for each in found:
        steps = _steps(each.row)
        if steps and steps[:-1] == exported and steps[-1].name() == "export" and each.model.format in FLOAT_EXPORTS:
            return each, BASES[1]
    return max(found, key=lambda each: each.model.size_bytes), BASES[2]


def _steps(row: Candidate) -> tuple[Any, ...]:
    try:
        return Recipe.parse(row.recipe).steps if row.recipe else ()
    except BadInput:  # made by a version with other methods
        return ()
