"""Data: what a run was made with, opened again where it is still there and unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import MicrobudgetError
from ..task import DataOptions, Split, Task, open_data
from .outcome import Outcome

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "unlabelled")


@contextmanager
def reopened(outcome: Outcome, *, normalizer: str = "basic") -> Iterator[tuple[Task | None, str]]:
    """The task of the run's data, or None and the reason. What it caches lasts as long as this context.

    normalizer: of transcripts.
    """
    cache = outcome.run.cache
    if cache.is_dir():
        yield _open(outcome, cache, normalizer)
        return
    with TemporaryDirectory() as folder:  # a finished run has no cache, and the report leaves none there
        yield _open(outcome, Path(folder), normalizer)


def _open(outcome: Outcome, cache: Path, normalizer: str) -> tuple[Task | None, str]:
    data, seed = str(outcome.settings.get("data", "")), int(outcome.settings.get("seed", 0))
    if not Path(data).exists():
        return None, f"the data {data} are not there (any more, or as seen from this working directory)"
    try:
        task = open_data(data, outcome.kind, DataOptions(seed=seed, cache=cache, normalizer=normalizer))
    except (MicrobudgetError, OSError) as error:
        return None, f"the data {data} cannot be read: {error}"
    if task.fingerprint != outcome.settings.get("data_fingerprint"):
        return None, f"the data {data} have changed since the run"
    return task, ""


def split_sizes(task: Task) -> dict[str, int]:
    """How many examples each split has, without the empty ones."""
    return {split: len(task.examples(split)) for split in SPLITS if task.examples(split)}
