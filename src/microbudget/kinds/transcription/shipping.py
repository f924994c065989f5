"""What ships with a speech model: in the card its word errors on long audio."""

from __future__ import annotations

from ...judge.budget import Measurement
from ...ship.shipping import CardRow, Shipping
from ...units import format_seconds


def _card_rows(test: Measurement, reference: Measurement | None) -> tuple[CardRow, ...]:
    """The word error rate on long audio, where it was measured."""
    ours = test.extra.get("long_form")
    if not ours:
        return ()
    theirs = reference.extra.get("long_form") if reference is not None else None
    of = f"{ours['joined']} utterances joined" if ours["joined"] else f"{ours['recordings']} recordings"
    what = f"wer on long audio, test ({of}, {format_seconds(ours['seconds'])})"
    return ((what, f"{ours['wer']:.4f}", f"{theirs['wer']:.4f}" if theirs else ""),)


SHIPPING = Shipping(pipeline_tag="automatic-speech-recognition", card_rows=_card_rows)
