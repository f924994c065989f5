"""Compare the tokens of a converted tokenizer in llama.cpp with those of the original, before any weight is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedModel
from .convert import Conversion, with_pre
from .pretokenizer import CANDIDATES
from .vocabulary import NORMAL, Vocabulary
from .write import Layout

if TYPE_CHECKING:
    from .llama.network import Network

# Contractions, digits, spaces, code, other scripts, emoji: whatever pre-tokenizers cut in different places.
PROBES = (
    "It's 12,345.678 o'clock; they'LL say we've DON'T know… x=1;y+=2 // note\n\n\n\tif a  ==   b:\r\n    return 007\n",
    "Größe, naïve façade; привет мир!! 你好，世界。 こんにちは 한국어 مرحبا हिन्दी ελληνικά",
    "🙂🚀 (a+b)**2 != {'k': [1, 2]} <b>tag</b> https://x.org/a?b=c&d=%20#e CamelCaseWORDSand_snake  end  ",
)


SHOWN = 40  # characters and pieces of an example
OWN_TOKENS = 2000  # of the vocabulary, put together to one more text


@dataclass(frozen=True)
class TokenCheck:
    """The result. checked: False when the original's tokenizer could not be run here."""

    checked: bool
    same: bool
    pre: str | None
    example: str | None = None  # the first text that was tokenized differently


def settle(conversion: Conversion) -> tuple[Conversion, TokenCheck]:
    """The conversion with a pre-tokenizer under which llama.cpp cuts text as the original does.

    The one that the structure of tokenizer.json names is tried first, then all others. Raises UnsupportedModel when
    none agrees; SentencePiece has only one way, whose differences are reported instead.
    """
    vocabulary = conversion.vocabulary
    original = _original(conversion.folder)
    if original is None:
        return _unchecked(conversion)
    probes = (*PROBES, _from_vocabulary(original, vocabulary))
    expected = {text: original.encode(text, add_special_tokens=False).ids for text in probes}
    if vocabulary.model != "gpt2":
        different = _first_difference(conversion, expected)
        return conversion, TokenCheck(True, different is None, vocabulary.pre, different)
    tried = _in_order(vocabulary.pre)
    differences = {}
    for pre in tried:
        candidate = with_pre(conversion, pre)
        different = _first_difference(candidate, expected)
        if different is None:
            return candidate, TokenCheck(True, True, pre)
        differences[pre] = different
    closest = max(tried, key=lambda pre: probes.index(differences[pre]))
    word, own, other = _smallest_difference(with_pre(conversion, closest), original, differences[closest])
    raise UnsupportedModel(
        f"{conversion.folder}: no pre-tokenizer of llama.cpp cuts text as this tokenizer does: {word!r} is {own} here,"
        f" and {other} with {closest!r}, the closest. A GGUF would read other tokens than the model was trained on;"
        f" tried {', '.join(tried)}"
    )


def _smallest_difference(conversion: Conversion, original: Any, text: str) -> tuple[str, list[str], list[str]]:
    """A short part of a text that is cut in another way, and the pieces here and in llama.cpp."""

    def pieces(tokens: list[int]) -> list[str]:
        return [original.decode([token]) for token in tokens]

    words = text.split()
    pairs = (" ".join(pair) for pair in pairwise(words))
    parts = dict.fromkeys((*words, *(f" {word}" for word in words), *pairs))
    with _opened(conversion) as network:
        for part in (*parts, text):
            own = original.encode(part, add_special_tokens=False).ids
            other = network.vocabulary.encode(part, special=True)
            if own != other:
                return part[:SHOWN], pieces(own)[:SHOWN], pieces(other)[:SHOWN]
    return text[:SHOWN], [], []


def _unchecked(conversion: Conversion) -> tuple[Conversion, TokenCheck]:
    if conversion.vocabulary.pre is None:
        raise UnsupportedModel(
            f"{conversion.folder}: the way in which its tokenizer cuts text is not known by its structure, and to try"
            " those of llama.cpp needs tokenizer.json and the tokenizers package: pip install 'microbudget[train]'"
        )
    return conversion, TokenCheck(False, False, conversion.vocabulary.pre)


def _in_order(pre: str | None) -> tuple[str, ...]:
    return (*((pre,) if pre else ()), *(name for name in CANDIDATES if name != pre))


def _original(folder: Path) -> Any:
    """The original's tokenizer in the `tokenizers` library; None when either is missing."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        import tokenizers
    except ImportError:
        return None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class
        raise UnsupportedModel(f"{path} cannot be opened: {error}") from error


def _from_vocabulary(original: Any, vocabulary: Vocabulary) -> str:
    """A text of the tokenizer's own tokens, evenly over all of them: short texts use few of the merges."""
    normal = [index for index, token_type in enumerate(vocabulary.types) if token_type == NORMAL]
    pieces = (original.decode([index]) for index in normal[:: max(1, len(normal) // OWN_TOKENS)])
    return "x" + " ".join(piece for piece in pieces if _plain(piece))


def _plain(piece: str) -> bool:
    """No part of a character, and composed: llama.cpp does not normalize text as some tokenizers do."""
    return "\ufffd" not in piece and piece == unicodedata.normalize("NFC", piece)


def _first_difference(conversion: Conversion, expected: Mapping[str, list[int]]) -> str | None:
    """The first probe whose tokens in llama.cpp are others; None when all agree."""
    with _opened(conversion) as network:
        for text, tokens in expected.items():
            if network.vocabulary.encode(text, special=True) != tokens:
                return text
    return None


@contextmanager
def _opened(conversion: Conversion) -> Iterator[Network]:
    """The tokenizer alone, in llama.cpp."""
    from .llama.network import Network

    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(Layout(conversion.layout.entries, ()).header)
        network = Network(path, vocabulary_only=True)
        try:
            yield network
        finally:
            network.close()
