"""Sizes, times, energies and losses, between text and numbers: "2 MB", "5 ms", "3 mJ", "1 pt", "1 %"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import InvalidUnit

BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
JOULES = {"nJ": 1e-9, "uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "Wh": 3600.0}
_ANY_CASE = {name.lower(): name for name in BYTES}  # 3mb: there are no millibytes

_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ%]+)\s*")


@dataclass(frozen=True)
class Drop:
    """A limit on the loss of quality: in points (a fraction, 0.01 = `1pt`) or relative (0.01 = `1%`)."""

    amount: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount * 100:.10g}{'%' if self.relative else 'pt'}"


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if not match or match[2] not in units:
        raise InvalidUnit(f"{what} {text!r} cannot be read: write a number and one of {', '.join(units)}")
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value) or value <= 0:
        raise InvalidUnit(f"{what} {text!r} must be above zero and finite")
    return value


def parse_bytes(text: str) -> int:
    """Bytes of "4MB" (decimal) or "4 MiB" (binary)."""
    match = _QUANTITY.fullmatch(text)
    if match and match[2] not in BYTES and match[2].lower() in _ANY_CASE:
        text = match[1] + _ANY_CASE[match[2].lower()]
    return max(1, round(_quantity(text, BYTES, "size")))


def parse_seconds(text: str) -> float:
    """Seconds of "5 ms"."""
    return _quantity(text, SECONDS, "time")


def parse_joules(text: str) -> float:
    """Joules of "3mJ"."""
    return _quantity(text, JOULES, "energy")


def parse_drop(text: str) -> Drop:
    """The loss limit of "1pt" (0.01 of accuracy or WER) or "1%" (relative). "0pt" is allowed."""
    match = _QUANTITY.fullmatch(text)
    if not match or match[2] not in ("pt", "%"):
        raise InvalidUnit(f"loss {text!r} cannot be read: write for example 1pt (0.01 of accuracy) or 1% (relative)")
    amount = float(match[1]) / 100
    if amount >= 1:
        raise InvalidUnit(f"loss {text!r} must be below 100")
    return Drop(amount, relative=match[2] == "%")


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    factor, unit = next((pair for pair in units if abs(value) >= pair[0]), units[-1])
    shown = value / factor
    digits = max(0, 2 - math.floor(math.log10(abs(shown)))) if shown else 0
    return f"{shown:.{min(digits, 3)}f} {unit}"


def format_bytes(value: float) -> str:
    """Three significant digits and a decimal unit: 3_490_000 -> "3.49 MB"."""
    return f"{value:.0f} B" if abs(value) < 1000 else _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def format_seconds(value: float) -> str:
    """Three significant digits and a unit: 0.00213 -> "2.13 ms"."""
    return _scaled(value, ((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))


def format_joules(value: float) -> str:
    """Three significant digits and a unit: 0.0042 -> "4.20 mJ"."""
    return _scaled(value, ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")))


def format_times(ratio: float) -> str:
    """How many times, with as many digits as are worth reading: "238", "6.4", "1.03", "0.00068"."""
    if 0 < ratio < 0.1:
        return f"{ratio:.{1 - math.floor(math.log10(ratio))}f}"
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 1.95 else f"{ratio:.2f}"


def format_change(change: float, metric: str) -> str:
    """A signed change as the metric has it: in points, or relative for bits per byte: -0.0125 -> "-1.25 %"."""
    return f"{change * 100:+.2f} %" if metric == "bits per byte" else format_points(change)


def format_points(fraction: float) -> str:
    """A signed change in points: -0.0125 -> "-1.25 pt"."""
    return f"{round(fraction * 100, 2) + 0.0:+.2f} pt"  # no "-0.00"
