"""What texts need of a vocabulary: the tokens of their words, as written and in other spellings of case and space."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_WORD = re.compile(r"\s*\S+|\s+")

# Runtimes of Whisper derive from these which tokens they suppress (the first token where a text takes several): were
# the dash with its space in two pieces, the space would be suppressed, and no rare word could be written.
NON_SPEECH = (" -", " '", *(space + note for space in ("", " ") for note in "♩♪♫♬♭♮♯"))


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, with the white space before it."""
    return Counter(word for text in texts for word in _WORD.findall(text))


def covered(words: Counter[str], coverage: float) -> list[str]:
    """The fewest words that make up this fraction of all occurrences: the most frequent first."""
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    wanted, reached, chosen = coverage * words.total(), 0, []
    for word, count in ranked:
        if reached >= wanted:
            break
        chosen.append(word)
        reached += count
    return chosen


def variants(word: str) -> set[str]:
    """The word as it is, with and without a space before it, in lower case, with a capital, and in capitals."""
    bare = word.strip()
    forms = {bare, bare.lower(), bare.capitalize(), bare[:1].upper() + bare[1:], bare.upper()}
    return {word, *forms, *(f" {form}" for form in forms)}


def needed(words: Iterable[str], encode: Callable[[str], list[str]]) -> set[str]:
    """The tokens of all variants of these words. encode: the tokens of a text."""
    return {token for word in words for form in variants(word) for token in encode(form)}
