"""Answers of an open language model to prompts, with the same noise for every model and the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import BrokenModel, InvalidOption, UnsupportedModel, WorkerFailed
from ...judge.worker import Worker
from .prompts import TOKENS, Prompt

TEMPERATURE = 0.7  # the usual one; at 0 small models repeat themselves
SHARE = 4  # an answer takes at most a quarter of the context: the rest is for the prompt


@dataclass(frozen=True)
class Written:
    """One answer, or why there is none."""

    text: str = ""
    tokens: int = 0
    ended: bool = False  # the model ended the answer; False: it was stopped at the limit
    failure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def answers_questions(worker: Worker) -> bool:
    """Whether the open model has a chat template: it was trained to answer in a conversation."""
    return bool(worker.ask("call", method="about", arguments={})["chats"])


def write(worker: Worker, prompts: Sequence[Prompt], seed: int) -> list[Written]:
    """An answer to each prompt. One that fails does not hide the others; after a crash there are no more."""
    context = int(worker.ask("call", method="about", arguments={})["trained_context_tokens"])
    tokens = max(1, min(TOKENS, context // SHARE))
    found: list[Written] = []
    for prompt in prompts:
        try:
            found.append(_answer(worker, prompt, tokens, seed))
        except (UnsupportedModel, InvalidOption, BrokenModel) as error:
            found.append(Written(failure=str(error)))
        except WorkerFailed as error:
            return found + [Written(failure=str(error))] * (len(prompts) - len(found))
    return found


def _answer(worker: Worker, prompt: Prompt, tokens: int, seed: int) -> Written:
    options: dict[str, Any] = {"tokens": tokens, "temperature": TEMPERATURE, "seed": seed}
    if prompt.chat:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt.text}]}
        answer = worker.ask("call", method="chat", arguments={**asked, **options})
    else:
        answer = worker.ask("call", method="generate", arguments={"prompt": prompt.text, **options})
    return Written(answer.text, len(answer.tokens), answer.ended)
