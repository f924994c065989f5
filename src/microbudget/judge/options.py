"""Options of a measurement: how a model is opened, timed and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from ..errors import check_options
from ..machine.processor import Threads
from ..progress import Progress, shown
from ..task import Columns, Split
from .judging import Opening


@dataclass(frozen=True)
class MeasureOptions:
    """What `measure` and `compare` take besides models and data.

    threads: 0 means all cores, "auto" tries 1 and all and keeps the faster. seconds: the most that timing takes; None:
    3 for one model, 10 for two. runtime: by its module's name, else the first of the format. split: which examples of a
    Task are judged; a path is one unsplit folder. normalizer: of transcripts, before they are compared. columns: of
    tables of texts; None: found by their names and contents. output: of an `.onnx` file with several, the one with
    the scores. masked_accuracy: also that among the data's classes alone. questions: a
    file of them, which a language model is asked too. progress: shown on a terminal and in a notebook;
    `Progress(quiet=True)` shows none.
    """

    threads: Threads = 0
    seed: int = 0
    seconds: float | None = None
    runtime: str | None = None
    max_memory_bytes: int | None = None
    split: Split = "test"
    normalizer: str = "basic"
    columns: Columns | None = None
    output: str | None = None
    masked_accuracy: bool = False
    questions: str | Path | None = None
    progress: Progress = field(default_factory=shown)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> MeasureOptions:
        """The options of a call. Raises InvalidOption, with the nearest name, for one that does not exist."""
        check_options(keywords, [each.name for each in fields(cls)])
        return cls(**keywords)

    def opening(self, threads: int) -> Opening:
        """How a model is opened with the threads that were chosen."""
        return Opening(threads, self.runtime, self.max_memory_bytes)


class MeasureKeywords(TypedDict, total=False):
    """The fields of MeasureOptions, as keywords."""

    threads: Threads
    seed: int
    seconds: float | None
    runtime: str | None
    max_memory_bytes: int | None
    split: Split
    normalizer: str
    columns: Columns | None
    output: str | None
    masked_accuracy: bool
    questions: str | Path | None
    progress: Progress
