"""Options of a run: what `shrink` and `run_recipe` take besides model, data and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import InvalidOption, check_options
from ..judge.budget import Budget, Goal
from ..machine.processor import Threads, fixed_threads
from ..progress import Progress, shown
from ..units import Drop

if TYPE_CHECKING:
    from ..task import Columns


@dataclass(frozen=True)
class Durations:
    """The most seconds that timing takes.

    reference_s: of the reference alone. pair_s: of a candidate with the reference. float_s: of a quantized model with
    the model before `quantize`; 0 leaves that out. again_s: of a candidate once more, where the machine was busy; 0
    leaves that out too. verb_s: in `measure` and `compare`; None: their own defaults.
    """

    reference_s: float = 2.0
    pair_s: float = 6.0
    float_s: float = 2.0
    again_s: float = 6.0
    verb_s: float | None = None


DURATIONS = Durations()


@dataclass(frozen=True)
class RunOptions:
    """How a run goes.

    seed: of splits, augmentation and training. threads: of the runtimes; 0 means all cores, "auto" the faster of 1 and
    all. keep: intermediate steps and the cache stay. force: begin again in a run that was made from something else.
    prompts: what language models write for the report, or a file of them. normalizer: of transcripts, before they are
    compared. columns: of tables of texts. output: of an `.onnx` file with several, the one with the scores.
    questions: a file of them, which language models are asked too; they decide where `max_drop` is in points.
    methods: of which `shrink` may make recipes, besides export and what teaches the labels. recipes: what it tries in
    place of its own recipes; options may be open, as in `prune(size=?)`: each of their values is tried. timings: what a
    kit's script wrote on another machine, by which a run that has rows chooses. progress: shown on a terminal and in
    a notebook; `Progress(quiet=True)` shows none.
    """

    seed: int = 0
    threads: Threads = 0
    keep: bool = False
    force: bool = False
    prompts: str | Path | Sequence[str] | None = None
    normalizer: str = "basic"
    columns: Columns | None = None
    output: str | None = None
    questions: str | Path | None = None
    methods: Sequence[str] | None = None
    recipes: str | None = None
    timings: str | Path | None = None
    durations: Durations = DURATIONS
    progress: Progress = field(default_factory=shown)

    @property
    def reading(self) -> dict[str, Any]:
        """How the data are read, JSON-ready, for those who open them again."""
        columns = None if self.columns is None else {"text": self.columns.text, "label": self.columns.label}
        return {"normalizer": self.normalizer, "columns": columns}

    @property
    def fixed_threads(self) -> int:
        """The number of threads for work that is not timed: 0 means all cores."""
        return fixed_threads(self.threads)


class RunKeywords(TypedDict, total=False):
    """The fields of RunOptions and the limits of a Budget, as keywords."""

    seed: int
    threads: Threads
    keep: bool
    force: bool
    prompts: str | Path | Sequence[str] | None
    normalizer: str
    columns: Columns | None
    output: str | None
    questions: str | Path | None
    methods: Sequence[str] | None
    recipes: str | None
    timings: str | Path | None
    durations: Durations
    progress: Progress
    max_size: str | float
    max_latency: str | float
    max_memory: str | float
    max_energy: str | float
    max_drop: str | Drop
    minutes: float | None
    goal: Goal
    prove: bool


LIMITS = ("max_size", "max_latency", "max_memory", "max_energy", "max_drop", "minutes", "goal", "prove")


def read_keywords(budget: Budget | None, keywords: Mapping[str, Any]) -> tuple[RunOptions, Budget]:
    """The options and the budget of a call. keywords: fields of RunOptions, and limits where no budget is given.

    Raises InvalidOption, with the nearest name, for one that is neither.
    """
    known = [*(each.name for each in fields(RunOptions)), *LIMITS]
    check_options(keywords, known)
    limits = {name: value for name, value in keywords.items() if name in LIMITS}
    if budget is not None and limits:
        raise InvalidOption(f"{', '.join(limits)} and a Budget: give the limits in one of the two")
    how = RunOptions(**{name: value for name, value in keywords.items() if name not in LIMITS})
    return how, budget or Budget(**limits)
