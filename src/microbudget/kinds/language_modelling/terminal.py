"""What the verbs print of language models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...judge.budget import Measurement
from ...report.terminal import console, table
from ...units import format_bytes
from .fits import Level

MISSING = "-"


def rows(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """How questions were asked, and the accuracy of each file of them; nothing else besides the numbers in `extra`."""
    asked = measurement.extra.get("questions")
    if asked is not None:
        yield "asked", asked_how(asked)
    for name, share in measurement.extra.get("by_file", {}).items():
        yield name, f"{share['accuracy']:.4f} on {share['examples']}"


def asked_how(asked: Mapping[str, int]) -> str:
    """In words: how many questions by likelihood and by writing, and through which template."""
    choices, written, chats = asked.get("choices", 0), written_answers(asked), asked["by_chat_template"]
    parts = [f"{choices} by likelihood per byte, without a chat template"] if choices else []
    if written > chats:
        parts.append(f"{written - chats} by greedy decoding, without a chat template")
    if chats:
        parts.append(f"{chats} by greedy decoding through the model's chat template")
    return "; ".join(parts)


def written_answers(asked: Mapping[str, int]) -> int:
    """How many questions were answered in text."""
    return asked.get("answer", 0) + asked.get("regex", 0)


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
