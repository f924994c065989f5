"""Vocabularies as structures: which tokens a token is made of, and which of them write any text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from ...errors import UnsupportedModel

Pair = tuple[str, str]


def byte_symbols() -> tuple[str, ...]:
    """The characters with which byte-level BPE writes the bytes 0 to 255 (Radford et al. 2019, section 2.2).

    Printable bytes of Latin-1 stand for themselves, the others for the characters from 256 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


FALLBACK = tuple(f"<0x{byte:02X}>" for byte in range(256))  # how SentencePiece writes a byte


class Pieces:
    """The BPE of a `tokenizer.json`."""

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        """Raises UnsupportedModel for another kind of tokenizer."""
        model = tokenizer.get("model") or {}
        if model.get("type", "BPE") != "BPE" or "merges" not in model:
            raise UnsupportedModel(
                f"trim takes a tokenizer of type BPE, WordPiece or Unigram, not {model.get('type')!r}"
            )
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UnsupportedModel("trim does not take a BPE with a prefix or suffix of subwords")
        self.vocabulary: dict[str, int] = model["vocab"]
        self.merges: list[Pair] = [_pair(merge) for merge in model["merges"]]
        self.falls_back = bool(model.get("byte_fallback"))
        self.byte_level = "ByteLevel" in set(_types(tokenizer.get("decoder")))

    @cached_property
    def ranks(self) -> dict[Pair, int]:
        """The order in which pairs are merged."""
        return {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}

    def alphabet(self) -> set[str]:
        """The tokens that write any text byte by byte. Raises UnsupportedModel when the tokenizer has none."""
        if not self.byte_level and not self.falls_back:
            raise UnsupportedModel(
                "the tokenizer neither is byte-level nor falls back to bytes: trimmed, it could not write every text"
            )
        return {symbol for symbol in (byte_symbols() if self.byte_level else FALLBACK) if symbol in self.vocabulary}

    def frequent(self) -> Iterator[str]:
        """Tokens in the order in which they were merged: the most frequent of the tokenizer's own texts first."""
        for left, right in self.merges:
            yield left + right

    def closed(self, tokens: Iterable[str]) -> set[str]:
        """The tokens and all that they are built of.

        A token is merged within itself as it is anywhere, so a text whose tokens all stay is cut as before.
        """
        found: set[str] = set()
        for token in tokens:
            found.add(token)
            found.update(part for part in self._steps(token) if part in self.vocabulary)
        return found

    def _steps(self, token: str) -> Iterator[str]:
        """The characters of a token, and what is merged of them on the way to it."""
        parts = list(token)
        yield from parts
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.merges)))
            if best not in self.ranks:
                return
            parts = _merged(parts, best)
            yield best[0] + best[1]

    def kept_merges(self, tokens: set[str]) -> list[Pair]:
        """The merges that stay: those whose parts and whose result do."""
        return [pair for pair in self.merges if {*pair, pair[0] + pair[1]} <= tokens]

    def trimmed(self, model: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
        """The section `model` of the file with the tokens that stay. new: new id by old one."""
        vocabulary = {token: new[old] for token, old in self.vocabulary.items() if old in new}
        merges = [list(pair) for pair in self.kept_merges(set(vocabulary))]
        return {**model, "vocab": vocabulary, "merges": merges}


class WordPieces:
    """The WordPiece vocabulary of a `tokenizer.json` (Schuster & Nakajima 2012; BERT): the longest piece first.

    A word whose pieces all stay is cut as before only if no longer one of its pieces was removed, which is so: of a
    word's pieces each is the longest that the vocabulary has, and a smaller vocabulary has none that is longer.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        model = tokenizer["model"]
        self.vocabulary: dict[str, int] = model["vocab"]
        self._prefix = str(model.get("continuing_subword_prefix") or "##")
        self._unknown = model.get("unk_token")

    def alphabet(self) -> set[str]:
        """Every character that has a piece, at the beginning of a word and inside one, and the unknown token."""
        found = {piece for piece in self.vocabulary if len(piece.removeprefix(self._prefix)) == 1}
        return found | ({self._unknown} & self.vocabulary.keys())

    def frequent(self) -> Iterator[str]:
        """Pieces in the order of their ids: BERT's vocabularies stand in about the order of frequency."""
        yield from sorted(self.vocabulary, key=lambda piece: self.vocabulary[piece])

    def closed(self, tokens: Iterable[str]) -> set[str]:
        """A piece is built of nothing."""
        return set(tokens)

    def trimmed(self, model: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
        """The section `model` of the file with the pieces that stay. new: new id by old one."""
        return {**model, "vocab": {piece: new[old] for piece, old in self.vocabulary.items() if old in new}}


class UnigramPieces:
    """The Unigram vocabulary of a `tokenizer.json` (Kudo 2018, SentencePiece): the most probable cut.

    The cut of a text whose pieces all stay is as before: it was the most probable of more.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        model = tokenizer["model"]
        self._rows: list[tuple[str, float]] = [(str(piece), float(score)) for piece, score in model["vocab"]]
        self.vocabulary = {piece: place for place, (piece, _) in enumerate(self._rows)}
        self._unknown = model.get("unk_id")

    def alphabet(self) -> set[str]:
        """Every piece of one character, alone and after a space, and the unknown token."""
        found = {piece for piece in self.vocabulary if len(piece.removeprefix("▁")) <= 1}
        return found | (set() if self._unknown is None else {self._rows[self._unknown][0]})

    def frequent(self) -> Iterator[str]:
        """The most probable first."""
        yield from (piece for piece, _ in sorted(self._rows, key=lambda row: -row[1]))

    def closed(self, tokens: Iterable[str]) -> set[str]:
        """A piece is built of nothing."""
        return set(tokens)

    def trimmed(self, model: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
        """The section `model` of the file with the pieces that stay. new: new id by old one, in the same order."""
        rows = [[piece, score] for old, (piece, score) in enumerate(self._rows) if old in new]
        return {**model, "vocab": rows, "unk_id": None if self._unknown is None else new[self._unknown]}


Vocabulary = Pieces | WordPieces | UnigramPieces


def vocabulary_of(tokenizer: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`. Raises UnsupportedModel for a kind that cannot be trimmed."""
    algorithm = (tokenizer.get("model") or {}).get("type")
    others: dict[Any, type[WordPieces | UnigramPieces]] = {"WordPiece": WordPieces, "Unigram": UnigramPieces}
    return others[algorithm](tokenizer) if algorithm in others else Pieces(tokenizer)


def _merged(parts: list[str], pair: Pair) -> list[str]:
    """Every occurrence of the pair joined, from the left."""
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def _pair(merge: str | list[str]) -> Pair:
    """A merge in the older or the newer notation: "a b" or ["a", "b"]."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _types(node: Any) -> Iterator[str]:
    """The types of a decoder or pre-tokenizer, whatever it is nested in."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node["type"]
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for value in node:
            yield from _types(value)
