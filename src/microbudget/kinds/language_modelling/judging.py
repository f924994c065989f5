"""How language models are judged: by what each passage of a text costs them, token by token, or by questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption
from ...judge.answering import Check, Logits
from ...judge.judging import Agreement, Block, Scoring
from ...judge.worker import Worker
from ...model import Model
from ...progress import SILENT, Progress
from ...task import Example, Task
from ...units import Drop
from .divergence import compare_both, compare_with_kept, divergence, keep_predictions
from .predictions import Predictions
from .questions.answer import divergence as divergence_of_answers
from .questions.judging import QuestionJudging
from .questions.task import QuestionTask
from .task import LanguageTask
from .timed_by_token import TimedByToken

WITH_LATENCY = {"decode_tokens_per_s": -1}  # see `judge.latency`


def judging_of(task: Task) -> TimedByToken:
    """By its examples: questions, or passages."""
    return QuestionJudging(task) if isinstance(task, QuestionTask) else Judging(task)


class Judging(TimedByToken):
    """Passages of a text, or answers in conversations."""

    compares_predictions = True
    look_every = 4  # passages: reading one takes a large model seconds

    @property
    def _text(self) -> LanguageTask:
        return cast(LanguageTask, self.task)

    def check_limit(self, limit: Drop | None) -> None:
        """A loss of bits per byte is relative: a byte has no points."""
        if limit is not None and not limit.relative:
            raise InvalidOption(
                f"a loss of bits per byte cannot be in points ({limit}): give a relative one, for example 1%, or"
                " --questions FILE, whose accuracy has points"
            )

    def lengths(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Their judged bytes."""
        return self.task.score(np.zeros((len(examples), 2)), examples).denominator

    def chunks(self, models: Iterable[Model], examples: Sequence[Example]) -> list[Sequence[Example]]:
        """One passage in each request."""
        return [examples[place : place + 1] for place in range(len(examples))]

    def summary(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Nats and tokens of each passage, (examples, 2)."""
        return np.asarray(outputs)

    def extra(self, summary: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """Perplexity, and the number of tokens."""
        return self._text.extra(summary)

    def reference_answers(
        self, model: Model, block: Block, worker: Worker, kept: Path, progress: Progress = SILENT
    ) -> Logits:
        """Nats and tokens of each passage, (examples, 2); the predictions of those that are compared are kept."""
        return _checked(model, keep_predictions(worker, self._text, block, Predictions(kept), progress))

    def compared_answers(
        self,
        model: Model,
        block: Block,
        workers: tuple[Callable[[], Worker], Worker],
        kept: Path,
        progress: Progress = SILENT,
    ) -> tuple[Logits, NDArray[Any]]:
        """Nats and tokens of each passage, (examples, 2), and the sums of its divergence, (examples, 3)."""
        costs, sums = compare_with_kept(workers, self._text, block, Predictions(kept), progress)
        return _checked(model, costs), sums

    def divergence_extra(self, sums: NDArray[Any]) -> dict[str, Any]:
        """KL and same top-1 over the compared passages, where both have the same tokens. sums: (examples, 3)."""
        found = divergence(*sums.T)
        return {} if found is None else {"kl": found.kl, "same_top1": found.same_top1, "divergence": found.as_dict()}

    def agreement(
        self,
        workers: tuple[Worker, Worker],
        models: tuple[Model, Model],
        examples: Sequence[Example],
        progress: Progress = SILENT,
    ) -> Agreement:
        """Both read the same passages; their predictions are compared token by token."""
        comparison = compare_both(*workers, self.task, examples, progress)
        scores = (Scoring(self), Scoring(self))
        for score, outputs in zip(scores, (comparison.reference, comparison.candidate), strict=True):
            score.add(examples, outputs)
        found = comparison.divergence()
        qualities = (scores[0].quality(), scores[1].quality())
        if found is None:
            return Agreement(qualities, None, None)
        return Agreement(qualities, found.kl, found.same_top1, found.as_dict())


def difference(task: Task, reference: Logits, outputs: Logits) -> dict[str, float]:
    """How far the answers to questions are from the reference's: `kl`, of the choices."""
    kl = divergence_of_answers(reference, outputs) if isinstance(task, QuestionTask) else None
    return {} if kl is None else {"kl": kl}


def _checked(model: Model, costs: NDArray[np.float64]) -> Logits:
    """A model's costs of passages, (examples, 2), checked. Raises BrokenModel."""
    check = Check(model, None, 0)
    checked = check(costs, len(costs))
    check.finish()
    return checked
