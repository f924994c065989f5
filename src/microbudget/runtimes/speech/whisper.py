"""Whisper in any runtime: what is asked of the decoder, what a session answers, and how long audio is heard.

A runtime brings an Ear: features in, token ids out. The front end, the prompt, the cutting of long audio and the way
from tokens to text are the same for all, so that two runtimes differ by their arithmetic only.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...audio import pieces, sound
from ...audio.log_mel import Features, LogMel
from ...audio.pieces import Piece
from ...audio.sound import RATE_HZ, Samples
from ...errors import InvalidOption, MissingExtra, UnsupportedModel
from .languages import code_of

Inputs = dict[str, NDArray[Any]]

START, NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
POSITIONS = 448  # of every Whisper's decoder
MULTILINGUAL = 51_865  # tokens from which on Whisper's vocabulary is that of many languages
LOOPS = 4  # times that the same is said at the end of a text that did not end, before it is a loop
REPETITIVE = 2.4  # times that a text is longer than what zlib makes of it: Whisper's threshold
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TOKEN = re.compile(r"<\|[^|]*\|>")


class Vocabulary:
    """Token ids to text, the special tokens by name, and the languages that there are."""

    def __init__(self, folder: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingExtra("Whisper needs tokenizers: pip install 'microbudget[speech]'") from error
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UnsupportedModel(f"{folder} has no tokenizer.json: save the model's tokenizer beside it")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise UnsupportedModel(f"{path} cannot be read: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {int(token) for token, what in added.items() if _TOKEN.fullmatch(what.content)}
        self._named = {what.content: int(token) for token, what in added.items()}
        self.size = int(self._tokenizer.get_vocab_size())

    def special(self, name: str) -> int:
        """The id of a special token. Raises UnsupportedModel where there is none."""
        if name not in self._named:
            raise UnsupportedModel(f"the tokenizer has no {name}: it is not Whisper's")
        return self._named[name]

    def languages(self) -> dict[str, int]:
        """The languages' codes with the ids of their tokens."""
        found = ((_LANGUAGE.fullmatch(name), token) for name, token in self._named.items())
        return {match[1]: token for match, token in found if match}

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say, special ones apart."""
        spoken = [int(token) for token in tokens if int(token) not in self._special]
        return str(self._tokenizer.decode(spoken, skip_special_tokens=True)).strip()


@dataclass(frozen=True)
class Prompt:
    """What the decoder is told before it writes: language and task where the model knows several."""

    start: int
    end: int  # the token that ends a text
    no_timestamps: int
    task: int | None  # <|transcribe|>, of a model of many languages
    language: int | None  # None: an English model, or it is detected
    languages: dict[str, int]
    positions: int = POSITIONS  # of the decoder

    @classmethod
    def of(cls, folder: Path, vocabulary: Vocabulary, many: bool, language: str | None = None) -> Prompt:
        """For a model folder. many: whether there are several languages, where the folder does not tell. language: its
        code ("de"), token or English name.

        Raises InvalidOption for a language that it does not know.
        """
        config = read_json(folder / "generation_config.json")
        many = bool(config.get("is_multilingual", many))
        known = vocabulary.languages() if many else {}
        wanted = code_of(language or config.get("language") or "") or None
        if wanted and many and wanted not in known:
            raise InvalidOption(f"the model does not know the language {wanted!r}; it knows {', '.join(sorted(known))}")
        if language and not many and wanted not in ("en", None):
            raise InvalidOption(f"the model writes English only, not {wanted!r}: give it no language")
        return cls(
            vocabulary.special(START),
            vocabulary.special("<|endoftext|>"),
            vocabulary.special(NO_TIMESTAMPS),
            vocabulary.special("<|transcribe|>") if many else None,
            known.get(wanted) if wanted else None,
            known,
            int(read_json(folder / "config.json").get("max_target_positions") or config.get("max_length") or POSITIONS),
        )

    @property
    def longest(self) -> int:
        """Tokens that are written behind the prompt at most: half of the positions, as OpenAI's decoder does."""
        return min(self.positions // 2, self.positions - len(self.tokens()) - 1)

    def tokens(self, language: int | None = None) -> list[int]:
        """The ids. language: what was detected, where none is set."""
        spoken = self.language if self.language is not None else language
        told = [token for token in (spoken, self.task) if token is not None]
        return [self.start, *told, self.no_timestamps]


class Ear(Protocol):
    """A runtime's part of Whisper."""

    runtime: str
    multilingual: bool  # by the number of its tokens

    def spoken(self, features: Features, prompt: Prompt) -> int:
        """The likeliest language's token."""
        ...

    def write(self, features: Features, prompt: Prompt) -> list[int]:
        """The tokens behind the prompt for features (mels, frames): greedy, without timestamps."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class WhisperSession:
    """An open Whisper. `answer` takes one of two kinds of inputs and gives texts, (n,):

    * `waveform` (n, samples) float32 of 16 kHz mono, with `length` (n,): how much of each row is sound.
    * `file` (n,): paths of sound files, which are read block by block.

    What is longer than the window is cut at pauses, and the pieces' texts are joined.
    """

    def __init__(self, ear: Ear, folder: Path, front: LogMel, language: str | None = None) -> None:
        self._ear, self._front = ear, front
        self._vocabulary = Vocabulary(folder)
        self._prompt = Prompt.of(folder, self._vocabulary, ear.multilingual, language)
        self.runtime = ear.runtime

    def answer(self, inputs: Inputs) -> NDArray[np.str_]:
        """What is said in each recording."""
        if "waveform" in inputs:
            rows = zip(inputs["waveform"], inputs["length"], strict=True)
            return np.array([self.text(row[: int(length)]) for row, length in rows], np.str_)
        if "file" in inputs:
            texts = [" ".join(text for _, text in self.long(Path(str(path)))) for path in inputs["file"]]
            return np.array(texts, np.str_)
        raise InvalidOption(f"a speech model takes waveform or file, not {', '.join(inputs)}")

    def text(self, waveform: Samples) -> str:
        """What is said in a waveform of any length, (samples,)."""
        if len(waveform) <= self._front.samples:
            return self._heard(waveform)
        return " ".join(filter(None, (self._heard(piece.samples) for piece in pieces.cut([waveform], self.window_s))))

    def language(self, inputs: Sequence[Inputs]) -> str | None:
        """The code of the language that most waveforms are in; None of a model of one language."""
        if not self._prompt.languages:
            return None
        names = {token: name for name, token in self._prompt.languages.items()}
        rows = [row[: int(length)] for one in inputs if "waveform" in one
                for row, length in zip(one["waveform"], one["length"], strict=True)]  # fmt: skip
        votes = Counter(self._ear.spoken(self._front(row), self._prompt) for row in rows)
        return names[max(sorted(votes), key=votes.__getitem__)] if votes else None

    def long(
        self, path: Path, longest_s: float | None = None, told: Callable[[float], None] | None = None
    ) -> Iterator[tuple[Piece, str]]:
        """The pieces of a file with their texts, in order; memory does not grow with its length.

        told: is called with the seconds that are done, after each piece.
        """
        limit = min(longest_s or self.window_s, self.window_s)
        for piece in pieces.cut(sound.blocks(path), limit):
            text = self._heard(piece.samples)
            if told is not None:
                told(piece.end_s)
            if text:
                yield piece, text

    @property
    def window_s(self) -> float:
        """What the model hears at once."""
        return self._front.samples / RATE_HZ

    def close(self) -> None:
        """Release the model."""
        self._ear.close()

    def _heard(self, waveform: Samples) -> str:
        """Nothing is said where nothing can be heard: of pure silence Whisper makes up a text."""
        if pieces.is_silent(waveform):
            return ""
        written = self._ear.write(self._front(waveform), self._prompt)
        return self._vocabulary.text(without_loop(written, self._prompt.longest, self._vocabulary.text))


def without_loop(tokens: Sequence[int], longest: int, text: Callable[[Sequence[int]], str]) -> Sequence[int]:
    """What a decoder wrote before it began to say the same again and again until its positions ended, said once.

    A small decoder that has lost its place does not find the end any more. Whisper's own way out (Radford et al. 2022,
    arXiv:2212.04356, section 4.5) draws the text once more at a higher temperature, another one in every run, and needs
    seconds for it. A text that the model ended by itself is left as it is, however often it says a word.

    longest: tokens that are written at most. text: what tokens say; only a text that compresses as well as what Whisper
    itself calls repetitive ends where its loop begins without being the same to the last token.
    """
    if len(tokens) < longest:
        return tokens
    repeated = 0
    for period in range(1, len(tokens) // LOOPS + 1):
        pairs = zip(reversed(tokens[period:]), reversed(tokens[:-period]), strict=True)
        count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if count >= (LOOPS - 1) * period:
            repeated = max(repeated, count)
    if repeated:
        return tokens[: len(tokens) - repeated]
    said = text(tokens).encode()
    return tokens[: _wandering(tokens)] if len(said) > REPETITIVE * len(zlib.compress(said)) else tokens


def _wandering(tokens: Sequence[int]) -> int:
    """Where the first pair of tokens that comes back again and again has come for the first time; else the end."""
    places: dict[tuple[int, int], list[int]] = {}
    for at, pair in enumerate(pairwise(tokens)):
        places.setdefault(pair, []).append(at)
        if len(places[pair]) == LOOPS:
            return places[pair][0] + 2
    return len(tokens)


def front_end(folder: Path, mels: int | None = None) -> LogMel:
    """The front end of a model folder. mels: of the network itself, for a folder that says nothing of its front end,
    which is then Whisper's of 30 s. Raises UnsupportedModel where neither is known."""
    config = read_json(folder / "preprocessor_config.json") or read_json(folder / "processor_config.json")
    nested = config.get("feature_extractor", config)
    if not nested and mels is not None:
        return LogMel(mels)
    if not nested:
        raise UnsupportedModel(
            f"{folder} has no preprocessor_config.json: save the model's feature extractor beside it"
        )
    return LogMel.parse(nested)


def read_json(path: Path) -> dict[str, Any]:
    """An object of a file; empty where there is no such file. Raises UnsupportedModel for one that is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}
