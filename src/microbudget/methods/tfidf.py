"""tfidf: no network at all. Counts of words or of character n-grams, weighted, and logistic regression on them.

What is done for a kind of model is in the kind's own `tfidf.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidOption
from . import Method, option

LENGTHS = {"word": (1, 2), "char": (3, 5)}  # of the n-grams, where they are not given


@dataclass(frozen=True)
class Tfidf(Method):
    """Replace the network by n-grams of words or characters with logistic regression: what needs no network."""

    teaches: ClassVar[bool] = True
    formats: ClassVar[dict[str, str]] = {"hf": "onnx", "onnx": "onnx"}

    unit: str = option("word", "what is counted: words, or characters", choices=("word", "char"), always_shown=True)
    shortest: int | None = option(None, "units of the shortest n-gram; by default 1 word, 3 characters", low=1, high=16)
    longest: int | None = option(None, "units of the longest n-gram; by default 2 words, 5 characters", low=1, high=16)
    features: int = option(50_000, "n-grams that are kept at most: the most frequent", low=1, high=10_000_000)
    C: float | None = option(
        None,
        "inverse strength of the L2 penalty; by default the one with the lowest loss on validation",
        low=1e-6,
        high=1e6,
    )

    @property
    def lengths(self) -> tuple[int, int]:
        """Units of the shortest and of the longest n-gram. Raises InvalidOption where the first is longer."""
        usual = LENGTHS[self.unit]
        shortest = self.shortest or (usual[0] if self.longest is None else min(usual[0], self.longest))
        longest = self.longest or max(usual[1], shortest)
        if shortest > longest:
            raise InvalidOption(f"tfidf: shortest={shortest} is longer than longest={longest}")
        return shortest, longest
