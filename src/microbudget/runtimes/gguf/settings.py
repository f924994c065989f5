"""Numbers out of a config.json, which may hold anything."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel

LARGEST = 2**31 - 1
LARGEST_FLOAT = 3e38  # that a GGUF file holds, in float32
# More than any model has; without limits a config of a few bytes would make names and tokens fill the memory.
MOST = {"num_hidden_layers": 4096, "vocab_size": 2**21}


def positive(value: Any, what: str, name: str) -> float:
    """A number above zero; `what` and `name` are what the error calls it and the file. Raises UnsupportedModel."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST_FLOAT:
        raise UnsupportedModel(f"{name}: {what} is {value!r}, not a number above zero")
    return float(value)


def whole(settings: dict[str, Any], key: str, name: str) -> int:
    """A whole number from 1 on. Raises UnsupportedModel."""
    value, most = settings.get(key), MOST.get(key, LARGEST)
    if type(value) is not int or not 0 < value <= most:
        raise UnsupportedModel(f"{name}: {key} must be a whole number from 1 to {most}, not {value!r}")
    return value


def real(settings: dict[str, Any], key: str, default: float, name: str) -> float:
    """A number between 0 and 1, such as an epsilon. Raises UnsupportedModel."""
    value = settings.get(key, default)
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise UnsupportedModel(f"{name}: {key} must be a number above zero, not {value!r}")
    return float(value)
