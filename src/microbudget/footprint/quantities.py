"""Counts as papers write them, "7B", "1.4T", "235B-A22B", and devices, "2048xA100-SXM-80GB"."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ..errors import InvalidOption, InvalidUnit
from .facts import Device, find_device

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
_COUNT = re.compile(r"\s*([0-9][0-9_,]*\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*([a-z]?)\s*", re.IGNORECASE)
_DEVICES = re.compile(r"\s*(?:(\d[\d,_]*)\s*[x×*]\s*)?(.+?)\s*", re.IGNORECASE)
_SIZE = re.compile(r"([0-9.]+[kmbt]?)(?:-a([0-9.]+[kmbt]?))?", re.IGNORECASE)
LARGEST = 1e30
MOST_DEVICES = 10_000_000


def count(text: str | float, what: str) -> float:
    """The number of "7B", "300k", "8e9". Raises InvalidUnit where it is none, or not above zero."""
    match = _COUNT.fullmatch(str(text))
    if not match or match[3].lower() not in SCALES:
        negative = str(text).strip().startswith("-")
        wrong = "must be above zero" if negative else "cannot be read: write a number such as 7B, 300k or 1.4T"
        raise InvalidUnit(f"{what} {str(text)!r} {wrong}")
    value = float(match[1].replace("_", "").replace(",", "") + (match[2] or "")) * SCALES[match[3].lower()]
    if not (0 < value < LARGEST and math.isfinite(value)):
        raise InvalidUnit(f"{what} {str(text)!r} must be above zero and possible")
    return value


def rate(text: str, what: str = "rate") -> float:
    """Requests a second of "8/s", "558/h" or "2"."""
    number, _, unit = text.partition("/")
    seconds = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    if unit.strip() not in seconds:
        raise InvalidUnit(f"{what} {text!r} cannot be read: write for example 8/s or 500/h")
    return count(number, what) / seconds[unit.strip()]


def quantity(text: str, units: dict[str, float], what: str) -> float:
    """A number with one of the units, or without one, in the first unit; "7M" and "7M h" are seven million."""
    match = re.fullmatch(r"\s*(.*?[0-9.])\s*([A-Za-z/]*(?: [A-Za-z/]+)?)\s*", str(text))
    known = {"": next(iter(units.values())), **{key.lower(): scale for key, scale in units.items()}}
    unit = match[2].lower() if match else ""
    scale = ""
    if unit not in known and unit[:1] in SCALES:
        scale, unit = unit[0], unit[1:].strip()
    if not match or unit not in known:
        raise InvalidUnit(f"{what} {text!r} cannot be read: write a number and one of {', '.join(units)}")
    return count(f"{match[1]}{scale}", what) * known[unit]


def size(text: str) -> tuple[float, float] | None:
    """All and active parameters of "70B" or "235B-A22B"; None where the text is no size."""
    match = _SIZE.fullmatch(text.strip())
    if not match or text.strip().replace(".", "").isdigit():
        return None
    total = count(match[1], "parameters")
    return total, count(match[2], "parameters") if match[2] else total


def numbered(text: str) -> tuple[int | None, str]:
    """The number of devices, None where none is given, and their name: "8xH100-SXM" -> (8, "H100-SXM")."""
    match = _DEVICES.fullmatch(text)
    if not match:
        raise InvalidOption("no device is named: write for example --on 8xH100-SXM")
    if match[1] is None:
        return None, match[2]
    number = int(match[1].replace(",", "").replace("_", ""))
    if not 1 <= number <= MOST_DEVICES:
        raise InvalidOption(f"{text!r} is no possible number of devices")
    return number, match[2]


def described(name: str, watts: str | None, bandwidth: str | None, peak: str | None) -> Device:
    """A device of the facts, or one that the user describes; what is given wins over the facts.

    Raises InvalidOption for an unknown device without its limit, InvalidUnit for a number that cannot be read.
    """
    try:
        known = find_device(name)
    except InvalidOption:
        if watts is None:
            raise
        known = Device(name, "gpu", "other", 0.0, 0.0, 0.0, 0.0, {}, 0.0, "given")
    if watts is not None:
        limit = quantity(watts, {"W": 1.0, "mW": 1e-3, "kW": 1e3}, "--tdp")
        known = replace(known, limit_w=limit, idle_w=min(known.idle_w or 0.15 * limit, limit), system_w=0.0)
    if bandwidth is not None:
        speed = quantity(bandwidth, {"GB/s": 1e9, "TB/s": 1e12, "MB/s": 1e6, "B/s": 1.0}, "--bandwidth")
        known = replace(known, bytes_per_s=speed)
    if peak is not None:
        flops = count(re.sub(r"(?i)(fl)?ops?(/s)?$", "", peak.strip()), "--peak")
        known = replace(known, flops={8: flops, 16: flops, 32: flops})
    return known
