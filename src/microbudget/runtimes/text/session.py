"""A session that reads texts: tokenizer and network together. The network gets texts of one length at a time."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .encoding import TEXT, Inputs, TextEncoder, as_rows

if TYPE_CHECKING:
    from .. import Session

AT_ONCE = 16  # texts of one length in a call


class TextSession:
    """Answers texts, (n,) or (n, 2) strings under TEXT, with logits (n, classes).

    Texts of one length go through together, so that nothing is padded: an answer does not depend on the other texts,
    and no time is spent on padding. alone: one text at a time, for a network that rounds by the range of a whole batch.
    """

    def __init__(self, network: Session, encoder: TextEncoder, *, alone: bool = False) -> None:
        self._network, self._encoder, self._at_once = network, encoder, 1 if alone else AT_ONCE

    @property
    def runtime(self) -> str:
        """The network's."""
        return self._network.runtime

    def answer(self, inputs: Inputs) -> NDArray[Any]:
        """Logits (n, classes), in the order of the texts. Inputs without TEXT are the network's own."""
        if TEXT not in inputs:
            return self._network.answer(inputs)
        rows = [self._encoder.tokens(text) for text in as_rows(inputs[TEXT])]
        places: dict[int, list[int]] = defaultdict(list)
        for place, tokens in enumerate(rows):
            places[len(tokens)].append(place)
        found: dict[int, NDArray[Any]] = {}
        for same in places.values():
            for start in range(0, len(same), self._at_once):
                part = same[start : start + self._at_once]
                answers = self._network.answer(self._encoder.batch(rows[place] for place in part))
                found.update(zip(part, answers, strict=True))
        return np.stack([found[place] for place in range(len(rows))])

    def close(self) -> None:
        """Release the network."""
        self._network.close()
