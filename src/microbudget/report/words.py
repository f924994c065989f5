"""Words: where a text differs from another one, word by word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher

_PARTS = re.compile(r"\s+|\S+")
_MARKS = re.compile(r"[^\w']+")


@dataclass(frozen=True)
class Piece:
    """A part of a text whose words are all the other's, or all differ from it."""

    text: str
    differs: bool


def as_spoken(word: str) -> str:
    """Without what cannot be heard: case and punctuation."""
    return _MARKS.sub("", word).casefold()


def compare(reference: str, text: str, alike: Callable[[str], str] = str) -> tuple[tuple[Piece, ...], float]:
    """The text in pieces, those that differ separate from the others; and the share of common words.

    alike: of a word, what has to be equal.
    """
    parts = _PARTS.findall(text)
    words = [place for place, part in enumerate(parts) if not part.isspace()]
    both = [alike(word) for word in reference.split()], [alike(parts[place]) for place in words]
    matcher = SequenceMatcher(None, *both, autojunk=False)
    common = {words[block.b + step] for block in matcher.get_matching_blocks() for step in range(block.size)}
    pieces: list[Piece] = []
    for place, part in enumerate(parts):
        differs = not part.isspace() and place not in common
        if part.isspace():  # marked as well between two words that differ
            differs = 0 < place < len(parts) - 1 and place - 1 not in common and place + 1 not in common
        if pieces and pieces[-1].differs == differs:
            pieces[-1] = Piece(pieces[-1].text + part, differs)
        else:
            pieces.append(Piece(part, differs))
    return tuple(pieces), len(common) / max(1, len(words))
