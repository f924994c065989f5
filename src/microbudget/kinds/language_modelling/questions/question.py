"""Question: one line of a questions file, and whether an answer to it is right.

`{"question": ..., "choices": [...], "answer": ...}`: the choice that the model finds most likely after the question,
by nats per byte; `answer` is its place from 0, or the choice itself. After an empty question choices are sentences.
`{"prompt": ..., "answer": ...}`: the text that the model writes after the prompt begins with the answer.
`{"prompt": ..., "regex": ...}`: the reply matches the regular expression (`re.search`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ....errors import BadData

WANTED = (
    '{"question": ..., "choices": [...], "answer": 0} or {"prompt": ..., "answer": "..."} or'
    ' {"prompt": ..., "regex": "..."}'
)
TOKENS = 64  # of a reply that a regular expression is searched in
MOST_TOKENS = 1024


@dataclass(frozen=True)
class Question:
    """A question with choices, of which `answer` is the right one; or one without, which is answered in text.

    text: what is asked. expected: the answer that the model's text begins with; else pattern: what is searched in it.
    chat: whether it is asked through the model's chat template, where it has one. tokens: of a reply, at most.
    """

    text: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    expected: str | None = None
    pattern: str | None = None
    chat: bool = False
    tokens: int = TOKENS

    @property
    def content(self) -> str:
        """What makes it another question, as JSON."""
        return json.dumps([self.text, self.choices, self.answer, self.expected, self.pattern, self.chat, self.tokens])

    @property
    def asked(self) -> str:
        """What makes two rows ask the same, whatever the answer; the order of choices does not matter."""
        return json.dumps([self.text, sorted(self.choices)])

    @property
    def right(self) -> str:
        """The right answer, to be read."""
        if self.answer is not None:
            return self.choices[self.answer]
        return self.expected if self.expected is not None else f"/{self.pattern}/"

    @property
    def chance(self) -> float:
        """The share of guesses that are right; 0 without choices."""
        return 1 / len(self.choices) if self.choices else 0.0

    @property
    def whole(self) -> str:
        """The question with the right answer, as a text to learn or calibrate from."""
        return self.text + self._continuation(self.right) if self.pattern is None else self.text

    def to_ask(self) -> dict[str, Any]:
        """As `runtimes.language.questions` takes it."""
        if self.choices:
            return {"context": self.text, "continuations": [self._continuation(choice) for choice in self.choices]}
        return {"prompt": self.text, "answer": self.expected, "tokens": self.tokens, "chat": self.chat}

    def _continuation(self, text: str) -> str:
        return text if not self.text or self.text[-1].isspace() else f" {text}"

    def is_right(self, written: str) -> bool:
        """Whether a text that a model wrote is the answer: it begins with it, and does not go on with the same word."""
        if self.pattern is not None:
            return re.search(self.pattern, written) is not None
        text, expected = written.strip(), (self.expected or "").strip()
        rest = text[len(expected) :]
        return text.startswith(expected) and not (expected[-1:].isalnum() and rest[:1].isalnum())


def parse(line: str, where: str) -> Question:
    """A line of a questions file. where: the file and the line's number, for errors. Raises BadData."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where} is no JSON ({error}): give one question a line, {WANTED}") from error
    if not isinstance(row, dict):
        raise BadData(f"{where} is no question but {type(row).__name__}: give one a line, {WANTED}")
    if "choices" in row:
        return _with_choices(row, where)
    if "prompt" in row:
        return _with_prompt(row, where)
    has = ", ".join(map(repr, list(row)[:6])) or "nothing"
    raise BadData(f"{where} is no question: it has {has}, and neither choices nor a prompt; give {WANTED}")


def _with_choices(row: dict[str, Any], where: str) -> Question:
    if "question" not in row:
        raise BadData(f'{where} has choices and no question: give {WANTED}; "question": "" asks for whole sentences')
    text, given = row["question"], row["choices"]
    if not isinstance(text, str):
        raise BadData(f"{where} has a question that is no text but {text!r}: give it in quotation marks")
    if not isinstance(given, list) or len(given) < 2:
        raise BadData(f"{where} has choices {given!r}: give a list of at least two")
    for choice in given:
        if not isinstance(choice, str) or not choice.strip():
            raise BadData(f"{where} has the choice {choice!r}: each must be a text that is not empty")
    doubled = sorted({choice for choice in given if given.count(choice) > 1})
    if doubled:
        raise BadData(f"{where} has the choice {doubled[0]!r} twice: which is right could not be told")
    return Question(_text(text, where), tuple(given), _place(row, given, where))


def _place(row: dict[str, Any], choices: list[str], where: str) -> int:
    """The place of the right choice, from a number or the choice itself."""
    if "answer" not in row:
        raise BadData(f"{where} has no answer: give the place of the right choice from 0, or the choice itself")
    answer = row["answer"]
    if isinstance(answer, str):
        if answer not in choices:
            listed = ", ".join(map(repr, choices))
            raise BadData(f"{where} has the answer {answer!r}, which is not among the choices {listed}")
        return choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise BadData(f"{where} has the answer {answer!r}: give the place of the right choice from 0, or the choice")
    if not 0 <= answer < len(choices):
        raise BadData(
            f"{where} has the answer {answer}, which is out of range: {len(choices)} choices have the places 0 to"
            f" {len(choices) - 1}"
        )
    return answer


def _with_prompt(row: dict[str, Any], where: str) -> Question:
    text, exact = row["prompt"], "answer" in row
    if not isinstance(text, str) or not text.strip():
        raise BadData(f"{where} has the prompt {text!r}: give a text")
    if exact == ("regex" in row):
        raise BadData(f"{where} has {'both an answer and' if exact else 'neither an answer nor'} a regex: give one")
    chat, tokens = row.get("chat", not exact), row.get("tokens", TOKENS)
    if not isinstance(chat, bool):
        raise BadData(f"{where} has chat {chat!r}: give true or false")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 < tokens <= MOST_TOKENS:
        raise BadData(f"{where} has tokens {tokens!r}: give a number from 1 to {MOST_TOKENS}")
    name = "answer" if exact else "regex"
    answer = row[name]
    if not isinstance(answer, str) or not answer.strip():
        raise BadData(f"{where} has the {name} {answer!r}: give a text, in quotation marks")
    if exact:
        return Question(_text(text, where), expected=_text(answer, where), chat=chat, tokens=tokens)
    try:
        re.compile(answer)
    except re.error as error:
        raise BadData(f"{where} has the regex {answer!r}, which is no regular expression ({error})") from error
    return Question(_text(text, where), pattern=answer, chat=chat, tokens=tokens)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadData(f"{where} holds half of a surrogate pair, which is no character: {error.reason}") from error
    return text
