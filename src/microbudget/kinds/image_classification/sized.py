"""Sized: what bytes a network in integers has at other widths and bits, and which of these meet a limit on size.

The first candidate, the whole network in 8 bits, is weighed. What its weights do not explain are scales and biases, a
few numbers for each channel, and the graph. Channels go with the root of the parameters: a layer has them twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...judge.budget import Measurement
from ...methods import Method
from ...methods.distill import Distill
from ...methods.export import Export
from ...methods.prune import Prune
from ...methods.quantize import Quantize
from ...recipes.recipe import Recipe
from ...search.predicted import SAME_SHAPES
from ...units import format_bytes

FLOAT_BITS, WHOLE_BITS, HALF_BITS = 32, 8, 4
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
        return round(self.others * math.sqrt(share) + self.weights * share * bits / WHOLE_BITS)

    def share(self, limit_bytes: float, bits: int) -> float:
        """The share of the parameters, in so many bits, with which the limit is met; 1 and more: all of them do."""
        weights, others = self.weights * bits / WHOLE_BITS, self.others
        root = (math.sqrt(others**2 + 4 * weights * ROOM * limit_bytes) - others) / (2 * weights)
        return root**2

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

    def nearest(self, limit_bytes: float) -> Iterator[tuple[float, int]]:
        """As `widths`; where nothing meets the limit, the smallest that is tried."""
        found = list(self.widths(limit_bytes))
        yield from found or [(NARROWEST, HALF_BITS)] * (self.at(1, HALF_BITS) > limit_bytes)


def about(known: Bytes, limit_bytes: int) -> str:
    """What meets a limit that the whole network in 8 bits does not, or what comes nearest."""
    whole, limit = format_bytes(known.at(1, WHOLE_BITS)), format_bytes(limit_bytes)
    ways = [f"{share * 100:.0f} % of the parameters in {bits} bits" for share, bits in known.widths(limit_bytes)]
    if known.at(1, HALF_BITS) <= limit_bytes:
        ways.append("all of them in 8 and 4 bits")
    if ways:
        return f"the whole network has {whole} in 8 bits; {limit} takes {', or '.join(ways)}"
    return (
        f"the whole network has {whole} in 8 bits, and the smallest that is tried about {format_bytes(known.least)}"
        f" ({NARROWEST * 100:.0f} % of the parameters in {HALF_BITS} bits): no shape meets {limit}"
    )


def size_of(recipe: Recipe, known: Bytes) -> int | None:
    """About how many bytes a recipe's model has; None where it has other steps than those that are known here."""
    share, steps = 1.0, recipe.steps
    bits = _bits(steps[-1]) if steps else None
    if bits is None:
        return None
    for step in steps[:-1]:
        if isinstance(step, Prune) and step.size is not None:
            share *= float(step.size.removesuffix("x"))
        elif not _keeps_shapes(step):
            return None
    return known.at(share, bits)


def _bits(last: Method) -> int | None:
    """Of the weights after the last step; None where each layer has its own, or where nothing says it."""
    if isinstance(last, Export) and last.format == "onnx":
        return FLOAT_BITS
    if isinstance(last, Quantize) and last.size is None and last.max_kl is None:
        return last.bits
    return None


def _keeps_shapes(step: Method) -> bool:
    if isinstance(step, Distill):
        return step.student is None and step.depth == step.width == 1.0
    return step.name() in SAME_SHAPES
