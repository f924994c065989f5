"""How image classifiers are judged: as any classifier; and photos are decoded when their preprocessing is timed."""

from __future__ import annotations

from collections.abc import Callable

from ...images.photos import read_photo
from ...images.preprocess import Preprocessing
from ...judge import judging
from ...judge.answering import preprocessing
from ...model import Model
from ...task import Example
from .data import ImageTask


class Judging(judging.Judging):
    """Photos in a folder, or image arrays of a task of the user's own."""

    more_evidence = "Unlabelled photos count: put some into a folder `unlabelled`"

    def preparation(self, model: Model) -> Callable[[Example], object]:
        """Photos are read and decoded: the task's `collate` would find them in its cache."""
        task = self.task
        if not isinstance(task, ImageTask):
            return super().preparation(model)
        how = Preprocessing.parse(preprocessing(model))
        return lambda example: how([read_photo(task.path_of(example))])
