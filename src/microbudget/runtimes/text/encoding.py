"""Encoding: from texts to the integers that a text encoder takes, by the tokenizer beside the model.

How a model wants its texts is its record's `preprocessing`:

    {"max_length": 128, "inputs": ["input_ids", "attention_mask", "token_type_ids"], "pad": 0}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtra, UnsupportedModel, what_it_said

if TYPE_CHECKING:
    from ...model import Model

Texts = tuple[str, ...]  # a text, or a pair of texts
Inputs = dict[str, NDArray[Any]]

TOKENIZER = "tokenizer.json"
TEXT = "text"  # the input of a session: (n,) or, of pairs, (n, 2) strings
MAX_LENGTH, INPUTS, PAD = "max_length", "inputs", "pad"
PROMPT = "prompt"  # of a language model, in place of what an encoder needs: see `prompt.py`
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"


@dataclass(frozen=True)
class Tokens:
    """A text as the model reads it: token ids, and of a pair 0 for the first text and 1 for the second."""

    ids: tuple[int, ...]
    types: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


class TextEncoder:
    """The tokenizer of a model, cut to its length. Raises MissingExtra, UnsupportedModel."""

    def __init__(self, folder: Path, preprocessing: dict[str, Any]) -> None:
        self.names: tuple[str, ...] = tuple(preprocessing[INPUTS])
        self._pad = int(preprocessing.get(PAD) or 0)
        self.max_length = int(preprocessing[MAX_LENGTH])
        self._tokenizer = read_tokenizer(folder / TOKENIZER)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @classmethod
    def of(cls, model: Model) -> TextEncoder:
        """Of a model, by its record. Raises UnsupportedModel where its record does not say how it reads texts."""
        preprocessing = model.record.preprocessing or {}
        if PROMPT in preprocessing:
            raise UnsupportedModel(
                f"{model.path} is a language model with a prompt, which has no encoder: give an encoder such as MiniLM,"
                " which may learn from it: distill(teacher=...)"
            )
        if INPUTS not in preprocessing or MAX_LENGTH not in preprocessing:
            raise UnsupportedModel(f"{model.path} does not say how it reads texts: give the original model's folder")
        return cls(model.folder, preprocessing)

    def tokens(self, text: Sequence[str]) -> Tokens:
        """Of a text or a pair of texts."""
        found = self._tokenizer.encode(*(str(part) for part in text))
        return Tokens(tuple(found.ids), tuple(found.type_ids))

    def count(self, text: Sequence[str]) -> int:
        """How many tokens a text has, uncut."""
        self._tokenizer.no_truncation()
        try:
            return len(self._tokenizer.encode(*(str(part) for part in text)).ids)
        finally:
            self._tokenizer.enable_truncation(self.max_length)

    @property
    def ids(self) -> int:
        """How many ids there are, also unused ones: the highest and one more."""
        return int(max(self._tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def special(self) -> frozenset[int]:
        """The ids of tokens that are no part of a text, such as [CLS], and the one that fills up."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        return frozenset({self._pad, *(int(number) for number, token in added if token.special)})

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that are put before and after every text."""
        found = self._tokenizer.encode("a")
        inside = [place for place, special in enumerate(found.special_tokens_mask) if not special]
        first, last = (inside[0], inside[-1]) if inside else (len(found.ids), len(found.ids))
        return tuple(found.ids[:first]), tuple(found.ids[last + 1 :])

    def batch(self, texts: Iterable[Tokens]) -> Inputs:
        """int64 arrays (n, longest) by the names of the model's inputs; shorter texts are padded and masked."""
        rows = list(texts)
        width = max(1, max(map(len, rows), default=1))
        ids = np.full((len(rows), width), self._pad, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens.ids, 1
            types[row, : len(tokens)] = tokens.types
            mask[row, 0] = 1  # of a text without tokens: a softmax over nothing is no number
        known = {IDS: ids, MASK: mask, TYPES: types}
        return {name: known[name] for name in self.names}


def read_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a file. Raises MissingExtra, UnsupportedModel."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("text classification needs tokenizers: pip install 'microbudget[text]'") from error
    if not path.is_file():
        raise UnsupportedModel(
            f"there is no {TOKENIZER} in {path.parent}, so how its texts are read is not known: copy that file from"
            " the model that it was made from (AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it)"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise UnsupportedModel(f"{path} is no tokenizer that tokenizers reads: {what_it_said(error)}") from error


def as_rows(texts: NDArray[Any]) -> list[Texts]:
    """Texts of the input TEXT, (n,) or (n, 2), as tuples."""
    return [(str(row),) if texts.ndim == 1 else tuple(map(str, row)) for row in texts]
