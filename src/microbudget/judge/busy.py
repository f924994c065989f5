"""A busy machine: which blocks of a timing other programs disturbed, and when a timing says so.

Wherever enough blocks are undisturbed the others are left out; what remains then is the time on a quiet machine. Where
too few are, all count, and the timing carries a mark: its ratio is that of a busy machine, which can be another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..machine.stopwatch import Block
from .intervals import FEWEST

ENOUGH = 12  # undisturbed blocks, or pairs of them, that suffice without the others
SPREAD = 0.5  # of the middle 80 % of a model's blocks, relative to their median, from which on something disturbs it
REASON = "other programs had the processor"


def enough(quiet: int, kept: int) -> bool:
    """Whether so many undisturbed blocks of those that were kept suffice."""
    return quiet >= min(ENOUGH, max(FEWEST, kept // 2), max(1, kept))


def waited(blocks: Sequence[Block]) -> float | None:
    """For what share of the time a thread of these blocks waited for a processor, on average; None: unknown."""
    known = [block.waited for block in blocks if block.waited is not None]
    return float(np.mean(known)) if known else None


def spread(blocks: Sequence[Block]) -> float:
    """How far the middle 80 % of the blocks' medians reach, relative to their median."""
    low, middle, high = np.quantile([block.median_s for block in blocks], (0.1, 0.5, 0.9))
    return float((high - low) / middle)


def mark(blocks: Sequence[Block]) -> str:
    """Why the timing of these blocks is that of a busy machine; "" where nothing says that it is.

    The spread counts only with enough blocks, and where the system does not say that no thread has waited: a processor
    with two speeds is no busy machine.
    """
    share = waited(blocks)
    if share is not None and not all(block.quiet for block in blocks):
        return f"{REASON} for {min(share, 1):.0%} of the time"
    if share is None and len(blocks) >= ENOUGH and (wide := spread(blocks)) > SPREAD:
        return f"its times spread over {wide:.0%} of their median"
    return ""
