"""The training data of a head: the features of a frozen backbone, computed once, and the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import BadData
from ..progress import SILENT, Progress
from ..task import Example, Task
from .features import FeatureStore
from .head import Head, HeadSettings, fit_head

Labels = NDArray[np.intp]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class HeadData:
    """The training data of a head: features (examples, inputs) and classes (examples,) of train and validation.

    Where there is no validation, train takes its place: all epochs run.
    """

    views: tuple[Features, ...]  # of train: the plain one, then augmented ones
    labels: Labels
    held_out: Features
    held_out_labels: Labels

    @classmethod
    def of(cls, store: FeatureStore, task: Task, views: int, seed: int, progress: Progress = SILENT) -> HeadData:
        """Of the train and validation splits of a task. views: how many of each train example."""
        train, validation = task.examples("train"), task.examples("validation")
        shown = tuple(store.rows(task, train, view, seed, progress) for view in range(views))
        labels = labels_of(train)
        if not validation:
            return cls(shown, labels, shown[0], labels)
        return cls(shown, labels, store.rows(task, validation, 0, seed, progress), labels_of(validation))

    def fit(self, classes: int, settings: HeadSettings, seed: int, rows: Labels | None = None) -> Head:
        """A head, stopped early on validation. rows: of the train examples that it is shown; None: all."""
        chosen = np.arange(len(self.labels)) if rows is None else rows
        features = np.concatenate([view[chosen] for view in self.views])
        train = features, np.tile(self.labels[chosen], len(self.views))
        return fit_head(train, (self.held_out, self.held_out_labels), classes, settings, seed)


def one_thread() -> Any:
    """A context for all of the fitting: its matrices are small, several threads took ten times as long when busy."""
    return threadpool_limits(1)


def labels_of(examples: Sequence[Example]) -> Labels:
    """The classes of examples, (examples,)."""
    return np.array([example.label for example in examples], np.intp)


def check_classes(task: Task) -> None:
    """Every class must be in the train split, and there must be two. Raises BadData."""
    labels = task.labels
    if len(labels) < 2:
        raise BadData(f"the data have one class only ({', '.join(labels)}): a classifier needs at least two")
    present = {example.label for example in task.examples("train")}
    absent = [name for index, name in enumerate(labels) if index not in present]
    if absent:
        raise BadData(f"no training example of {', '.join(absent[:5])}: add some, or leave that class out")


def check_validation(task: Task) -> None:
    """There must be something to stop on. Raises BadData."""
    if not task.examples("validation"):
        raise BadData("no validation examples: add some, so that training knows when to stop")
