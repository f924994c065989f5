"""What the verbs print of speech models."""

from __future__ import annotations

from collections.abc import Iterator

from ...judge.budget import Measurement
from ...units import format_seconds


def rows(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """What kinds of errors the transcripts have, and the word error rate on long audio."""
    extra = measurement.extra
    kinds = ", ".join(f"{extra[name]} {name}" for name in ("substitutions", "deletions", "insertions"))
    yield "errors", f"{kinds} of {extra['words']} words ({extra['normalizer']} normalizer)"
    yield "transcripts", f"{extra['empty']} empty, {extra['hallucinated']} made up, {extra.get('runaways', 0)} runaways"
    if long := extra.get("long_form"):
        of = f"{long['joined']} utterances joined" if long["joined"] else f"{long['recordings']} recordings"
        yield "long form", f"wer {long['wer']:.4f} on {long['words']} words, {of} to {format_seconds(long['seconds'])}"
