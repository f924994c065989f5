"""An open language model: the probabilities that it gives a text, and the work that its speed is timed with.

A runtime provides a `Reader`: a tokenizer and the logits after tokens. Everything else is here, so that a number means
the same for every format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption
from .chat import ChatTemplate, Message
from .generate import Answer, Writing, generate
from .likelihood import nats
from .questions import answered
from .reader import Logits, Reader
from .renderer import Renderer

Inputs = dict[str, NDArray[Any]]
LOGITS = 1 << 25  # computed at once: 134 MB, of 680 tokens with a vocabulary of 49,152, of 256 with one of 131,072


@dataclass(frozen=True)
class Window:
    """Tokens that a model reads at once; the probabilities of the last `judged` of them count."""

    tokens: tuple[int, ...]
    judged: int


def window(history: Sequence[int], judged: Sequence[int], size: int, bos: int | None, adds_bos: bool) -> Window:
    """The tokens to judge, after as much of their history as fits into `size` tokens.

    A text without history begins with BOS, where the model has one. judged: fewer than `size`, so that there is room
    for one token before it.
    """
    start = [] if bos is None or (history and not adds_bos) else [bos]
    room = size - len(start) - len(judged)
    before = list(history[max(0, len(history) - room) :]) if room > 0 else []
    return Window((*start, *before, *judged), len(judged))


class LanguageSession:
    """An open language model. `answer` takes one of five kinds of inputs:

    * `chat` (n, bytes) with `end` (n,): conversations as JSON, rendered by the model's own template; the last answer is
      judged, as below.
    * `text` (n, bytes) with `begin`, `end` (n,): the bytes of each example from `begin` to `end` are judged, those
      before are its context; `context` (n,): tokens. The answer is (n, 2): nats, and the number of judged tokens.
    * `questions` (n, bytes) with `end` (n,): see `questions.py`. The answer is (n,) texts.
    * `decode` (1, bytes): one token more after the first `depth` (1,) tokens of that text.
    * `prefill` (1, bytes): read the first `depth` (1,) tokens of that text.

    The answer to the last two is (1, 2): the most likely next token, and the number of tokens before it, which is less
    than `depth` when the model does not read as many.
    """

    def __init__(self, reader: Reader, renderer: Renderer | None = None) -> None:
        self.reader = reader
        self.runtime = reader.runtime
        self._reserved = (0, 0)
        self._ready: tuple[bytes, int] | None = None  # the text and depth whose keys and values are in the cache
        self._next_token = 0
        self._renderer = renderer or Renderer()
        self._writing: Writing | None = None

    def answer(self, inputs: Inputs) -> NDArray[Any]:
        """The answer to one of the five kinds of inputs. Raises InvalidOption, BadData for long questions."""
        if "questions" in inputs:
            self._reserved, self._ready = (0, 0), None  # other texts are in the cache
            return answered(self.reader, inputs, self._rows, self._conversation)
        if "text" in inputs or "chat" in inputs:
            return np.array([self._judge(*example) for example in self._examples(inputs)])
        for name, read in (("decode", self._decode), ("prefill", self._prefill)):
            if name in inputs:
                depth = min(int(inputs["depth"][0]), self.reader.longest - 1)
                return np.array([[read(inputs[name][0].tobytes(), depth), depth]])
        raise InvalidOption(f"a language model takes chat, text, questions, decode or prefill, not {', '.join(inputs)}")

    def logits(self, inputs: Inputs) -> tuple[NDArray[np.int64], Logits]:
        """Of the one example in `inputs`: the judged tokens, (tokens,), and the logits before each.

        The logits are (tokens, vocabulary).
        """
        ((text, begin, context, special),) = self._examples(inputs)
        parts = [(part, rows.copy()) for part, rows in self._judged(text, begin, context, special)]
        targets = [token for part, _ in parts for token in part]
        return np.array(targets, np.int64), np.concatenate([rows for _, rows in parts])

    def generate(self, prompt: str, **options: Any) -> Answer:
        """Continue a prompt; options as of `generate.generate`."""
        self._reserved, self._ready = (0, 0), None  # another text is in the cache
        return generate(self.reader, prompt, **options)

    def chat(self, messages: Sequence[Message], **options: Any) -> Answer:
        """Answer in a conversation, rendered by the model's own template; options as of `generate.generate`.

        A model without a template gets "role: content" lines. Raises UnsupportedModel for a template that fails.
        """
        return self.generate(self._conversation(messages), special=True, **options)

    def begin(self, prompt: str | Sequence[Message], **options: Any) -> None:
        """Begin to continue a prompt, or to answer in a conversation, as `generate` and `chat`; `go_on` writes."""
        self._reserved, self._ready = (0, 0), None
        talk = not isinstance(prompt, str)
        text = self._conversation(prompt) if not isinstance(prompt, str) else prompt
        self._writing = Writing(self.reader, text, special=talk, **options)

    def go_on(self, tokens: int) -> Answer:
        """Write so many tokens more at most; all that is written since `begin`. Nothing is asked in between."""
        if self._writing is None:
            raise InvalidOption("nothing was begun")
        return self._writing.more(tokens)

    def about(self) -> dict[str, Any]:
        """Context, cache, vocabulary and whether there is a chat template, JSON-ready."""
        return {
            "context_tokens": self._reserved[0],
            "kv_cache_bytes": self.reader.cache_bytes(),
            "vocabulary": self.reader.vocabulary,
            "trained_context_tokens": self.reader.longest,
            "chats": bool(self.reader.chat_template),
        }

    def close(self) -> None:
        """Release the model."""
        self._renderer.close()
        self.reader.close()

    def _examples(self, inputs: Inputs) -> Iterator[tuple[bytes, int, int, bool]]:
        """Text, where its judged part begins, the tokens of context, and whether it has special tokens."""
        if "text" in inputs:
            return ((*example, False) for example in _examples(inputs))
        return (
            (*self._rendered(json.loads(row[: int(end)].tobytes())), int(context), True)
            for row, end, context in zip(inputs["chat"], inputs["end"], inputs["context"], strict=True)
        )

    def _conversation(self, messages: Sequence[Message]) -> str:
        """Up to what begins the model's answer."""
        return self._renderer.render(self._template(), messages)

    def _template(self) -> ChatTemplate:
        return ChatTemplate.of(self.reader.chat_template, self.reader.bos_text, self.reader.eos_text)

    def _rendered(self, messages: Sequence[Message]) -> tuple[bytes, int]:
        """A conversation as bytes, and the place where its last answer begins."""
        ((prompt, reply),) = self._renderer.last_answers(self._template(), [messages])
        return (prompt + reply).encode(), len(prompt.encode())

    def _judge(self, text: bytes, begin: int, context: int, special: bool) -> tuple[float, float]:
        cost, count = 0.0, 0
        for targets, rows in self._judged(text, begin, context, special):
            cost += float(nats(rows, targets).sum())
            count += len(targets)
        return cost, float(count)

    def _judged(self, text: bytes, begin: int, context: int, special: bool) -> Iterator[tuple[list[int], Logits]]:
        """The tokens of the text from `begin` on, some at a time, with the logits before each."""
        reader = self.reader
        size = min(context, reader.longest)
        history = reader.encode(text[:begin].decode("utf-8"), special)
        passage = text[begin:].decode("utf-8")
        judged = self._continuation(passage) if begin else reader.encode(passage)
        self._reserve(size, min(self._rows, size))
        # A text with more tokens than fit is judged in pieces, each after a quarter of the context.
        step = max(1, len(judged) if len(judged) < size else size - size // 4)
        for start in range(0, len(judged), step):
            before, piece = history + judged[:start], judged[start : start + step]
            yield from self._read(window(before, piece, size, reader.bos, reader.adds_bos))

    @cached_property
    def _newline(self) -> list[int]:
        """The tokens of a line's end, where the tokenizer puts a space before every text; else none.

        Those of SentencePiece often do: "x" is encoded as " x", and as "x" only after other text.
        """
        line, both = (self.reader.encode(text) for text in ("\n", "\nx"))
        prefixes = both[: len(line)] == line and both[len(line) :] != self.reader.encode("x")
        return line if prefixes else []

    def _continuation(self, text: str) -> list[int]:
        """The tokens of a text that continues another one: without a space before it that is not in the text."""
        both = self.reader.encode(f"\n{text}") if self._newline else []
        whole = (
            bool(both) and both[: len(self._newline)] == self._newline
        )  # no token joins the line's end with the text
        return both[len(self._newline) :] if whole else self.reader.encode(text)

    def _read(self, part: Window) -> Iterator[tuple[list[int], Logits]]:
        """Tokens to judge with the logits before each, which are valid until the next ones; each is processed once."""
        tokens, first = part.tokens, len(part.tokens) - part.judged
        self.reader.rewind()
        if first == 0:  # nothing is before the first token: all are equally likely
            yield [tokens[0]], np.zeros((1, self.reader.vocabulary), np.float32)
            first = 1
        processed = 0
        for start in range(first, len(tokens), self._rows):
            targets = tokens[start : start + self._rows]
            end = start - 1 + len(targets)  # nothing follows the last token
            yield list(targets), self.reader.process(tokens[processed:end], len(targets))
            processed = end

    @cached_property
    def _rows(self) -> int:
        """Tokens whose logits are computed at once."""
        return max(16, LOGITS // self.reader.vocabulary)

    def _reserve(self, size: int, rows: int) -> None:
        if self._reserved != (size, rows):
            self.reader.reserve(size, rows)
            self._reserved, self._ready = (size, rows), None
        if rows > 1:
            self._ready = None

    def _prompt(self, text: bytes, depth: int) -> list[int]:
        """Exactly `depth` tokens: the text, repeated."""
        tokens = self.reader.encode(text.decode("utf-8", "replace")) or [self.reader.bos or 0]
        return (tokens * math.ceil(depth / len(tokens)))[:depth]

    def _prefill(self, text: bytes, depth: int) -> int:
        prompt = self._prompt(text, depth)
        self._reserve(depth + 1, 1)
        self.reader.rewind()
        self._ready = None
        return int(self.reader.process(prompt, 1).argmax())

    def _decode(self, text: bytes, depth: int) -> int:
        """One token; afterwards the sequence is as long as before, so that each call does the same work."""
        if self._ready != (text, depth):
            self._next_token = self._prefill(text, depth)
            self._ready = (text, depth)
        chosen = int(self.reader.process([self._next_token], 1).argmax())
        self.reader.rewind(depth)
        return chosen


def _examples(inputs: Inputs) -> Iterator[tuple[bytes, int, int]]:
    """Text, where its judged part begins, and the tokens of context, of each example."""
    for text, begin, end, context in zip(
        inputs["text"], inputs["begin"], inputs["end"], inputs["context"], strict=True
    ):
        yield text[: int(end)].tobytes(), int(begin), int(context)
