"""How language models are judged by questions: accuracy, what chance would give, and the answers of two models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ....judge.answering import Logits
from ....judge.judging import Agreement, Scoring, paired
from ....judge.worker import Worker
from ....model import Model
from ....progress import SILENT, Progress
from ....task import Example
from ..timed_by_token import TimedByToken
from .answer import divergence
from .task import QuestionTask

AT_ONCE = 8  # questions in a request


class QuestionJudging(TimedByToken):
    """Questions with choices, and prompts that are answered in text."""

    look_every = 16  # questions: a large model takes a second for each

    @property
    def _questions(self) -> QuestionTask:
        return cast(QuestionTask, self.task)

    def chunks(self, models: Iterable[Model], examples: Sequence[Example]) -> list[Sequence[Example]]:
        """A few questions in each request."""
        return [examples[start : start + AT_ONCE] for start in range(0, len(examples), AT_ONCE)]

    def summary(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """The answers as they are, (examples,) texts."""
        return outputs

    def extra(self, summary: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What chance would give, the accuracy without normalization, and how the questions were asked."""
        questions = [self._questions.question(example) for example in examples]
        answers = self._questions.answers(summary, examples)
        kinds = Counter("choices" if each.choices else "answer" if each.expected else "regex" for each in questions)
        chats = sum(answer.chat for answer in answers)
        by_file: dict[str, list[bool]] = {}
        for example, answer in zip(examples, answers, strict=True):
            by_file.setdefault(example.name.rpartition(":")[0], []).append(answer.right)
        shares = {name: {"accuracy": float(np.mean(right)), "examples": len(right)} for name, right in by_file.items()}
        return {
            "chance": float(np.mean([question.chance for question in questions])),
            "accuracy_unnormalized": float(np.mean([answer.unnormalized for answer in answers])),
            "questions": {**kinds, "by_chat_template": chats},
            **({"by_file": shares} if len(shares) > 1 else {}),
        }

    def agreement(
        self,
        workers: tuple[Worker, Worker],
        models: tuple[Model, Model],
        examples: Sequence[Example],
        progress: Progress = SILENT,
    ) -> Agreement:
        """Both are asked the same questions. The divergence is that of the choices' probabilities."""
        scores = (Scoring(self), Scoring(self))
        found: tuple[list[Logits], list[Logits]] = ([], [])
        for chunk, *both in paired(self, workers, models, examples, progress):
            for score, kept, outputs in zip(scores, found, both, strict=True):
                score.add(chunk, outputs)
                kept.append(outputs)
        outputs_of = [np.concatenate(kept) for kept in found]
        first, second = (self._questions.answers(each, examples) for each in outputs_of)
        same = [a.text == b.text for a, b in zip(first, second, strict=True)]
        return Agreement((scores[0].quality(), scores[1].quality()), divergence(*outputs_of), float(np.mean(same)))
