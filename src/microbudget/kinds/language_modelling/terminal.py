"""What the verbs print of language models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...judge.budget import Measurement
from ...report.terminal import console, table
from ...units import format_bytes
from .fits import Level
from .placing import Placed

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


def print_placed(rows: Sequence[Placed]) -> None:
    """Each level on a device; of several devices the largest level that fits, or else the smallest of all."""
    names = list(dict.fromkeys(row.device for row in rows))
    shown = rows if len(names) == 1 else [_best([row for row in rows if row.device == name]) for name in names]
    if not shown:
        return
    first = shown[0]
    printed = table(
        "level" if len(names) == 1 else "device, level", "file", f"memory, {first.context} tokens x {first.batch}",
        "usable", "fits", "tokens/s at most", "J a token", "give up",
    )  # fmt: skip
    for row in shown:
        printed.add_row(
            row.type if len(names) == 1 else f"{row.device}, {row.type}",
            format_bytes(row.size_bytes),
            format_bytes(row.memory_bytes),
            format_bytes(row.usable_bytes),
            "yes" if row.fits else "no",
            MISSING if row.tokens_per_s is None else f"{row.tokens_per_s:,.3g}",
            MISSING if row.energy_j_per_token is None else f"{row.energy_j_per_token:.2g}",
            row.give_up,
        )
    console().print(printed)


def _best(rows: Sequence[Placed]) -> Placed:
    """The largest level that fits, or else the smallest."""
    return next((row for row in rows if row.fits), rows[-1])
