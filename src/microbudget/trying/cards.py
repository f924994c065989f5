"""Cards: the answers to one input side by side, as a part of the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

from ..report.words import Piece, compare
from ..units import format_seconds
from .asking import Answer

LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class Card:
    """What the page shows of one model. answer: None while it waits; pieces: its words against the first model's."""

    title: str
    answer: Answer | None
    pieces: tuple[Piece, ...] = ()
    differs: bool = False

    @property
    def picture(self) -> str:
        """The picture as a data URI."""
        data = self.answer.picture if self.answer else b""
        return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else ""

    @property
    def time(self) -> str:
        """The model's own time, and its speed."""
        if self.answer is None or not self.answer.seconds:
            return ""
        return ", ".join(filter(None, (format_seconds(self.answer.seconds), self.answer.speed)))


def html_of(
    names: Sequence[str], answers: Sequence[Answer], blind: bool = False, alike: Callable[[str], str] = str
) -> str:
    """The cards of these models, of which the first ones have answered. alike: see `words.compare`."""
    cards = []
    for place, name in enumerate(names):
        title = (LEFT, RIGHT)[place] if blind else name
        answer = answers[place] if place < len(answers) else None
        cards.append(_card(title, answer, answers[0] if place else None, alike))
    return str(_template().render(cards=cards, blind=blind, summary=_summary(answers, len(names), alike)))


def _card(title: str, answer: Answer | None, first: Answer | None, alike: Callable[[str], str]) -> Card:
    if answer is None or first is None or answer.failure or first.failure:
        return Card(title, answer)
    if answer.labels and first.labels:
        return Card(title, answer, differs=answer.short != first.short)
    return Card(title, answer, compare(first.text, answer.text, alike)[0])


def _summary(answers: Sequence[Answer], count: int, alike: Callable[[str], str]) -> str:
    """Whether they agree, when all have answered."""
    if count < 2 or len(answers) < count or any(answer.failure or answer.going for answer in answers):
        return ""
    if answers[0].labels:
        same = len({answer.short for answer in answers}) == 1
        return "The same answer." if same else "Different answers."
    texts = [answer.text for answer in answers]
    wrong = [1 - min(compare(texts[0], text, alike)[1], compare(text, texts[0], alike)[1]) for text in texts[1:]]
    return "The same words." if max(wrong) == 0 else "The words that differ from the first answer are marked."


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("microbudget.trying", "."), autoescape=True).get_template(
        "cards.html.jinja"
    )


def problem(text: str, style: str = "failure") -> str:
    """A line of text as a part of the page."""
    role = "alert" if style == "failure" else "status"
    return f'<p class="line {style}" role="{role}">{escape(text)}</p>' if text else ""
