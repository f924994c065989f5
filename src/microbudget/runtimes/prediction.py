"""Prediction: what a model answers to one input, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import softmax


@dataclass(frozen=True)
class Prediction:
    """The answer to an input: a label, or a text. probabilities: of a classifier, by label, the most likely first."""

    input: str
    answer: str
    probabilities: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def classified(names: Sequence[str], logits: NDArray[Any], labels: Sequence[str] | None) -> Iterator[Prediction]:
    """Predictions from logits, (inputs, classes). names: of the inputs. Without labels classes have their numbers."""
    known = labels or [f"class {number}" for number in range(logits.shape[1])]
    for name, shares in zip(names, softmax(logits), strict=True):
        order = np.argsort(-shares, kind="stable")
        ranked = {known[place]: float(shares[place]) for place in order}
        yield Prediction(name, known[order[0]], ranked)
