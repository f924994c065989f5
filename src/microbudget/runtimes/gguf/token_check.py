"""Compare the tokens of a converted tokenizer in llama.cpp with those of the original, before any weight is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...errors import UnsupportedModel
from .convert import Conversion, with_pre
from .pretokenizer import CANDIDATES
from .vocabulary import NORMAL, Vocabulary
from .write import Layout

# Contractions, digits, spaces, code, other scripts, emoji: whatever pre-tokenizers cut in different places.
PROBES = (
    "It's 12,345.678 o'clock; they'LL say we've DON'T know… x=1;y+=2 // note\n\n\n\tif a  ==   b:\r\n    return 007\n",
    "Größe, naïve façade; привет мир!! 你好，世界。 こんにちは 한국어 مرحبا हिन्दी ελληνικά",
    "🙂🚀 (a+b)**2 != {'k': [1, 2]} <b>tag</b> https://x.org/a?b=c&d=%20#e CamelCaseWORDSand_snake  end  ",
)


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
    for pre in _in_order(vocabulary.pre):
        candidate = with_pre(conversion, pre)
        if _first_difference(candidate, expected) is None:
            return candidate, TokenCheck(True, True, pre)
    raise UnsupportedModel(
        f"{conversion.folder}: no pre-tokenizer of llama.cpp cuts text as this tokenizer does; tried"
        f" {', '.join(_in_order(vocabulary.pre))}"
    )


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
    from .llama.network import Network

    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(Layout(conversion.layout.entries, ()).header)
        network = Network(path, vocabulary_only=True)
        try:
            for text, tokens in expected.items():
                if network.vocabulary.encode(text, special=True) != tokens:
                    return text
        finally:
            network.close()
    return None
