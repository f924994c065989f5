"""Falcon: attention and the feed-forward part side by side; queries, keys and values in one matrix, by groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import UnsupportedModel
from .family import BLOCK, GELU, Family, LanguageConfig, Settings, biased, head_row, refuse_set, weight, widened

LAYER = "transformer.h.{layer}."
_NO_ALIBI = (
    "positions are then a bias of the attention, divided by the root of a head's width, which no graph of llama.cpp"
    " computes: this Falcon (such as Falcon-RW) runs in torch only"
)


def group_apart(array: NDArray[Any], config: LanguageConfig) -> NDArray[Any]:
    """All queries, then all keys, then all values, out of groups of (queries, key, value) for each head of keys.

    array: (attention inputs, ...); the same shape comes back.
    """
    shared = config.heads // config.kv_heads
    groups = array.reshape(config.kv_heads, shared + 2, config.head, *array.shape[1:])
    parts = (groups[:, :shared], groups[:, shared], groups[:, shared + 1])
    return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])


def _two_norms(config: LanguageConfig) -> bool:
    return bool(config.raw["num_ln_in_parallel_attn"] == 2)


def _one_norm(config: LanguageConfig) -> bool:
    return not _two_norms(config)


_ROWS = (
    *weight("transformer.word_embeddings", "token_embd", "vocabulary", "hidden"),
    *biased("transformer.ln_f", "output_norm", "hidden"),
    *head_row(),
    *biased(LAYER + "input_layernorm", BLOCK + "attn_norm", "hidden", bias=_one_norm, when=_one_norm),
    *biased(LAYER + "ln_mlp", BLOCK + "attn_norm", "hidden", bias=_two_norms, when=_two_norms),
    *biased(LAYER + "ln_attn", BLOCK + "attn_norm_2", "hidden", bias=_two_norms, when=_two_norms),
    *weight(
        LAYER + "self_attention.query_key_value",
        BLOCK + "attn_qkv",
        "attention_inputs",
        "hidden",
        change=group_apart,
    ),
    *weight(LAYER + "self_attention.dense", BLOCK + "attn_output", "hidden", "queries"),
    *weight(LAYER + "mlp.dense_h_to_4h", BLOCK + "ffn_up", "inner", "hidden"),
    *weight(LAYER + "mlp.dense_4h_to_h", BLOCK + "ffn_down", "hidden", "inner"),
)


def _settle(settings: Settings) -> Settings:
    """Heads of keys and norms, which follow from flags; the new architecture has parallel parts whatever they say."""
    heads, new = settings.get("num_attention_heads"), settings.get("new_decoder_architecture")
    kv_heads = settings.get("num_kv_heads", heads) if new else 1 if settings["multi_query"] else heads
    return {
        "num_ln_in_parallel_attn": 2 if new else 1,
        **settings,
        "intermediate_size": widened(settings, "ffn_hidden_size"),
        "num_key_value_heads": kv_heads,
        "parallel_attn": bool(new or settings["parallel_attn"]),
    }


def _check(settings: Settings, name: str) -> None:
    refuse_set(settings, name, {
        "alibi": _NO_ALIBI,
        "bias": "llama.cpp's Falcon has no biases in its matrices",
        "apply_residual_connection_post_layernorm": "llama.cpp's Falcon adds what was there before the norm",
    })  # fmt: skip
    if not settings["parallel_attn"]:
        raise UnsupportedModel(
            f"{name}: parallel_attn is off, and llama.cpp's Falcon computes attention and the feed-forward part side by"
            " side"
        )
    norms, new = settings["num_ln_in_parallel_attn"], settings.get("new_decoder_architecture")
    if norms not in (1, 2) or (norms == 2 and not new):
        raise UnsupportedModel(f"{name}: num_ln_in_parallel_attn is {norms!r}; llama.cpp's Falcon has one norm or two")


FAMILIES: dict[str, Family] = {
    "falcon": Family(
        "falcon",
        _ROWS,
        epsilon="layer_norm_epsilon",
        epsilon_key="attention.layer_norm_epsilon",
        # Falcon's own is the exact one: llama.cpp's differs by less than 5e-4, and everybody's GGUF files have it.
        activation=("activation", ("gelu", *GELU)),
        scalings=("default", "linear", "yarn"),
        defaults={
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "multi_query": True,
            "parallel_attn": True,
        },
        names={
            "n_embed": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_head_kv": "num_kv_heads",
        },
        prefix="transformer.",
        settle=_settle,
        check=_check,
    )
}
