"""Prompts of one's own on the page of `try`: what each model writes, as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import BadData
from ...judge.worker import Worker
from ...model import Model
from ...trying.asking import Answer, Medium
from ...trying.keeping import keep_line
from .writing import SHARE

LONGEST = 20_000  # characters; what does not fit into a model's context is refused by the model
TOKENS = 256  # of an answer, at most
AT_ONCE = 6  # tokens between two looks
MEDIUM = Medium("prompt", "text", "right answer", LONGEST, writes=True, placeholder="What do you want to ask?")


def check(given: str) -> None:
    """Raise BadData for a prompt that is too long."""
    if len(given) > LONGEST:
        raise BadData(f"the prompt has {len(given):,} characters; at most {LONGEST:,} are taken")


def answers(worker: Worker, model: Model, given: str) -> Iterator[Answer]:
    """What the model writes, the most likely token at each place, through its chat template where it has one."""
    del model
    about = worker.ask("call", method="about", arguments={})
    most = max(1, min(TOKENS, int(about["trained_context_tokens"]) // SHARE))
    prompt: Any = [{"role": "user", "content": given}] if about["chats"] else given
    worker.ask("call", method="begin", arguments={"prompt": prompt, "tokens": most})
    before, ended = -1, False
    while not ended:
        written = worker.ask("call", method="go_on", arguments={"tokens": AT_ONCE})
        ended = written.ended or len(written.tokens) in (before, most)
        before = len(written.tokens)
        rate = written.tokens_per_s
        yield Answer(
            text=written.text,
            seconds=written.prefill_s + written.decode_s,
            going=not ended,
            speed="" if rate is None else f"{rate:.0f} tokens/s, {before} tokens",
        )


def keep(folder: Path, given: str, right: str) -> Path:
    """A conversation of the prompt and the right answer. Raises BadData without one."""
    if not right.strip():
        raise BadData("write the right answer first")
    roles = (("user", given), ("assistant", right.strip()))
    return keep_line(folder / "prompts.jsonl", {"messages": [{"role": r, "content": text} for r, text in roles]})
