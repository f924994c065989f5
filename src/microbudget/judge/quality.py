"""Quality: a model's outputs scored against the data, with the interval of the metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..task import Scores
from . import statistics


@dataclass(frozen=True)
class Quality:
    """Scores example by example, the 95 % interval of their metric, and what else the kind of the task reports."""

    scores: Scores
    low: float
    high: float
    extra: dict[str, Any] = field(default_factory=dict)


def joined(parts: list[Scores]) -> Scores:
    """The Scores of several chunks of examples as one."""
    first = parts[0]
    return Scores(
        first.metric,
        np.concatenate([part.numerator for part in parts]),
        np.concatenate([part.denominator for part in parts]),
        first.higher_is_better,
    )


def interval(scores: Scores) -> tuple[float, float]:
    """95 % interval of a metric: Wilson's for a proportion of examples, else a bootstrap over examples."""
    if np.isin(scores.numerator, (0, 1)).all() and (scores.denominator == 1).all():
        return statistics.wilson(float(scores.numerator.sum()), len(scores.numerator))
    return _bootstrap(scores)


def _bootstrap(scores: Scores, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    coin, n = np.random.default_rng(seed), len(scores.numerator)
    values: NDArray[np.float64] = np.empty(draws)
    for draw in range(draws):  # one at a time: (draws, n) indices would grow with the data
        chosen = coin.integers(0, n, n)
        values[draw] = scores.numerator[chosen].sum() / scores.denominator[chosen].sum()
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
