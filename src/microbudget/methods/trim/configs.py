"""Ids of tokens in a model's configuration files: which there are, and what they are after trimming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_NAMED = ("lang_to_id", "task_to_id")


def required(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a configuration needs. Ids that are only suppressed may be removed: they are never written."""
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in _NAMED:
            yield from required(value)
        elif key in _NAMED:
            yield from value.values()
        elif key == "forced_decoder_ids":
            yield from (token for _, token in value or () if token is not None)
        elif key.endswith(("_token_id", "_token_ids")):
            yield from _integers(value)


def renumbered(config: Mapping[str, Any], new: Mapping[int, int], rows: int) -> dict[str, Any]:
    """The configuration with new ids. new: new id by old one; rows: of the embedding before."""
    return {key: _value(key, value, new, rows) for key, value in config.items()}


def _value(key: str, value: Any, new: Mapping[int, int], rows: int) -> Any:
    if isinstance(value, Mapping):
        named = key in _NAMED
        return {name: new[old] for name, old in value.items()} if named else renumbered(value, new, rows)
    if key == "vocab_size" and value == rows:
        return len(new)
    if key in _LISTS and isinstance(value, list):  # -1 means a runtime's own list
        return [new.get(token, token) for token in value if token < 0 or token in new]
    if key == "forced_decoder_ids" and value:
        return [[place, None if token is None else new[token]] for place, token in value]
    if key == "bad_words_ids" and value:
        return [[new[token] for token in word] for word in value if all(token in new for token in word)]
    if key.endswith(("_token_id", "_token_ids")):
        return [new.get(token, token) for token in value] if isinstance(value, list) else new.get(value, value)
    return value


def _integers(value: Any) -> list[int]:
    found = value if isinstance(value, list) else [value]
    return [token for token in found if isinstance(token, int) and not isinstance(token, bool) and token >= 0]
