"""Answers of the language models of a run to the same prompts, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ...errors import BadData
from ...judge.judging import Judging
from ...judge.worker import Worker
from ...model import Model
from ...runs.run import Run
from ...search import samples
from ...search.reference import Reference
from .chats import ChatTask
from .prompts import Prompt, choose
from .prompts import read_prompts as read_prompts
from .questions.task import QuestionTask
from .text import TextTask
from .writing import Written, answers_questions, write


class Samples(samples.Samples):
    """Answers to prompts that the user gave, or to a default set."""

    def __init__(
        self, run: Run, judging: Judging, reference: Reference, prompts: tuple[str, ...] | None, seed: int
    ) -> None:
        """See the base class."""
        self._run, self._judging, self._reference = run, judging, reference
        self._given, self._seed = prompts, seed

    @cached_property
    def _prompts(self) -> tuple[Prompt, ...]:
        task = self._judging.task
        if not isinstance(task, (TextTask, ChatTask, QuestionTask)):
            return ()
        kept = self._run.prompts
        if kept is not None and self._given in (None, tuple(kept["given"] or ())):
            return tuple(Prompt(**row) for row in kept["prompts"])
        chosen = choose(self._given, answers_questions(self._reference.worker()), task)
        self._run.save_prompts({"given": self._given, "prompts": [prompt.as_dict() for prompt in chosen]})
        return chosen

    def write(self, model: Model, worker: Worker | None = None) -> None:
        """Raises BadData for a given prompt that the reference cannot answer."""
        prompts = [prompt.as_dict() for prompt in self._prompts]
        kept = self._run.written(model.fingerprint)
        if not prompts or (kept is not None and kept["prompts"] == prompts):
            return
        is_reference = self._reference.is_model(model)
        if worker is None and is_reference:
            worker = self._reference.worker()
        with self._judging.opened(model, worker) as opened:
            found = write(opened, self._prompts, self._seed)
        if self._given is not None and is_reference:
            _refuse_failed(found)
        rows = [answer.as_dict() for answer in found]
        self._run.save_written(model.fingerprint, {"prompts": prompts, "answers": rows})


def _refuse_failed(found: Sequence[Written]) -> None:
    for number, answer in enumerate(found, 1):
        if answer.failure:
            raise BadData(f"the reference cannot answer prompt {number}: {answer.failure}")
