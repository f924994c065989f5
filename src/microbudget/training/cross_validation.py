"""Cross-validation of a head: every example is answered by a head that was fitted without it (Stone 1974)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.splits import divide
from ..errors import BadData
from ..task import Example, Task
from .head import Head, HeadSettings, fit_head
from .head_data import Features, Labels, check_classes, labels_of, one_thread

FOLDS = 5


def check_enough(task: Task) -> int:
    """The number of folds: 5, or as many as the smallest class has training examples. Raises BadData below 2."""
    check_classes(task)
    counts = Counter(labels_of(task.examples("train")).tolist())
    label, fewest = min(counts.items(), key=lambda item: item[1])
    if fewest < 2:
        raise BadData(
            f"{task.labels[label]} has one training example: cross-validation needs two of each class, one to"
            " learn from and one to answer. Add some, or leave that class out"
        )
    return min(FOLDS, fewest)


def fold_of_each(examples: Sequence[Example], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each example, (examples,): each class is divided by itself, and copies are in one fold."""
    parts = divide(examples, [1 / folds] * folds, seed)
    places = {example.key: place for place, part in enumerate(parts) for example in part}
    return np.array([places[example.key] for example in examples], np.intp)


def out_of_fold(
    features: Features, labels: Labels, folds: NDArray[np.intp], classes: int, settings: HeadSettings, seed: int
) -> NDArray[np.float32]:
    """The logits of each example by the head that was fitted to the other folds, (examples, classes).

    features: (examples, inputs). A head learns for all of its epochs: to stop it on the fold that it answers would make
    the answers too good.
    """
    logits = np.zeros((len(labels), classes), np.float32)
    with one_thread():
        for fold in np.unique(folds):
            held_out = folds == fold
            logits[held_out] = whole_head(features[~held_out], labels[~held_out], classes, settings, seed).logits(
                features[held_out]
            )
    return logits


def whole_head(features: Features, labels: Labels, classes: int, settings: HeadSettings, seed: int) -> Head:
    """A head that is fitted to all of these examples."""
    shown = (features, labels)
    return fit_head(shown, shown, classes, settings, seed)
