"""Data: what a run was made with, opened again where it is still there and unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import MicrobudgetError
from ..model import Record
from ..task import Columns, DataOptions, Split, Task, open_data
from .outcome import Outcome

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "unlabelled")


@contextmanager
def reopened(outcome: Outcome) -> Iterator[tuple[Task | None, str]]:
    """The task of the run's data, or None and the reason. What it caches lasts as long as this context."""
    cache = outcome.run.cache
    if cache.is_dir():
        yield _open(outcome, cache)
        return
    with TemporaryDirectory() as folder:  # a finished run has no cache, and the report leaves none there
        yield _open(outcome, Path(folder))


def _open(outcome: Outcome, cache: Path) -> tuple[Task | None, str]:
    data = str(outcome.settings.get("data", ""))
    if not Path(data).exists():
        return None, f"the data {data} are not there (any more, or as seen from this working directory)"
    try:
        limit = None if outcome.budget is None else outcome.budget.max_drop
        how = replace(_reading(outcome), cache=cache, limit=limit)
        task = open_data(data, outcome.kind, how)
    except (MicrobudgetError, OSError) as error:
        return None, f"the data {data} cannot be read: {error}"
    if task.fingerprint != outcome.settings.get("data_fingerprint"):
        return None, f"the data {data} have changed since the run"
    return task, ""


def _reading(outcome: Outcome) -> DataOptions:
    """What decided the run's splits, and how its files are read. What the given model has seen: while it is there."""
    settings, options = outcome.settings, outcome.run.data_options
    columns = options.get("columns")
    record = Record.read(Path(str(settings.get("model_path", ""))))
    seen = frozenset(() if record is None else record.seen)
    questions = settings.get("questions")
    return DataOptions(
        seed=int(settings.get("seed", 0)),
        use=settings.get("use", "training"),
        leave_out=seen,
        questions=None if questions is None else Path(questions),
        normalizer=options.get("normalizer", "basic"),
        columns=None if columns is None else Columns(tuple(columns["text"]), columns["label"]),
    )


def split_sizes(task: Task) -> dict[str, int]:
    """How many examples each split has, without the empty ones."""
    return {split: len(task.examples(split)) for split in SPLITS if task.examples(split)}
