"""A folder's tokenizer: read it, and write it with the tokens that stay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelNotFound, UnsupportedModel
from ...runtimes.speech.tokenizer import description, read_json
from .pieces import Pieces, vocabulary_of

NAME = "tokenizer.json"
WRITTEN = (NAME, "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
STALE = (
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)  # SentencePiece's own file of the whole vocabulary


class FolderTokenizer:
    """The tokenizer of a Hugging Face folder, as `tokenizer.json` describes it."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelNotFound without the file, UnsupportedModel when it cannot be read or is no BPE."""
        self.folder = folder
        path = folder / NAME
        if not path.is_file() and not (read_json(folder / "config.json").get("model_type") == "whisper"):
            raise ModelNotFound(f"{folder} has no {NAME}: save its tokenizer there (save_pretrained of transformers)")
        try:
            self.description: dict[str, Any] = description(folder)
            self.pieces = vocabulary_of(self.description)
            self.added: dict[str, int] = {row["content"]: row["id"] for row in self.description["added_tokens"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnsupportedModel(f"{path} cannot be read: {error!r}") from error

    @cached_property
    def encoder(self) -> Any:
        """The `tokenizers` library's object of the file."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(json.dumps(self.description, ensure_ascii=False))

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, without those that a template adds."""
        found: list[str] = self.encoder.encode(text, add_special_tokens=False).tokens
        return found

    def kept(self, tokens: set[str], rows: int, required: set[int]) -> NDArray[np.int64]:
        """The old ids that stay, ascending: these tokens, what they are made of, the bytes, and all that is special."""
        return self.ids(self.pieces.closed(tokens | self.pieces.alphabet()), rows, required)

    def ids(self, tokens: set[str], rows: int, required: set[int]) -> NDArray[np.int64]:
        """The old ids of these tokens and of all that is special, ascending.

        rows: of the embedding. An id that is no text stays: an added token, or a row that the tokenizer does not name
        (older files of Whisper leave the timestamps out).
        """
        vocabulary = self.pieces.vocabulary
        last = max((*vocabulary.values(), *self.added.values()))
        if last >= rows:
            raise UnsupportedModel(f"{self.folder}: the tokenizer goes up to {last}, the embedding has {rows} rows")
        special = ({*range(rows)} - {*vocabulary.values()}) | {*self.added.values()} | required
        special |= set(_ids(self.description.get("post_processor")))
        return np.array(sorted(special | {vocabulary[token] for token in tokens if token in vocabulary}), np.int64)

    def write(self, new: Mapping[int, int], out: Path) -> None:
        """Write the trimmed tokenizer's files. new: new id by old one, of those that stay."""
        trimmed = {
            **self.description,
            "added_tokens": [{**row, "id": new[row["id"]]} for row in self.description["added_tokens"]],
            "post_processor": _renumbered(self.description.get("post_processor"), new),
            "model": self.pieces.trimmed(self.description["model"], new),
        }
        _dump(trimmed, out / NAME)
        self._write_settings(new, out)
        self._write_older(new, out)

    def _write_settings(self, new: Mapping[int, int], out: Path) -> None:
        path = self.folder / "tokenizer_config.json"
        if not path.is_file():
            return
        settings = json.loads(path.read_text(encoding="utf-8"))
        decoder = settings.get("added_tokens_decoder")
        if decoder:
            settings["added_tokens_decoder"] = {str(new[int(old)]): row for old, row in decoder.items()}
        _dump(settings, out / path.name)

    def _write_older(self, new: Mapping[int, int], out: Path) -> None:
        """The files of older tokenizers, where the folder has them."""
        kept = sorted((new[old], token) for token, old in self.pieces.vocabulary.items() if old in new)
        vocabulary = {token: place for place, token in kept}
        if (self.folder / "vocab.txt").is_file():
            (out / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
        if (self.folder / "vocab.json").is_file():
            _dump(vocabulary, out / "vocab.json")
        if (self.folder / "merges.txt").is_file() and isinstance(self.pieces, Pieces):
            merges = self.pieces.kept_merges(set(vocabulary))
            lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
            (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if (self.folder / "added_tokens.json").is_file():
            added = json.loads((self.folder / "added_tokens.json").read_text(encoding="utf-8"))
            _dump({token: new[old] for token, old in added.items()}, out / "added_tokens.json")


def _dump(value: Any, path: Path) -> None:
    """Compact: indented, the 1,608 special tokens of Whisper would be a good part of a trimmed model."""
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _ids(processor: Any) -> Iterator[int]:
    """The ids that a post-processor puts around a text, in the notations that `_renumbered` knows."""
    if isinstance(processor, dict):
        for key, value in processor.items():
            yield from value if key == "ids" else _ids(value)
    elif isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            yield processor[1]
        else:
            for value in processor:
                yield from _ids(value)


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new ids: templates have {"id": name, "ids": [id]}, BERT's and RoBERTa's [token, id]."""
    if isinstance(processor, dict):
        return {
            key: [new[old] for old in value] if key == "ids" else _renumbered(value, new)
            for key, value in processor.items()
        }
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], new[processor[1]]]
        return [_renumbered(value, new) for value in processor]
    return processor
