"""Llama and the families that are built like it: rotated positions, norms before each part, a gated feed-forward."""

from __future__ import annotations

from collections.abc import Callable

from ....errors import UnsupportedModel
from ..settings import positive, whole
from .family import BLOCK, LAYER, Entries, Family, LanguageConfig, Row, Settings, biased, condition, head_row, weight

NO_POSITIONS = 4  # of SmolLM3: every so many layers see no positions


def _decoder(
    *,
    permuted: bool = False,
    qkv_bias: str | bool,
    output_bias: str | bool,
    mlp_bias: str | bool,
    norm_bias: bool = False,
) -> tuple[Row, ...]:
    """The rows that all these families share; a bias is always there, never, or when a setting says so."""
    heads, kv_heads = ("heads", "kv_heads") if permuted else ("", "")
    qkv, out, mlp = (condition(flag) for flag in (qkv_bias, output_bias, mlp_bias))
    return (
        *_ends(condition(norm_bias)),
        *biased(LAYER + "self_attn.q_proj", BLOCK + "attn_q", "queries", "hidden", bias=qkv, permuted=heads),
        *biased(LAYER + "self_attn.k_proj", BLOCK + "attn_k", "keys", "hidden", bias=qkv, permuted=kv_heads),
        *biased(LAYER + "self_attn.v_proj", BLOCK + "attn_v", "keys", "hidden", bias=qkv),
        *biased(LAYER + "self_attn.o_proj", BLOCK + "attn_output", "hidden", "queries", bias=out),
        *biased(LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", "inner", "hidden", bias=mlp),
        *biased(LAYER + "mlp.up_proj", BLOCK + "ffn_up", "inner", "hidden", bias=mlp),
        *biased(LAYER + "mlp.down_proj", BLOCK + "ffn_down", "hidden", "inner", bias=mlp),
    )


def _ends(norm_bias: Callable[[LanguageConfig], bool] = lambda _: False) -> tuple[Row, ...]:
    """What is before the first layer and after the last."""
    return (
        *weight("model.embed_tokens", "token_embd", "vocabulary", "hidden"),
        *biased("model.norm", "output_norm", "hidden", bias=norm_bias),
        *head_row(),
    )


def _parallel(config: LanguageConfig) -> bool:
    return bool(config.raw.get("use_parallel_residual", False))


def _serial(config: LanguageConfig) -> bool:
    return not _parallel(config)


_ATTENTION_NORM = weight(LAYER + "input_layernorm", BLOCK + "attn_norm", "hidden")
_FFN_NORM = weight(LAYER + "post_attention_layernorm", BLOCK + "ffn_norm", "hidden")
_NORMS = (*_ATTENTION_NORM, *_FFN_NORM)
_LLAMA = (
    *_decoder(permuted=True, qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    *_NORMS,
)
_OLMO = _decoder(permuted=True, qkv_bias=False, output_bias=False, mlp_bias=False)
_OLMO_ROWS = tuple(row for row in _OLMO if "norm" not in row.target)  # its norms have no weights
_OLMO2_NORMS = (  # of what attention and the feed-forward part add, and of all heads together
    *weight(LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", "queries"),
    *weight(LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", "keys"),
    *weight(LAYER + "post_attention_layernorm", BLOCK + "post_attention_norm", "hidden"),
    *weight(LAYER + "post_feedforward_layernorm", BLOCK + "post_ffw_norm", "hidden"),
)
_PHI3 = (
    *_ends(),
    *weight(LAYER + "self_attn.qkv_proj", BLOCK + "attn_qkv", "attention_inputs", "hidden"),
    *weight(LAYER + "self_attn.o_proj", BLOCK + "attn_output", "hidden", "queries"),
    *weight(LAYER + "mlp.gate_up_proj", BLOCK + "ffn_up", "gate_and_up", "hidden"),
    *weight(LAYER + "mlp.down_proj", BLOCK + "ffn_down", "hidden", "inner"),
    *_NORMS,
)
_QWEN3_NORMS = (
    *weight(LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", "head"),
    *weight(LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", "head"),
)
_STABLELM_NORMS = (
    *biased(LAYER + "input_layernorm", BLOCK + "attn_norm", "hidden"),
    *biased(LAYER + "post_attention_layernorm", BLOCK + "ffn_norm", "hidden", bias=_serial, when=_serial),
    *weight(
        LAYER + "self_attn.q_layernorm.norms.{head}",
        BLOCK + "attn_q_norm",
        "heads",
        "head",
        when=condition("qk_layernorm"),
    ),
    *weight(
        LAYER + "self_attn.k_layernorm.norms.{head}",
        BLOCK + "attn_k_norm",
        "kv_heads",
        "head",
        when=condition("qk_layernorm"),
    ),
)


def _no_attention_bias(settings: Settings, name: str) -> None:
    if settings.get("attention_bias"):
        raise UnsupportedModel(f"{name}: llama.cpp has no attention_bias for {settings['model_type']}")


def _check_olmo(settings: Settings, name: str) -> None:
    _no_attention_bias(settings, name)
    if settings.get("clip_qkv"):
        positive(settings["clip_qkv"], "clip_qkv", name)


def _no_other_positions(settings: Settings, name: str) -> None:
    """Every fourth layer of a SmolLM3 sees no positions: llama.cpp knows no other interval."""
    rotated = settings.get("no_rope_layers") or []
    layers = range(whole(settings, "num_hidden_layers", name))
    expected = [int((layer + 1) % NO_POSITIONS != 0) for layer in layers]
    if settings.get("no_rope_layer_interval", NO_POSITIONS) != NO_POSITIONS or (rotated and rotated != expected):
        raise UnsupportedModel(f"{name}: llama.cpp leaves out the positions in every fourth layer, and only there")


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _LLAMA),
    "mistral": Family("llama", _LLAMA, defaults={"num_key_value_heads": 8}, slides=True),
    "qwen2": Family("qwen2", (*_decoder(qkv_bias=True, output_bias=False, mlp_bias=False), *_NORMS)),
    "qwen3": Family(
        "qwen3",
        (*_decoder(qkv_bias=False, output_bias=False, mlp_bias=False), *_NORMS, *_QWEN3_NORMS),
        defaults={"head_dim": 128},
        check=_no_attention_bias,
    ),
    "smollm3": Family("smollm3", _LLAMA, check=_no_other_positions),
    "olmo": Family(
        "olmo",
        _OLMO_ROWS,
        epsilon="layer_norm_eps",
        epsilon_key="attention.layer_norm_epsilon",
        scalings=("default", "linear", "yarn"),
        check=_check_olmo,
        entries=lambda config: Entries(
            real={"attention.clamp_kqv": float(config.raw["clip_qkv"])} if config.raw.get("clip_qkv") else {}
        ),
    ),
    "olmo2": Family(
        "olmo2",
        (*_decoder(qkv_bias=False, output_bias=False, mlp_bias=False), *_OLMO2_NORMS),
        check=_no_attention_bias,
    ),
    "phi3": Family("phi3", _PHI3, slides=True, window=None, check=_no_attention_bias),
    "stablelm": Family(
        "stablelm",
        (*_decoder(qkv_bias="use_qkv_bias", output_bias=False, mlp_bias=False, norm_bias=True), *_STABLELM_NORMS),
        epsilon="layer_norm_eps",
        epsilon_key="attention.layer_norm_epsilon",
        rotary=0.25,
        entries=lambda config: Entries(flags={"use_parallel_residual": _parallel(config)}),
    ),
}  # fmt: skip
