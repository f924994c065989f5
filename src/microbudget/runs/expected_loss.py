"""Expected loss: what the labels and the divergence from the reference say together about a candidate's loss.

A dozen labels tie: a model that lost none of them may lose one of ten. How far the answers are from the reference's
needs no labels and varies less from sample to sample, but says only how much may be lost. Each counts by how well it
is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .candidates import Candidate

# Of the answers that a divergence allows to change (Pinsker's inequality), so many are lost, before any label is seen:
# .09 to .11 with EfficientNet-Lite0 in 8 and 4 bits (docs/results/real.md). Known to a factor of two.
LOST_SHARE = 0.1
WIDTH = 2 * 1.96  # standard deviations between the ends of a 95 % interval


@dataclass(frozen=True)
class Signs:
    """What a candidate shows of its loss. loss: by the labels, above 0 where it is worse, with its standard error.

    changed: what its divergence allows to change, None where that is not known.
    """

    loss: float
    error: float
    changed: float | None

    @classmethod
    def of(cls, row: Candidate) -> Signs:
        """Of a row; a reference, which has no verdict, has lost nothing."""
        if row.verdict is None:
            return cls(0.0, 0.0, 0.0)
        verdict = row.verdict
        return cls(-verdict.change, (verdict.change_high - verdict.change_low) / WIDTH, _changed(row))


def expected_losses(rows: Sequence[Candidate]) -> list[float]:
    """The posterior mean of each row's loss, in the order of the rows; a fraction, above 0 where it is worse.

    The loss by the labels is normal about the loss. The loss is normal about `slope` times what the divergence allows
    to change, and is known to as much; the slope is that of all rows (empirical Bayes: Efron & Morris 1973, "Stein's
    estimation rule and its competitors"). Without a divergence it is the loss by the labels.
    """
    signs = [Signs.of(row) for row in rows]
    prior = LOST_SHARE if _is_share(rows) else 0.0  # 0: nothing is known beforehand
    slope = _slope(signs, prior)
    return [_posterior(each, slope, max(slope, prior)) for each in signs]


def _posterior(signs: Signs, slope: float, spread: float) -> float:
    """spread: the standard deviation of what is lost of each that may change, in proportion to it."""
    if signs.changed is None or spread == 0.0 or signs.error == 0.0:
        return signs.loss
    if signs.changed == 0.0:
        return 0.0
    predicted, variance = slope * signs.changed, (spread * signs.changed) ** 2
    return predicted + variance / (variance + signs.error**2) * (signs.loss - predicted)


def _slope(signs: Sequence[Signs], prior: float) -> float:
    """What is lost of what may change: least squares over the rows, each by its error, with the prior as one more."""
    products, squares = (1 / prior, 1 / prior**2) if prior else (0.0, 0.0)
    for each in signs:
        if each.changed and each.error:
            products += each.changed * each.loss / each.error**2
            squares += (each.changed / each.error) ** 2
    return max(0.0, products / squares) if squares else 0.0


def _changed(row: Candidate) -> float | None:
    """The share of the answers that may differ from the reference's, or a number in proportion to it.

    Probabilities whose Kullback-Leibler divergence is D differ by at most sqrt(D / 2) (Pinsker). Bits and word errors
    are what the divergence is measured in.
    """
    divergence = None if row.measurement is None else row.measurement.divergence
    if divergence is None:
        return None
    return math.sqrt(max(0.0, divergence) / 2) if _is_share([row]) else divergence


def _is_share(rows: Sequence[Candidate]) -> bool:
    return any(row.measurement is not None and row.measurement.metric == "accuracy" for row in rows)
