"""Configs: say a smaller network in its own config where that can be, so that its folder is an ordinary one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...runtimes.widths import widths_of


def say_widths(network: Any, pruned: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Put the widths of a transformer's neurons and heads into its config, if it can say them.

    pruned: (before, after) of each layer that lost some. Returns what the config cannot say (`widths_of`); then the
    config is as it was.
    """
    config, before = network.config, network.config.to_dict()
    if hasattr(config, "num_attention_heads") and getattr(config, "head_dim", None) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None) or heads
    for old, new in dict.fromkeys(pruned):
        if old == getattr(config, "intermediate_size", None):
            config.intermediate_size = new
        elif old == shared and heads:
            config.num_attention_heads = heads * new // old
            if getattr(config, "num_key_value_heads", None):
                config.num_key_value_heads = new
    left = widths_of(network)
    if left:
        for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            if name in before:
                setattr(config, name, before[name])
        if before.get("head_dim") is None and hasattr(config, "head_dim"):
            del config.head_dim
        left = widths_of(network)
    return left
