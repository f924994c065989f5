"""Byte-pair encoding as a structure: which tokens a token is made of, and which of them write any text."""

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
            raise UnsupportedModel(f"trim takes a tokenizer of type BPE, not {model.get('type')!r}")
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
