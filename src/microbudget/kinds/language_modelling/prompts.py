"""Prompts for language models, whose answers are read side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.metadata import lines
from ...errors import BadData
from .chats import ChatTask

if TYPE_CHECKING:
    from .questions.task import QuestionTask
    from .text import TextTask

# For a model with a chat template: knowledge, explanation, arithmetic, a program; each answer is checked at a glance.
QUESTIONS = (
    "I have one day in Florence, Italy. Which sights should I see, and why?",
    "Why is the sky blue in the day and red in the evening? Explain it to a child in three sentences.",
    "A bakery sells 3 rolls for 2 euros. What do 12 rolls cost? Show the steps.",
    "Write a Python function that returns the median of a list of numbers.",
)
CONTINUED = 4  # beginnings of held-out texts, for a model that only continues a text
BEGINNING = 240  # bytes of each
TOKENS = 64  # of an answer, unless the file says otherwise
LARGEST_FILE, MOST = 1 << 20, 64  # bytes and prompts of a file
SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class Prompt:
    """A text to continue; where `chat` is set, a question for the model's chat template."""

    text: str
    chat: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: one a line in `.txt`, a JSON text or {"prompt": text} a line in `.jsonl`.

    Raises BadData for another file, and for one with no prompt or more than MOST.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadData(f"{path}: prompts are read from a .txt file, one a line, or from a .jsonl file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadData(f"{path} has {path.stat().st_size:,} bytes: a file of prompts has at most {LARGEST_FILE:,}")
        numbered = list(lines(path))
    except OSError as error:
        raise BadData(f"there are no prompts at {path}: {error.strerror}") from error
    if any("\0" in line for _, line in numbered):
        raise BadData(f"{path} is binary: give a text file with one prompt a line")
    as_json = path.suffix.lower() == ".jsonl"
    found = tuple(_parsed(path, number, line) if as_json else line for number, line in numbered)
    if not 0 < len(found) <= MOST:
        raise BadData(f"{path} holds {len(found)} prompts: give 1 to {MOST}")
    return found


def _parsed(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path}, line {number} is no JSON ({error})") from error
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise BadData(f'{path}, line {number} has no text: give "..." or {{"prompt": "..."}}')
    return text


def choose(given: Sequence[str] | None, answers: bool, task: TextTask | ChatTask | QuestionTask) -> tuple[Prompt, ...]:
    """The given prompts, or the default ones: questions for a model that answers, else beginnings of held-out texts.

    With conversations, the questions are the first ones of held-out users.
    """
    if given:
        return tuple(Prompt(text, answers) for text in given)
    examples = task.examples("validation")
    count = min(CONTINUED, len(examples))
    chosen = [examples[(2 * place + 1) * len(examples) // (2 * count)] for place in range(count)]
    if answers:
        asked = [task.question(example) for example in chosen] if isinstance(task, ChatTask) else []
        return tuple(Prompt(text, True) for text in (dict.fromkeys(filter(None, asked)) or QUESTIONS))
    return tuple(Prompt(_beginning(task.text(example)), False) for example in chosen)


def _beginning(text: str) -> str:
    """About BEGINNING bytes of a text, up to the end of a line or else of a word, without spaces at the end."""
    part = text.encode()[:BEGINNING].decode("utf-8", "ignore")
    for mark in ("\n", " "):
        cut = part.rfind(mark)
        if cut > len(part) // 2:
            return part[:cut].rstrip() or part
    return part
