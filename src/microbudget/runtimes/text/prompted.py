"""A language model as a text classifier: which label it finds likely after a prompt.

    log p(label | text) = sum of log p of the label's tokens, normalized over the labels,
                          minus the same after texts without content, where the prompt is calibrated

The second line is contextual calibration (Zhao et al. 2021, arXiv:2102.09690, with W = diag(p_cf)^-1 and b = 0): it
takes out what the model prefers whatever the text.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedModel
from ..language.likelihood import begun, log_likelihoods, nats, split
from ..language.reader import Reader, Tokenizer
from ..language.session import LOGITS
from .encoding import MAX_LENGTH, PROMPT, TEXT, Inputs, Texts, as_rows
from .prompt import CONTENT_FREE, Prompt

if TYPE_CHECKING:
    from ...model import Model

Logs = NDArray[np.float64]  # (labels,) natural logarithms
ROOM = 256  # tokens: room is made in steps of so many
CALL = 8  # tokens that could be processed in the time that a call takes besides
LEAST = 16  # tokens of a text that must fit, and rows of logits that there is room for


class PromptedSession:
    """Answers texts, (n,) or (n, 2) strings under TEXT, with logits (n, labels).

    max_length: tokens of a text; what follows is not read. What two prompts have in common, such as the examples, is
    processed once, unless the labels have so many tokens that one batch of all is faster.
    """

    def __init__(self, reader: Reader, prompt: Prompt, max_length: int) -> None:
        self.runtime = reader.runtime
        self._reader, self._prompt = reader, prompt
        self._processed: list[int] = []
        self._reserved = 0
        self._rows = max(LEAST, LOGITS // reader.vocabulary)
        self._most = min(max_length, self._room())

    def answer(self, inputs: Inputs) -> NDArray[Any]:
        """Logits (n, labels): log probabilities, less those without content where the prompt is calibrated."""
        rows = [cut(self._reader, texts, self._most) for texts in as_rows(inputs[TEXT])]
        return np.stack([self._probabilities(texts) - self.prior for texts in rows]).astype(np.float32)

    @cached_property
    def prior(self) -> Logs:
        """log p of each label after a text without content, (labels,); 0 where the prompt is not calibrated."""
        if not self._prompt.calibrated:
            return np.zeros(len(self._prompt.words))
        texts = [(nothing,) * self._prompt.parts for nothing in CONTENT_FREE]
        return np.asarray(np.log(np.mean([np.exp(self._probabilities(each)) for each in texts], axis=0)))

    @property
    def tokens(self) -> int:
        """Of a prompt without a text."""
        return len(self._tokens(self._prompt.context(("",) * self._prompt.parts)))

    def close(self) -> None:
        """Release the model."""
        self._reader.close()

    def _room(self) -> int:
        """Tokens of a text that fit beside the prompt and the longest label. Raises UnsupportedModel."""
        longest = max(len(self._reader.encode(f" {word}")) for word in self._prompt.words)
        room = self._reader.longest - self.tokens - longest - 1
        if room < LEAST:
            raise UnsupportedModel(
                f"the prompt has {self.tokens} tokens with its examples, and the model reads at most"
                f" {self._reader.longest}: take fewer examples (shots), or a shorter template"
            )
        return room

    def _probabilities(self, texts: Texts) -> Logs:
        """log p of each label, normalized over the labels, (labels,)."""
        context = self._prompt.context(texts)
        pairs = [split(self._reader, context, word) for word in self._prompt.words]
        prefix, words = begun(self._reader, pairs[0][0]), [after for _, after in pairs]
        kept = self._common(prefix)
        one_by_one = len(prefix) - kept + sum(len(word) - 1 + CALL for word in words if len(word) > 1)
        together = len(prefix) + sum(len(word) - 1 for word in words)
        if all(before == pairs[0][0] for before, _ in pairs) and prefix and one_by_one <= together:
            found = self._one_by_one(prefix, words)
        else:
            self._processed = []
            found = np.array(log_likelihoods(self._reader, context, self._prompt.words, self._rows))
        return np.asarray(found - np.logaddexp.reduce(found))

    def _one_by_one(self, prefix: list[int], words: list[list[int]]) -> Logs:
        """log p of each word after the prefix; what the last prefix had in common with this one is kept."""
        size = len(prefix) + max(map(len, words))
        if size > self._reserved:
            self._reserved = min(-(-size // ROOM) * ROOM, self._reader.longest)
            self._reader.reserve(self._reserved, max(LEAST, *map(len, words)))
            self._processed = []
        common = self._common(prefix)
        self._reader.rewind(common)
        logits = self._reader.process(prefix[common:], 1)[0].astype(np.float64)
        first = np.logaddexp.reduce(logits) - logits
        found = []
        for word in words:
            cost = first[word[0]]
            if len(word) > 1:
                rows = self._reader.process(word[:-1], len(word) - 1)
                cost += nats(rows, word[1:]).sum()
                self._reader.rewind(len(prefix))
            found.append(-cost)
        self._processed = prefix
        return np.array(found)

    def _common(self, tokens: list[int]) -> int:
        """How many of these tokens are processed already; the last one is again, for its logits."""
        pairs = enumerate(zip(self._processed, tokens[:-1], strict=False))
        shorter = min(len(self._processed), len(tokens) - 1)
        return max(0, next((place for place, (ours, theirs) in pairs if ours != theirs), shorter))

    def _tokens(self, context: str) -> list[int]:
        return begun(self._reader, self._reader.encode(context))


def open_prompted(model: Model, reader: Reader) -> PromptedSession:
    """The session of a model whose record has a prompt."""
    reading = model.record.preprocessing or {}
    return PromptedSession(reader, Prompt.read(reading[PROMPT]), int(reading[MAX_LENGTH]))


def cut(tokenizer: Tokenizer, texts: Texts, most: int) -> Texts:
    """Texts of at most so many tokens; of a pair both together."""
    each = max(1, most // len(texts))
    found = []
    for text in texts:
        tokens = tokenizer.encode(text) if len(text.encode("utf-8", "replace")) > each else []
        found.append(tokenizer.decode(tokens[:each]) if len(tokens) > each else text)
    return tuple(found)
