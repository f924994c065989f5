"""Generation of text, one token at a time. With the same seed, models that agree write the same words."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption
from .likelihood import nats
from .reader import Reader


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and the seconds that reading the prompt and writing took."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_s: float
    decode_s: float
    ended: bool  # the model ended the answer; False: it was stopped at the limit

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of writing. The first token belongs to reading; None for fewer than two."""
        return (len(self.tokens) - 1) / self.decode_s if len(self.tokens) > 1 and self.decode_s > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values with the derived ones."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def generate(
    reader: Reader,
    prompt: str,
    *,
    tokens: int = 128,
    on_text: Callable[[str], object] | None = None,
    **options: Any,
) -> Answer:
    """Continue a prompt, by so many tokens at most. options: and errors, as of `Writing`.

    on_text: is called with each further piece of the answer as soon as it is written; a character of several tokens
    comes whole. The pieces together are the answer's text.
    """
    writing = Writing(reader, prompt, tokens=tokens, **options)
    if on_text is None:
        return writing.more(tokens)
    answer, shown = writing.more(1), ""
    while not answer.ended and len(answer.tokens) < tokens:
        shown = _shown(answer.text, shown, on_text)
        answer = writing.more(1)
    if len(answer.text) > len(shown):
        on_text(answer.text[len(shown) :])  # with an unfinished character at the very end
    return answer


def _shown(text: str, before: str, on_text: Callable[[str], object]) -> str:
    """Hand on what is new and whole: bytes of an unfinished character decode to replacement characters at the end."""
    whole = text.rstrip("\ufffd")
    if len(whole) > len(before) and whole.startswith(before):
        on_text(whole[len(before) :])
        return whole
    return before


class Writing:
    """A text that is being written: `more` goes on where it ended, as long as nobody else reads in between.

    tokens: at most, in all. temperature: 0 takes the most likely token. special: "<|end|>" in the prompt is that token.
    Raises InvalidOption when prompt and answer do not fit into the context that the model was trained for.
    """

    def __init__(
        self,
        reader: Reader,
        prompt: str,
        *,
        tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        special: bool = False,
    ) -> None:
        if temperature < 0 or tokens < 1:
            raise InvalidOption(
                f"a temperature is at least 0 and tokens are at least 1, not {temperature} and {tokens}"
            )
        prompted = reader.encode(prompt, special)
        if reader.bos is not None and (not prompted or (reader.adds_bos and prompted[0] != reader.bos)):
            prompted = [reader.bos, *prompted]
        size = len(prompted) + tokens
        if not prompted or size > reader.longest:
            raise InvalidOption(
                f"a prompt of {len(prompted)} tokens and an answer of {tokens} do not fit into {reader.longest}"
            )
        reader.reserve(size, 1)
        reader.rewind()
        self._reader, self._prompt_tokens, self._written = reader, len(prompted), list[int]()
        started = time.perf_counter()
        logits = reader.process(prompted, 1)[0]
        self._prefill_s, self._decode_s = time.perf_counter() - started, 0.0
        self._tokens = _written(reader, logits, tokens, temperature, seed)

    def more(self, tokens: int) -> Answer:
        """Write so many tokens more at most; all that is written so far."""
        started, reader = time.perf_counter(), self._reader
        self._written += itertools.islice(self._tokens, tokens)
        self._decode_s += time.perf_counter() - started
        ended = bool(self._written) and reader.ends(self._written[-1])
        kept = self._written[:-1] if ended else self._written
        return Answer(reader.decode(kept), tuple(kept), self._prompt_tokens, self._prefill_s, self._decode_s, ended)


def greedy(reader: Reader, prompted: Sequence[int], tokens: int) -> tuple[str, float]:
    """What continues these tokens, each the most likely one, and ln p of it, of the token that ends it too.

    At most `tokens`; prompt and answer fit into the model's context.
    """
    reader.reserve(len(prompted) + tokens, 1)
    reader.rewind()
    logits, written, likelihood = reader.process(prompted, 1)[0], list[int](), 0.0
    while True:
        token = int(np.argmax(logits))
        likelihood -= float(nats(logits[None], [token])[0])
        if reader.ends(token):
            break
        written.append(token)
        if len(written) == tokens:
            break
        logits = reader.process([token], 1)[0]
    return reader.decode(written), likelihood


def _written(reader: Reader, logits: NDArray[np.float32], most: int, temperature: float, seed: int) -> Iterator[int]:
    for step in range(most):
        token = choose(logits, temperature, seed, step)
        yield token
        if reader.ends(token) or step == most - 1:
            return
        logits = reader.process([token], 1)[0]


def choose(logits: NDArray[np.float32], temperature: float, seed: int, step: int) -> int:
    """A token drawn from softmax(logits / temperature), (vocabulary,); the most likely at temperature 0.

    By the Gumbel-max trick, with noise that depends on the seed and the step alone: two models draw the same token
    unless their probabilities differ enough to change it.
    """
    if temperature == 0:
        return int(np.argmax(logits))
    noise = np.random.default_rng((seed, step)).gumbel(size=len(logits))
    return int(np.argmax(np.asarray(logits, np.float64) / temperature + noise))
