"""Prompts: what language models are asked to write, so that their answers can be read side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BadData
from .chats import ChatTask

if TYPE_CHECKING:
    from .text import TextTask

# For a model that answers: to know, to explain, to count, to write a program, each checked at a glance.
QUESTIONS = (
    "I have one day in Florence, Italy. Which sights should I see, and why?",
    "Why is the sky blue in the day and red in the evening? Explain it to a child in three sentences.",
    "A bakery sells 3 rolls for 2 euros. What do 12 rolls cost? Show the steps.",
    "Write a Python function that returns the median of a list of numbers.",
)
CONTINUED = 4  # beginnings of held-out text, for a model that only goes on with a text
BEGINNING = 240  # bytes of each
TOKENS = 64  # of an answer, unless the file says otherwise
LARGEST_FILE, MOST = 1 << 20, 64  # bytes and prompts of a file
SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class Prompt:
    """A text to go on with, or where `chat` is set a question that is put through the model's chat template."""

    text: str
    chat: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: a line each in `.txt`, a JSON text or {"prompt": text} each in `.jsonl`.

    Raises BadData for a file that is no such text, holds none or more than MOST.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadData(f"{path}: prompts are read from a .txt file, one a line, or from a .jsonl file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadData(f"{path} has {path.stat().st_size:,} bytes: a file of prompts has {LARGEST_FILE:,} at most")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadData(f"there are no prompts at {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is no UTF-8 text (byte {error.start})") from error
    if any("\0" in line for line in lines):
        raise BadData(f"{path} is binary: give a text with a prompt a line")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    as_json = path.suffix.lower() == ".jsonl"
    found = tuple(_parsed(path, number, line) if as_json else line for number, line in numbered)
    if not 0 < len(found) <= MOST:
        raise BadData(f"{path} holds {len(found)} prompts: give 1 to {MOST}")
    return found


def _parsed(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadData(f"{path}, line {number}: no JSON ({error})") from error
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise BadData(f'{path}, line {number}: a line is a text, "...", or {{"prompt": "..."}}')
    return text


def choose(given: Sequence[str] | None, answers: bool, task: TextTask | ChatTask) -> tuple[Prompt, ...]:
    """The given prompts, or the default ones: questions where the model answers, else beginnings of held-out text.

    Of conversations the questions are what held-out users ask first.
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
