"""How text classifiers are judged: as any classifier, timed on a text of middle length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import LabelsDisagree
from ...judge import judging
from ...judge.answering import Convert
from ...metrics import confusion_matrix, matthews
from ...model import Model
from ...runtimes.onnx.interface import as_logits, scale_of_model
from ...task import Example, Inputs
from .data import TextTask
from .network import has_head
from .teaching import reading

TEXTS_AT_ONCE = 64


class Judging(judging.Judging):
    """Texts; the session cuts them into tokens, so that this is part of what is timed."""

    more_evidence = "Unlabelled texts count: put some into a file named unlabelled"

    def check(self, model: Model) -> None:
        """As of any classifier; an encoder without a head has nothing to be judged by."""
        if not has_head(model):
            raise LabelsDisagree(
                f"{model.path} is an encoder without a head of classes: `microbudget shrink` finetunes it by itself, a"
                " recipe begins with finetune()"
            )
        super().check(model)

    def resolved(self, model: Model, output: str | None = None) -> Model:
        """As of any classifier; an encoder has no labels yet, and how texts are read must be known."""
        reading(model)
        return super().resolved(model, output) if has_head(model) else model

    def to_logits(self, model: Model) -> Convert:
        """The logarithm of what a Softmax or Sigmoid at the end of a graph answers: the loss takes logits."""
        scale = scale_of_model(model)
        return lambda outputs: as_logits(outputs, scale)

    def chunks(self, models: Iterable[Model], examples: Sequence[Example]) -> list[Sequence[Example]]:
        """So many texts that their strings stay small: a request holds the longest text of it for each."""
        if not isinstance(self.task, TextTask):
            return super().chunks(models, examples)
        longest = max((len(part) for each in examples for part in self.task.text_of(each)), default=1)
        size = max(1, min(TEXTS_AT_ONCE, judging.CHUNK_BYTES // (4 * longest)))
        return [examples[start : start + size] for start in range(0, len(examples), size)]

    def timing_input(self, model: Model, examples: Sequence[Example], batch: int = 1) -> Inputs:
        """The texts of middle length: time grows with the tokens, and the first text may be short or long."""
        task = self.task
        if not isinstance(task, TextTask) or not examples:
            return super().timing_input(model, examples, batch)
        ordered = sorted(examples, key=lambda each: (sum(map(len, task.text_of(each))), each.key))
        start = max(0, (len(ordered) - batch) // 2)
        return super().timing_input(model, ordered[start : start + batch], batch)

    def extra(self, summary: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """Matthews's correlation too: it is not fooled by classes of different sizes."""
        targets = np.array([each.label for each in examples])
        found = super().extra(summary, examples)
        confusion = confusion_matrix(summary[:, 0], targets, len(self.task.labels))
        return {**found, "mcc": matthews(confusion)}
