"""Whisper in any runtime: the decoder's prompt, what a session answers, and how long audio is transcribed.

A runtime provides a `Whisper`: features in, token ids out. The front end, the prompt, the cutting of long audio and the
way from tokens to text are the same for all, so that two runtimes differ by their arithmetic only.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...audio import pieces, sound
from ...audio.log_mel import Features, LogMel
from ...audio.pieces import Piece
from ...audio.sound import RATE_HZ, Samples
from ...errors import InvalidOption, MissingExtra, UnsupportedModel
from . import tokenizer
from .languages import code_of
from .tokenizer import read_json

Inputs = dict[str, NDArray[Any]]

START, NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
POSITIONS = 448  # of every Whisper's decoder
MULTILINGUAL = 51_865  # tokens; Whisper's vocabularies for several languages have at least as many
LOOPS = 4  # repetitions at the end of a text that did not end that make it a loop
FIRST_TOKENS, TOKENS_PER_S = 24, 10  # of a first try: who speaks fast says six tokens in a second
SENTENCE = 6  # tokens that nobody says twice in a row without a change
REPETITIVE = 2.4  # compression ratio by zlib above which Whisper calls a text repetitive
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TIME = re.compile(r"<\|[0-9]+\.[0-9]+\|>")


class Vocabulary:
    """Token ids to text, the special tokens by name, and the languages."""

    def __init__(self, folder: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingExtra("Whisper needs tokenizers: pip install 'microbudget[speech]'") from error
        found = tokenizer.description(folder)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(found, ensure_ascii=False))
        except Exception as error:  # tokenizers raises plain Exception
            raise UnsupportedModel(f"the tokenizer of {folder} cannot be read: {error}") from error
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {int(token) for token, what in added.items() if tokenizer.SPECIAL.fullmatch(what.content)}
        self._named = {what.content: int(token) for token, what in added.items()}
        self._words = {int(token): what.content for token, what in added.items() if not what.special}
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

    @property
    def named(self) -> dict[int, str]:
        """All tokens by their ids."""
        return {int(at): name for name, at in self._tokenizer.get_vocab(with_added_tokens=True).items()}

    def words_after(self, token: int) -> frozenset[int]:
        """Ids above a token's that are text: every one that the tokenizer names, but for times and other special ones.

        Fine-tuning adds its words behind Whisper's timestamps.
        """
        return frozenset(at for at, name in self.named.items() if at > token and not _TIME.fullmatch(name))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, without the special ones.

        Added words are taken as they are written: a byte-level decoder would take the letters of "Köln" for bytes.
        """
        spoken = [int(token) for token in tokens if int(token) not in self._special]
        groups = [(is_word, list(group)) for is_word, group in groupby(spoken, self._words.__contains__)]
        return "".join(
            "".join(self._words[token] for token in group)
            if is_word
            else str(self._tokenizer.decode(group, skip_special_tokens=True))
            for is_word, group in groups
        ).strip()


@dataclass(frozen=True)
class Prompt:
    """The tokens before a text: language and task where the model knows several."""

    start: int
    end: int  # the token that ends a text
    no_timestamps: int
    task: int | None  # <|transcribe|>, of a multilingual model
    language: int | None  # None: the model is English, or the language is detected
    languages: dict[str, int]
    positions: int = POSITIONS  # of the decoder
    words: frozenset[int] = frozenset()  # ids behind `no_timestamps` that are text

    @classmethod
    def of(cls, folder: Path, vocabulary: Vocabulary, multilingual: bool, language: str | None = None) -> Prompt:
        """For a model folder.

        multilingual: where the folder does not say whether the model is. language: a code ("de"), a token or a name in
        English. Raises InvalidOption for a language that the model does not know.
        """
        config = read_json(folder / "generation_config.json")
        multilingual = bool(config.get("is_multilingual", multilingual))
        known = vocabulary.languages() if multilingual else {}
        wanted = code_of(language or config.get("language") or "") or None
        if wanted and multilingual and wanted not in known:
            raise InvalidOption(f"the model does not know the language {wanted!r}; it knows {', '.join(sorted(known))}")
        if language and not multilingual and wanted not in ("en", None):
            raise InvalidOption(f"the model writes English only, not {wanted!r}: give it no language")
        no_timestamps = vocabulary.special(NO_TIMESTAMPS)
        return cls(
            vocabulary.special(START),
            vocabulary.special("<|endoftext|>"),
            no_timestamps,
            vocabulary.special("<|transcribe|>") if multilingual else None,
            known.get(wanted) if wanted else None,
            known,
            int(read_json(folder / "config.json").get("max_target_positions") or config.get("max_length") or POSITIONS),
            vocabulary.words_after(no_timestamps),
        )

    @property
    def longest(self) -> int:
        """The most tokens that are generated after the prompt: half of the positions, as in OpenAI's decoder."""
        return min(self.positions // 2, self.positions - len(self.tokens()) - 1)

    def at_most(self, tokens: int) -> Prompt:
        """The same for a text of so many tokens."""
        return replace(self, positions=min(self.positions, 2 * max(tokens, len(self.tokens()) + 1)))

    def suppressed(self, rows: int) -> list[int]:
        """Ids that are never written: timestamps, also where the tokenizer does not name them. rows: of the embedding.

        Words that fine-tuning added behind them are written.
        """
        return [token for token in range(self.no_timestamps, rows) if token not in self.words]

    def tokens(self, language: int | None = None) -> list[int]:
        """The ids. language: the detected one, where none is set."""
        spoken = self.language if self.language is not None else language
        known = [token for token in (spoken, self.task) if token is not None]
        return [self.start, *known, self.no_timestamps]


class Whisper(Protocol):
    """A Whisper in a runtime."""

    runtime: str
    multilingual: bool  # judged by the number of its tokens

    def detect_language(self, features: Features, prompt: Prompt) -> int:
        """The token of the likeliest language."""
        ...

    def generate(self, features: Features, prompt: Prompt) -> list[int]:
        """The tokens after the prompt for features (mels, frames): greedy, without timestamps."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class WhisperSession:
    """An open Whisper. `answer` takes one of two forms of inputs and gives texts, (n,):

    * `waveform` (n, samples) float32 of 16 kHz mono, with `length` (n,): how much of each row is sound.
    * `file` (n,): paths of sound files, which are read block by block.

    Recordings longer than the window are cut at pauses, and the pieces' texts are joined. Where the window follows the
    recording, a text that repeats itself is not taken: the recording is transcribed again with the whole window.
    """

    def __init__(self, whisper: Whisper, folder: Path, front: LogMel, language: str | None = None) -> None:
        self.whisper, self._front = whisper, front
        self._vocabulary = Vocabulary(folder)
        self._prompt = Prompt.of(folder, self._vocabulary, whisper.multilingual, language)
        self.runtime = whisper.runtime
        self._second_tries = 0

    def second_tries(self) -> int:
        """How many windows were transcribed twice so far."""
        return self._second_tries

    def answer(self, inputs: Inputs) -> NDArray[np.str_]:
        """What is said in each recording."""
        if "waveform" in inputs:
            rows = zip(inputs["waveform"], inputs["length"], strict=True)
            return np.array([self.text(row[: int(length)]) for row, length in rows], np.str_)
        if "file" in inputs:
            texts = [" ".join(text for _, text in self.transcribe_file(Path(str(path)))) for path in inputs["file"]]
            return np.array(texts, np.str_)
        raise InvalidOption(f"a speech model takes waveform or file, not {', '.join(inputs)}")

    def text(self, waveform: Samples) -> str:
        """What is said in a waveform of any length, (samples,)."""
        if len(waveform) <= self._front.samples:
            return self._transcribe(waveform)
        return " ".join(
            filter(None, (self._transcribe(piece.samples) for piece in pieces.cut([waveform], self.window_s)))
        )

    def language(self, inputs: Sequence[Inputs]) -> str | None:
        """The code of the language of most waveforms; None for a model of one language."""
        if not self._prompt.languages:
            return None
        names = {token: name for name, token in self._prompt.languages.items()}
        rows = [row[: int(length)] for one in inputs if "waveform" in one
                for row, length in zip(one["waveform"], one["length"], strict=True)]  # fmt: skip
        votes = Counter(self.whisper.detect_language(self._front(row), self._prompt) for row in rows)
        return names[max(sorted(votes), key=votes.__getitem__)] if votes else None

    def transcribe_file(
        self, path: Path, longest_s: float | None = None, on_progress: Callable[[float], None] | None = None
    ) -> Iterator[tuple[Piece, str]]:
        """The pieces of a file with their texts, in order; memory does not grow with its length.

        on_progress: is called after each piece, with the seconds of the recording that are done.
        """
        limit = min(longest_s or self.window_s, self.window_s)
        for piece in pieces.cut(sound.blocks(path), limit):
            text = self._transcribe(piece.samples)
            if on_progress is not None:
                on_progress(piece.end_s)
            if text:
                yield piece, text

    @property
    def window_s(self) -> float:
        """The longest piece that the model takes, in seconds."""
        return self._front.samples / RATE_HZ

    def close(self) -> None:
        """Release the model."""
        self.whisper.close()

    def _transcribe(self, waveform: Samples) -> str:
        """The text of one window. Silence is never given to Whisper, which makes up a text for it."""
        if pieces.is_silent(waveform):
            return ""
        front = self._front.for_recording(len(waveform))
        if front.samples < self._front.samples:
            prompt = self._prompt.at_most(FIRST_TOKENS + round(TOKENS_PER_S * len(waveform) / RATE_HZ))
            tokens = self.whisper.generate(front(waveform), prompt)
            if len(tokens) < prompt.longest and not self._repeats(tokens):
                return self._vocabulary.text(tokens)
            self._second_tries += 1
        tokens = self.whisper.generate(self._front(waveform), self._prompt)
        return self._vocabulary.text(without_loop(tokens, self._prompt.longest, self._vocabulary.text))

    def _repeats(self, tokens: Sequence[int]) -> bool:
        """Whether a second try is worth its time; a sentence that is only said twice costs no more than that."""
        return has_loop(tokens) or is_repetitive(self._vocabulary.text(tokens))


def has_loop(tokens: Sequence[int]) -> bool:
    """Whether a sentence (`SENTENCE` tokens or more) occurs twice in a row, or something shorter `LOOPS` times.

    A window that is too short makes Whisper say a sentence again long before its text compresses too well.
    """
    for period in range(1, len(tokens) // 2 + 1):
        wanted, run = period * ((2 if period >= SENTENCE else LOOPS) - 1), 0
        for before, after in zip(tokens, tokens[period:], strict=False):
            run = run + 1 if before == after else 0
            if run >= wanted:
                return True
    return False


def is_repetitive(text: str) -> bool:
    """Whether a text compresses so well that Whisper calls it repetitive. Radford et al. 2022, section 4.5."""
    said = text.encode()
    return len(said) > REPETITIVE * len(zlib.compress(said))


def without_loop(tokens: Sequence[int], longest: int, text: Callable[[Sequence[int]], str]) -> Sequence[int]:
    """The tokens with a loop at their end, if there is one, kept once.

    A small decoder that has lost its place repeats itself until its positions end. Whisper's own remedy (Radford et al.
    2022, arXiv:2212.04356, section 4.5) samples the text again at a higher temperature, which gives another text in
    every run and takes seconds. A text that the model ended by itself stays as it is, however often it repeats a word.

    longest: the most tokens that are generated. text: decodes tokens. A loop that is not exactly periodic is cut only
    from a text whose compression ratio is one that Whisper calls repetitive.
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
    return tokens[: _first_loop(tokens)] if is_repetitive(text(tokens)) else tokens


def _first_loop(tokens: Sequence[int]) -> int:
    """The end of the first occurrence of a pair of tokens that occurs `LOOPS` times; else the number of tokens."""
    places: dict[tuple[int, int], list[int]] = {}
    for at, pair in enumerate(pairwise(tokens)):
        places.setdefault(pair, []).append(at)
        if len(places[pair]) == LOOPS:
            return places[pair][0] + 2
    return len(tokens)


def front_end(folder: Path, mels: int | None = None) -> LogMel:
    """The front end of a model folder.

    mels: of the network, for a folder without a preprocessing config, whose front end is then Whisper's of 30 s.
    Raises UnsupportedModel where neither is known.
    """
    config = read_json(folder / "preprocessor_config.json") or read_json(folder / "processor_config.json")
    nested = config.get("feature_extractor", config)
    if not nested and mels is not None:
        return LogMel(mels)
    if not nested:
        raise UnsupportedModel(
            f"{folder} has no preprocessor_config.json: save the model's feature extractor in the same folder"
        )
    return LogMel.parse(nested)
