"""What the verbs print of language models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...judge.budget import Measurement
from ...report.terminal import console, table
from ...units import format_bytes
from .fits import Level

MISSING = "-"


def rows(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Nothing besides the numbers in `extra`."""
    yield from ()


def print_levels(levels: Sequence[Level]) -> None:
    """What each level of a language model takes, before it is made."""
    context = levels[0].context if levels else 0
    printed = table(
        "level", "file", "bits", f"memory, {context} tokens", "of that cache", "tokens/s at most", f"after {context}",
        "fallbacks",
    )  # fmt: skip
    for level in levels:
        rates = (level.decode_tokens_per_s, level.full_tokens_per_s)
        printed.add_row(
            level.type,
            format_bytes(level.size_bytes),
            f"{level.bits_per_weight:.2f}",
            format_bytes(level.memory_bytes),
            format_bytes(level.cache_bytes),
            *(MISSING if rate is None else f"{rate:,.0f}" for rate in rates),
            str(level.fallbacks) if level.fallbacks else "",
        )
    console().print(printed)
