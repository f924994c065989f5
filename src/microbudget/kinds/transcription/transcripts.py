"""Transcripts: normalizers, alignment with the reference text, word errors, and which texts are hallucinated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ...errors import InvalidOption, MissingExtra

Normalizer = Callable[[str], str]
NORMALIZERS = ("basic", "english", "none")
LOOP_WORDS, LOOP_TIMES = 8, 4  # a phrase of up to 8 words that occurs 4 times in a row is a loop
SURPLUS_WORDS, SURPLUS_SHARE = 3, 0.5  # extra words of a hallucination: at least, and as a share of the reference


@dataclass(frozen=True)
class Errors:
    """How a transcript differs from the reference text: counts of words and of characters."""

    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int
    characters: int  # of the reference
    character_errors: int
    empty: bool  # nothing was written where something was said
    hallucinated: bool

    @property
    def word_errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Step:
    """One step of an alignment, with the words on both sides; a side is empty for an insertion or a deletion."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    said: tuple[str, ...]
    written: tuple[str, ...]


def normalizer(name: str) -> Normalizer:
    """The text normalizer of a name. Raises InvalidOption.

    basic: Whisper's for all languages: lower case, no punctuation, nothing in brackets. english: Whisper's for English,
    which also writes numbers as digits ("three four seven" is "347") and needs transformers. none: only spaces.
    """
    if name == "basic":
        return basic
    if name == "none":
        return lambda text: " ".join(text.split())
    if name == "english":
        return _english()
    raise InvalidOption(f"normalizer must be one of {', '.join(NORMALIZERS)}, not {name!r}")


def basic(text: str) -> str:
    """Lower case, nothing in brackets, no marks, symbols and punctuation. Radford et al. 2022, C."""
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = unicodedata.normalize("NFKC", re.sub(r"\([^)]+?\)", "", text))
    kept = "".join(" " if unicodedata.category(letter)[0] in "MSP" else letter for letter in text)
    return " ".join(kept.lower().split())


@cache
def _english() -> Normalizer:
    try:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError as error:
        raise MissingExtra(
            "the english normalizer is that of transformers: pip install 'microbudget[train]'"
        ) from error
    clean = EnglishTextNormalizer({})  # British and American spelling stay different: the table belongs to the model
    return lambda text: " ".join(str(clean(text)).split())


def count(said: str, written: str) -> Errors:
    """The errors of one transcript against the reference text, both normalized."""
    jiwer = _jiwer()
    words, found = said.split(), written.split()
    if words:
        by_word = jiwer.process_words(said, written)
        substitutions, deletions, insertions = by_word.substitutions, by_word.deletions, by_word.insertions
        by_letter = jiwer.process_characters(said, written)
        letters = by_letter.substitutions + by_letter.deletions + by_letter.insertions
    else:
        substitutions, deletions, insertions, letters = 0, 0, len(found), len(written)
    return Errors(
        words=len(words),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        characters=len(said),
        character_errors=letters,
        empty=bool(words) and not found,
        hallucinated=is_hallucinated(words, found),
    )


def is_hallucinated(said: Sequence[str], written: Sequence[str]) -> bool:
    """Whether a transcript is hallucinated: it has far more words than the reference, or it repeats a phrase.

    Far more: at least 3 words, and half as many as the reference has. Repeats: up to 8 words 4 times in a row, where
    the reference does not do so.
    """
    surplus = len(written) - len(said)
    if surplus >= SURPLUS_WORDS and surplus > SURPLUS_SHARE * len(said):
        return True
    return _loops(written) and not _loops(said)


def _loops(words: Sequence[str]) -> bool:
    for size in range(1, LOOP_WORDS + 1):
        run = 0  # words that equal those `size` before
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            if run >= size * (LOOP_TIMES - 1):
                return True
    return False


def align(said: str, written: str) -> tuple[Step, ...]:
    """Both texts word by word, with the fewest changes from one to the other."""
    words, found = said.split(), written.split()
    if not words:
        return (Step("insert", (), tuple(found)),) if found else ()
    chunks = _jiwer().process_words(" ".join(words), " ".join(found)).alignments[0]
    return tuple(
        Step(
            chunk.type,
            tuple(words[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(found[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in chunks
    )


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtra("word error rates need jiwer: pip install 'microbudget[speech]'") from error
    return jiwer
