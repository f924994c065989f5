"""Sized: what bytes a network in integers has at other widths and bits, and which of these meet a limit on size.

The first candidate, the whole network in 8 bits, is weighed; what its weights do not explain (scales, biases, the
graph) is taken to stay as it is. So a predicted size is rather too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...judge.budget import Measurement
from ...methods import Method
from ...methods.distill import Distill
from ...methods.prune import Prune
from ...methods.quantize import Quantize
from ...recipes.recipe import Recipe
from ...search.predicted import SAME_SHAPES

WHOLE_BITS, HALF_BITS = 8, 4
ROOM = 0.97  # of the limit: a share of the parameters is met to a few per cent
NARROWEST = 0.15  # of the parameters: below that a network is better chosen than cut


@dataclass(frozen=True)
class Bytes:
    """The bytes of a network in 8-bit integers: of its weights, and of everything else."""

    weights: float
    others: float

    @classmethod
    def of(cls, measured: Measurement) -> Bytes | None:
        """Of the measured model in 8 bits; None where its parameters are not known."""
        if not measured.parameters or measured.parameters > measured.size_bytes:
            return None
        return cls(float(measured.parameters), float(measured.size_bytes - measured.parameters))

    def at(self, share: float, bits: int) -> int:
        """About so many with a share of the parameters in so many bits."""
        return round(self.others + self.weights * share * bits / WHOLE_BITS)

    def share(self, limit_bytes: float, bits: int) -> float:
        """The share of the parameters, in so many bits, with which the limit is met; 1 and more: all of them do."""
        return (ROOM * limit_bytes - self.others) * WHOLE_BITS / (self.weights * bits)

    @property
    def least(self) -> int:
        """The smallest that is tried."""
        return self.at(NARROWEST, HALF_BITS)

    def widths(self, limit_bytes: float) -> Iterator[tuple[float, int]]:
        """Share of the parameters and bits that meet the limit: narrow in 8 bits, wider in 4."""
        for bits in (WHOLE_BITS, HALF_BITS):
            share = self.share(limit_bytes, bits)
            if NARROWEST <= share < 1:
                yield share, bits


def size_of(recipe: Recipe, known: Bytes) -> int | None:
    """About how many bytes a recipe's model has; None where it has other steps than those that are known here."""
    share, steps = 1.0, recipe.steps
    last = steps[-1] if steps else None
    if not isinstance(last, Quantize) or last.size is not None or last.max_kl is not None:
        return None
    for step in steps[:-1]:
        if isinstance(step, Prune) and step.size is not None:
            share *= float(step.size.removesuffix("x"))
        elif not _keeps_shapes(step):
            return None
    return known.at(share, last.bits)


def _keeps_shapes(step: Method) -> bool:
    if isinstance(step, Distill):
        return step.student is None and step.depth == step.width == 1.0
    return step.name() in SAME_SHAPES
