"""How image classifiers are judged: as any classifier; and photos are decoded when their preprocessing is timed."""

from __future__ import annotations

from collections.abc import Callable

from ...images.photos import read_photo
from ...images.preprocess import Preprocessing
from ...judge import judging
from ...judge.answering import Convert, preprocessing
from ...model import Model
from ...runtimes.onnx.interface import as_logits, scale_of_model
from ...task import Example
from .data import ImageTask
from .network import check_preprocessing


class Judging(judging.Judging):
    """Photos in a folder, or image arrays of a task of the user's own."""

    more_evidence = "Unlabelled photos count: put some into a folder `unlabelled`"

    def resolved(self, model: Model, output: str | None = None) -> Model:
        """As of any model; photos are prepared by the model's own configuration, which must be there."""
        if isinstance(self.task, ImageTask):
            check_preprocessing(model)
        return super().resolved(model, output)

    def to_logits(self, model: Model) -> Convert:
        """The logarithm of what a Softmax or Sigmoid at the end of a graph answers: the loss takes logits."""
        scale = scale_of_model(model)
        return lambda outputs: as_logits(outputs, scale)

    def preparation(self, model: Model) -> Callable[[Example], object]:
        """Photos are read and decoded: the task's `collate` would find them in its cache."""
        task = self.task
        if not isinstance(task, ImageTask):
            return super().preparation(model)
        how = Preprocessing.parse(preprocessing(model))
        return lambda example: how([read_photo(task.path_of(example))])
