"""Gemma: norms that multiply by 1 + weight; 2 and 3 have more of them, windows in most layers, logits that saturate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import UnsupportedModel
from ..settings import LARGEST, positive, whole
from .family import (
    BLOCK,
    GELU,
    LAYER,
    SLIDING_WINDOW,
    Entries,
    Family,
    LanguageConfig,
    Row,
    Settings,
    as_float32,
    head_row,
    refuse_set,
    weight,
)

LOCAL_THETA = 10000.0  # of the layers with a window, in Gemma 3
SLIDING, FULL = "sliding_attention", "full_attention"
ATTENTION_CAP, FINAL_CAP = "attn_logit_softcapping", "final_logit_softcapping"
_PERIODS = {"gemma2": 2, "gemma3_text": 6}  # of so many layers, the last looks back over everything
# llama.cpp knows the largest models by their layers, and scales their queries by another width than a head's.
_LARGEST = {"gemma2": 46, "gemma3_text": 62}


def _query_scale(config: LanguageConfig) -> float:
    """By what queries are multiplied, so that llama.cpp's own scale becomes `query_pre_attn_scalar`'s: mostly 1."""
    largest = config.layers == _LARGEST[config.model_type]
    width = config.hidden // config.heads if largest else config.head
    return math.sqrt(width / config.raw["query_pre_attn_scalar"])


def _one_more(array: NDArray[Any], _: LanguageConfig) -> NDArray[np.float32]:
    """Gemma's norms multiply by 1 + weight."""
    return as_float32(array) + np.float32(1)


def _scaled(array: NDArray[Any], config: LanguageConfig) -> NDArray[Any]:
    scale = _query_scale(config)
    return array if scale == 1 else as_float32(array) * np.float32(scale)


def _one_more_scaled(array: NDArray[Any], config: LanguageConfig) -> NDArray[Any]:
    return _scaled(_one_more(array, config), config)


def _norm(source: str, target: str, width: str = "hidden", **more: Any) -> tuple[Row, ...]:
    return weight(source, target, width, **{"change": _one_more, **more})


_GEMMA = (
    *weight("model.embed_tokens", "token_embd", "vocabulary", "hidden"),
    *_norm("model.norm", "output_norm"),
    *weight(LAYER + "self_attn.q_proj", BLOCK + "attn_q", "queries", "hidden"),
    *weight(LAYER + "self_attn.k_proj", BLOCK + "attn_k", "keys", "hidden"),
    *weight(LAYER + "self_attn.v_proj", BLOCK + "attn_v", "keys", "hidden"),
    *weight(LAYER + "self_attn.o_proj", BLOCK + "attn_output", "hidden", "queries"),
    *weight(LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", "inner", "hidden"),
    *weight(LAYER + "mlp.up_proj", BLOCK + "ffn_up", "inner", "hidden"),
    *weight(LAYER + "mlp.down_proj", BLOCK + "ffn_down", "hidden", "inner"),
    *_norm(LAYER + "input_layernorm", BLOCK + "attn_norm"),
)
_FIRST = (*_GEMMA, *_norm(LAYER + "post_attention_layernorm", BLOCK + "ffn_norm"))
_AROUND = (  # norms before and after each part
    *_GEMMA,
    *_norm(LAYER + "post_attention_layernorm", BLOCK + "post_attention_norm"),
    *_norm(LAYER + "pre_feedforward_layernorm", BLOCK + "ffn_norm"),
    *_norm(LAYER + "post_feedforward_layernorm", BLOCK + "post_ffw_norm"),
)
_GEMMA2 = tuple(replace(row, change=_scaled) if "q_proj" in row.source else row for row in _AROUND)
_GEMMA3 = (
    *_AROUND,
    *head_row(),
    *_norm(LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", "head", change=_one_more_scaled),
    *_norm(LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", "head"),
)


def _pattern(settings: Settings) -> int | None:
    """After how many layers one looks back over everything, by layer_types or sliding_window_pattern; 0: none does.

    None: in no regular order, or all do, which ends llama.cpp's process.
    """
    layers, types = settings.get("num_hidden_layers"), settings.get("layer_types")
    usual = _PERIODS[settings["model_type"]]
    if types is None:
        given = settings.get("sliding_window_pattern", usual)
        return given if type(given) is int and 1 < given <= LARGEST else None
    if type(layers) is not int or not isinstance(types, list) or len(types) != layers:
        return None
    if FULL not in types:
        return usual if usual > layers else 0
    period = types.index(FULL) + 1
    regular = types == [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(layers)]
    return period if regular and period > 1 else None


def _settle(settings: Settings) -> Settings:
    """transformers 5 has the rotations of both sorts of layers by name, older configs have two bases."""
    found = settings.get("rope_parameters")
    if not isinstance(found, dict) or not any(isinstance(found.get(sort), dict) for sort in (FULL, SLIDING)):
        return settings
    local = found.get(SLIDING) or {}
    return {
        **settings,
        "rope_parameters": found.get(FULL) or {},
        "rope_local_base_freq": local.get("rope_theta", settings.get("rope_local_base_freq", LOCAL_THETA)),
        "rope_local_type": local.get("rope_type", "default"),
    }


def _check_first(settings: Settings, name: str) -> None:
    refuse_set(settings, name, {
        "attention_bias": f"llama.cpp has no attention_bias for {settings['model_type']}",
        "use_bidirectional_attention": "llama.cpp lets a token look back only",
    })  # fmt: skip


def _check(settings: Settings, name: str) -> None:
    model_type = settings["model_type"]
    _check_first(settings, name)
    if _pattern(settings) is None:
        raise UnsupportedModel(
            f"{name}: llama.cpp's {model_type} needs layers with a window, and one without after each so many of them;"
            " layer_types or sliding_window_pattern says otherwise"
        )
    positive(settings["query_pre_attn_scalar"], "query_pre_attn_scalar", name)
    for cap in (ATTENTION_CAP, FINAL_CAP):
        if cap in settings:
            positive(settings[cap], cap, name)
    whole(settings, "sliding_window", name)


def _check_gemma2(settings: Settings, name: str) -> None:
    _check(settings, name)
    missing = [cap for cap in (ATTENTION_CAP, FINAL_CAP) if cap not in settings]
    if missing:
        raise UnsupportedModel(f"{name}: {missing[0]} is null, and llama.cpp's Gemma 2 always caps")


def _check_gemma3(settings: Settings, name: str) -> None:
    _check(settings, name)
    if ATTENTION_CAP in settings:
        raise UnsupportedModel(f"{name}: {ATTENTION_CAP} is set, and llama.cpp's Gemma 3 has none")
    positive(settings["rope_local_base_freq"], "rope_local_base_freq", name)
    if settings.get("rope_local_type", "default") != "default":
        raise UnsupportedModel(
            f"{name}: positions of the layers with a window are scaled by {settings['rope_local_type']!r}; llama.cpp's"
            " Gemma 3 scales those of the others only"
        )


def _entries(config: LanguageConfig) -> Entries:
    settings, period = config.raw, _pattern(config.raw)
    usual = _PERIODS[config.model_type]
    whole_numbers = {"attention.sliding_window": int(settings["sliding_window"])}
    if period != usual:
        whole_numbers["attention.sliding_window_pattern"] = period or 0
    real = {cap: float(settings[cap]) for cap in (ATTENTION_CAP, FINAL_CAP) if cap in settings}
    local = settings["rope_local_base_freq"] if config.model_type == "gemma3_text" else LOCAL_THETA
    if local != LOCAL_THETA:
        real["rope.freq_base_swa"] = float(local)
    return Entries(whole_numbers, real)


_DEFAULTS: Settings = {
    "head_dim": 256,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": SLIDING_WINDOW,
}
FAMILIES: dict[str, Family] = {
    "gemma": Family(
        "gemma",
        _FIRST,
        activation=("hidden_act", (*GELU, "gelu")),  # which its first configs say, and mean the other
        scalings=("default", "linear"),
        defaults={
            "head_dim": 256,
            "num_key_value_heads": 16,
            "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
        },
        own_head=False,
        check=_check_first,
    ),
    "gemma2": Family(
        "gemma2",
        _GEMMA2,
        activation=("hidden_activation", GELU),
        scalings=("default", "linear"),
        defaults={**_DEFAULTS, "max_position_embeddings": 8192, ATTENTION_CAP: 50.0, FINAL_CAP: 30.0},
        nullable=(ATTENTION_CAP, FINAL_CAP),
        own_head=False,
        check=_check_gemma2,
        entries=_entries,
    ),
    "gemma3_text": Family(
        "gemma3",
        _GEMMA3,
        activation=("hidden_activation", GELU),
        scalings=("default", "linear"),
        defaults={
            **_DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": LOCAL_THETA,
        },
        beyond=("<image_soft_token>",),
        settle=_settle,
        check=_check_gemma3,
        entries=_entries,
    ),
}
