"""Samples: what each model of a run writes for the report. Kinds whose models write text have a `samples.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidOption
from ..judge.judging import Judging
from ..judge.worker import Worker
from ..kind import find_facet, having
from ..model import Model
from ..runs.run import Run
from .reference import Reference


class Samples:
    """Nothing is written: the models of this kind answer with numbers."""

    def __init__(
        self, run: Run, judging: Judging, reference: Reference, prompts: tuple[str, ...] | None, seed: int
    ) -> None:
        """prompts: what the user gave; None: what the run had before, else a default set."""

    def write(self, model: Model, worker: Worker | None = None) -> None:
        """Let a model write its samples, unless the run has them. worker: one in which it is open already."""


def samples_of(run: Run, judging: Judging, reference: Reference, prompts: tuple[str, ...] | None, seed: int) -> Samples:
    """The Samples of a task's kind."""
    module = find_facet(judging.task.kind, "samples")
    if module is None:
        return Samples(run, judging, reference, prompts, seed)
    found: Samples = module.Samples(run, judging, reference, prompts, seed)
    return found


def read_prompts(given: str | Path | Sequence[str] | None, model: Model) -> tuple[str, ...] | None:
    """The user's prompts, in a file or as they are. Raises InvalidOption for a model that writes none."""
    if given is None:
        return None
    module = find_facet(model.task, "samples")
    if module is None:
        kinds = " and ".join(having("samples"))
        raise InvalidOption(f"prompts are for {kinds}, and {model.path} is for {model.task}: leave them out")
    if not isinstance(given, (str, Path)):
        return tuple(given)
    prompts: tuple[str, ...] = module.read_prompts(Path(given))
    return prompts
