"""Prompt: a text as a question to a language model, whose answer is one of several words.

    Review: {text}
    Sentiment: {label}

A template has one `{text}`, or of pairs `{text_1}` and `{text_2}`, and ends with `{label}`. Examples that are labelled
may stand before it (few-shot, Brown et al. 2020, arXiv:2005.14165).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...errors import InvalidOption
from .encoding import PROMPT, Texts

if TYPE_CHECKING:
    from ...model import Model

SINGLE, PAIR = "Text: {text}\nLabel: {label}", "Text 1: {text_1}\nText 2: {text_2}\nLabel: {label}"
LABEL = "label"
CONTENT_FREE = ("N/A", "[MASK]", "")  # Zhao et al. 2021, section 5
BETWEEN = "\n\n"  # of two examples
_PLACE = re.compile(r"\{(text|text_1|text_2|label)\}")
_PARTS = {1: ("text",), 2: ("text_1", "text_2")}


@dataclass(frozen=True)
class Prompt:
    """What a language model reads before the label of a text.

    words: what stands for each label, in the labels' order. before: the labelled examples, as they are read.
    calibrated: whether an answer's probability is divided by that after a text without content.
    """

    template: str
    words: tuple[str, ...]
    before: str = ""
    calibrated: bool = True

    @classmethod
    def of(
        cls,
        template: str,
        words: Sequence[str],
        examples: Sequence[tuple[Texts, int]] = (),
        *,
        calibrated: bool = True,
        parts: int = 1,
    ) -> Prompt:
        r"""A prompt with labelled examples: texts and the place of their label.

        template: of texts of so many parts; empty: the usual one; `\n` in it is a new line. Raises InvalidOption for
        one without its placeholders.
        """
        chosen = _checked(template.replace("\\n", "\n"), parts)
        alone = cls(chosen, tuple(words), "", calibrated)
        before = "".join(alone.context(texts) + words[place] + BETWEEN for texts, place in examples)
        return cls(chosen, tuple(words), before, calibrated)

    def context(self, texts: Texts) -> str:
        """All up to the label."""
        names = dict(zip(_PARTS[len(texts)], texts, strict=True))
        pieces = _PLACE.split(self.template.removesuffix(f"{{{LABEL}}}"))
        filled = (names[piece] if number % 2 else piece for number, piece in enumerate(pieces))
        return self.before + "".join(filled)

    @property
    def parts(self) -> int:
        """1, or of pairs of texts 2."""
        return 1 if "{text}" in self.template else 2

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, as a record keeps it."""
        return {**asdict(self), "words": list(self.words)}

    @classmethod
    def read(cls, kept: dict[str, Any]) -> Prompt:
        """From a record."""
        return cls(**{**kept, "words": tuple(kept["words"])})


def _checked(template: str, parts: int) -> str:
    """The template, ending in its label. Raises InvalidOption."""
    if not template:
        return SINGLE if parts == 1 else PAIR
    found = _PLACE.findall(template)
    wanted = _PARTS[parts]
    for name in wanted:
        if found.count(name) != 1:
            times = "has no" if name not in found else f"has {found.count(name)} times"
            why = "the place of the text" if parts == 1 else "a place for each text of a pair"
            raise InvalidOption(f"prompt: the template {template!r} {times} {{{name}}}: it needs one, {why}")
    foreign = [name for name in found if name not in (*wanted, LABEL)]
    if foreign:
        what = "single texts" if parts == 1 else "pairs of texts"
        raise InvalidOption(f"prompt: the template {template!r} has {{{foreign[0]}}}, and the data are {what}")
    if LABEL not in found:
        return template + ("" if template[-1].isspace() else " ") + f"{{{LABEL}}}"
    if found.count(LABEL) > 1 or not template.rstrip().endswith(f"{{{LABEL}}}"):
        raise InvalidOption(
            f"prompt: the template {template!r} must end with its one {{{LABEL}}}: what comes after a label is not read"
        )
    return template.rstrip()


def is_prompted(model: Model) -> bool:
    """Whether a model is a language model that classifies by a prompt."""
    return PROMPT in (model.record.preprocessing or {})
