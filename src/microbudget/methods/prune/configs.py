"""Configs: express a smaller network in its own config where possible, so that its folder is an ordinary one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...runtimes.hf.widths import widths_of

NAMES = ("intermediate_size", "n_inner", "num_attention_heads", "num_key_value_heads", "head_dim")


def one_width(config: Any) -> bool:
    """Whether the config of a classifier has one number for the neurons of all its blocks, as a ViT's."""
    return isinstance(getattr(config, "intermediate_size", None), int) and isinstance(
        getattr(config, "num_hidden_layers", None), int
    )


def set_widths(network: Any, pruned: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Put the widths of a transformer's neurons and heads into its config, as far as it can express them.

    pruned: (before, after) of each layer that lost some. Returns what the config cannot express (`widths_of`): if that
    is more than nothing, the config is as it was.
    """
    config = network.config
    before = {name: getattr(config, name) for name in NAMES if hasattr(config, name)}
    _set(config, pruned)
    try:
        left = widths_of(network)
    except (
        ValueError,
        RuntimeError,
    ):  # its own class refuses it, such as heads that do not divide a width
        left = {"refused": True}
    if not left:
        return {}
    for name in NAMES:
        if name in before:
            setattr(config, name, before[name])
        elif hasattr(config, name):
            delattr(config, name)
    return widths_of(network)


def _set(config: Any, pruned: Sequence[tuple[int, int]]) -> None:
    if hasattr(config, "num_attention_heads") and getattr(config, "head_dim", None) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None) or heads
    for old, new in dict.fromkeys(pruned):
        if old == getattr(config, "intermediate_size", None):
            config.intermediate_size = new
        elif hasattr(config, "n_inner") and old == (config.n_inner or 4 * config.hidden_size):
            config.n_inner = new
        elif old == shared and heads:
            config.num_attention_heads = heads * new // old
            if getattr(config, "num_key_value_heads", None):
                config.num_key_value_heads = new
