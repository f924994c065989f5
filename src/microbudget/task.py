"""Tasks: what a model is for. The protocol of our own kinds and of the user's own objects; how data are opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidOption
from .kind import facet, find_facet, having
from .progress import SILENT, Progress
from .units import Drop

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Split = Literal["train", "validation", "test", "unlabelled"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Use = Literal["nothing", "calibration", "training"]
USES: tuple[Use, ...] = ("nothing", "calibration", "training")  # from the least to the most of the data
CALIBRATION = 512  # examples at most that are kept out of the evidence where nothing trains
Inputs = dict[str, NDArray[Any]]
Data: TypeAlias = "str | Path | Task | Dataset | DatasetDict"  # what the verbs take as data


@dataclass(frozen=True)
class Example:
    """One example: the hash of its content, its target (a class index, or None), and a name that a person knows."""

    key: str  # hexadecimal hash of the content, so that a renamed or copied file is the same example
    label: int | None
    name: str


@dataclass(frozen=True)
class Scores:
    """A metric as a ratio of sums over examples: `sum(numerator) / sum(denominator)`.

    Accuracy has numerator 0 or 1 and denominator 1, WER errors and words, bits per byte bits and bytes.
    One value for each example lets two models be judged in pairs. Both arrays: (examples,).
    """

    metric: str
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """The metric over all examples; NaN when there are none."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")


@runtime_checkable
class Task(Protocol):
    """Data, splits, metric and loss. Give your own object with these members to use your own loader and metric."""

    kind: str
    labels: tuple[str, ...]
    fingerprint: str  # hash of the data: equal fingerprints mean equal examples in equal splits

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split, in a fixed order. Calibration data are train examples; their labels are not read."""
        ...

    def collate(self, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> Inputs:
        """The model's inputs by name, batch first, for these examples. View 0 is plain, higher views are augmented."""
        ...

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """The metric, example by example, whatever else is in the batch. outputs: (examples, ...), the model's."""
        ...

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """The training loss of each example, (examples,): what early stopping reads."""
        ...


@dataclass(frozen=True)
class Columns:
    """The columns of a table, as the user names them; an empty one is found by its name and contents.

    text: one, or two for pairs of texts.
    """

    text: tuple[str, ...] = ()
    label: str | None = None

    @classmethod
    def read(cls, text: str | None, label: str | None) -> Columns | None:
        """From --text-column, "NAME" or "NAME,NAME", and --label-column; None: neither. Raises InvalidOption."""
        names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
        if len(names) > 2:
            raise InvalidOption(f"--text-column takes one column, or two for pairs of texts, not {len(names)}")
        return cls(names, label) if names or label is not None else None


@dataclass(frozen=True)
class DataOptions:
    """How the data at a path become a Task.

    splits: True for a run: missing splits are cut, seeded, and `use` says what from: see `data.splits.complete`. False
    to judge: everything to judge on is in "test", which is the data's test split, else its validation split, else all
    of them. leave_out: keys of examples that the model was made with: they are not judged on, and a cut puts them into
    train where nothing trains. cache: a folder for what is decoded, by default the user's. threads: 0 means all cores.
    normalizer: of transcripts, before they are compared. columns: of tables of texts. questions: a file of them, which
    a language model is asked too; limit: that on the loss, which says by its unit whether they decide. Warnings go to
    `progress`.
    """

    seed: int = 0
    splits: bool = True
    use: Use = "training"
    leave_out: frozenset[str] = frozenset()
    cache: Path | None = None
    threads: int = 0
    normalizer: str = "basic"
    columns: Columns | None = None
    questions: Path | None = None
    limit: Drop | None = None
    progress: Progress = SILENT


TO_TRAIN = DataOptions()
TO_JUDGE = DataOptions(splits=False)


def open_data(path: str | Path, kind: str, options: DataOptions = TO_TRAIN) -> Task:
    """The task of a kind on the data at a path, to train or to judge on. Raises BadData, InvalidOption."""
    if options.questions is not None and find_facet(kind, "secondary") is None:
        raise InvalidOption(f"questions are for {' and '.join(having('secondary'))}, and the model is for {kind}")
    task: Task = facet(kind, "data").open_task(path, options)
    return task
