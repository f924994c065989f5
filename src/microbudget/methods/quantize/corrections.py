"""Post-training corrections: what is done so that rounded weights lose less, without training.

`equalize` evens out the ranges of channels across layers, `scales` fits each scale by least squares, `gptq` rounds each
weight so that others make up for its error, `bias` gives back the mean that rounding shifts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...errors import InvalidOption

CORRECTIONS = ("equalize", "scales", "gptq", "bias")
DEFAULT = ("scales", "gptq", "bias")
AUTO = ("auto",)  # decided when the network is known


def parsed(text: str) -> tuple[str, ...]:
    """The corrections that an option names: auto, none, or some of CORRECTIONS with commas between.

    Raises InvalidOption for what is none of these.
    """
    if text == "auto":
        return AUTO
    named = () if text == "none" else tuple(name.strip() for name in text.split(","))
    unknown = unknown_among(named)
    if unknown:
        raise InvalidOption(
            f"quantize: corrections has no {', '.join(map(repr, unknown))}; it is auto, none, or some of"
            f" {', '.join(CORRECTIONS)} with commas between"
        )
    return named


def unknown_among(names: Iterable[str]) -> list[str]:
    """Those of the names that are no correction, alphabetically."""
    return sorted(set(names) - set(CORRECTIONS))


def need_data(names: Collection[str]) -> bool:
    """Whether some of these corrections need calibration data."""
    return bool({"gptq", "bias"} & set(names))
