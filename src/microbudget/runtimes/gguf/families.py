"""Language models by family: what transformers calls their tensors and settings, and what llama.cpp does.

A new family is one entry of FAMILIES: its name in llama.cpp, its rows, and its differences.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ModelNotFound, UnsupportedModel

LAYER = "model.layers.{layer}."
BLOCK = "blk.{layer}."
# What scales positions, and the numbers that each way needs.
ROPE_SCALINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
_FOREIGN_YARN = ("attention_factor", "mscale", "mscale_all_dim")  # other than llama.cpp's own 1 + 0.1 ln(factor)
SLIDING_WINDOW = 4096  # of transformers, where a family has one and config.json is silent
NO_POSITIONS = 4  # of SmolLM3: every so many layers see no positions
LARGEST = 2**31 - 1
# More than any model has; without limits a config of a few bytes would make names and tokens fill the memory.
MOST = {"num_hidden_layers": 4096, "vocab_size": 2**21}


@dataclass(frozen=True)
class Row:
    """One tensor: its two names, its shape by the names of `LanguageConfig`'s fields, and when it exists."""

    source: str  # in transformers; "{layer}" and "{head}" are numbers, the heads are stacked
    target: str  # in llama.cpp
    shape: tuple[str, ...]
    when: Callable[[LanguageConfig], bool] = lambda _: True
    permuted: str = ""  # "heads" or "kv_heads": rows are paired in another order, see `convert.pair_rows`


@dataclass(frozen=True)
class Family:
    """What one `model_type` of transformers is in llama.cpp."""

    architecture: str
    rows: tuple[Row, ...]
    epsilon: str = "rms_norm_eps"  # the setting's name in config.json
    epsilon_key: str = "attention.layer_norm_rms_epsilon"
    rotary: float = 1.0  # default of partial_rotary_factor
    defaults: dict[str, Any] = field(default_factory=dict)  # of transformers, where config.json may be silent
    bool_keys: dict[str, str] = field(default_factory=dict)  # llama.cpp's key -> the setting's name


def _row(source: str, target: str, *shape: str, **more: Any) -> tuple[Row, ...]:
    """A weight."""
    return (Row(f"{source}.weight", f"{target}.weight", shape, **more),)


def _both(
    source: str, target: str, *shape: str, bias: Callable[[LanguageConfig], bool], **more: Any
) -> tuple[Row, ...]:
    """A weight, and its bias under a condition."""
    rotated = more.get("permuted", "")
    return (
        Row(f"{source}.weight", f"{target}.weight", shape, permuted=rotated),
        Row(f"{source}.bias", f"{target}.bias", shape[:1], when=bias, permuted=rotated),
    )


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
    qkv, out, mlp = (_condition(flag) for flag in (qkv_bias, output_bias, mlp_bias))
    return (
        *_ends(_condition(norm_bias)),
        *_both(LAYER + "self_attn.q_proj", BLOCK + "attn_q", "queries", "hidden", bias=qkv, permuted=heads),
        *_both(LAYER + "self_attn.k_proj", BLOCK + "attn_k", "keys", "hidden", bias=qkv, permuted=kv_heads),
        *_both(LAYER + "self_attn.v_proj", BLOCK + "attn_v", "keys", "hidden", bias=qkv),
        *_both(LAYER + "self_attn.o_proj", BLOCK + "attn_output", "hidden", "queries", bias=out),
        *_both(LAYER + "mlp.gate_proj", BLOCK + "ffn_gate", "inner", "hidden", bias=mlp),
        *_both(LAYER + "mlp.up_proj", BLOCK + "ffn_up", "inner", "hidden", bias=mlp),
        *_both(LAYER + "mlp.down_proj", BLOCK + "ffn_down", "hidden", "inner", bias=mlp),
    )


def _ends(norm_bias: Callable[[LanguageConfig], bool] = lambda _: False) -> tuple[Row, ...]:
    """What is before the first layer and after the last."""
    return (
        *_row("model.embed_tokens", "token_embd", "vocabulary", "hidden"),
        *_both("model.norm", "output_norm", "hidden", bias=norm_bias),
        *_row("lm_head", "output", "vocabulary", "hidden", when=lambda config: not config.tied),
    )


def _condition(flag: str | bool) -> Callable[[LanguageConfig], bool]:
    return (lambda config: bool(config.raw.get(flag, False))) if isinstance(flag, str) else (lambda _: flag)


def _parallel(config: LanguageConfig) -> bool:
    return bool(config.raw.get("use_parallel_residual", False))


_ATTENTION_NORM = _row(LAYER + "input_layernorm", BLOCK + "attn_norm", "hidden")
_FFN_NORM = _row(LAYER + "post_attention_layernorm", BLOCK + "ffn_norm", "hidden")
_NORMS = (*_ATTENTION_NORM, *_FFN_NORM)
_LLAMA = (
    *_decoder(permuted=True, qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    *_NORMS,
)
_OLMO2_NORMS = (  # of what attention and the feed-forward part add, and of all heads together
    *_row(LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", "queries"),
    *_row(LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", "keys"),
    *_row(LAYER + "post_attention_layernorm", BLOCK + "post_attention_norm", "hidden"),
    *_row(LAYER + "post_feedforward_layernorm", BLOCK + "post_ffw_norm", "hidden"),
)
_PHI3 = (
    *_ends(),
    *_row(LAYER + "self_attn.qkv_proj", BLOCK + "attn_qkv", "attention_inputs", "hidden"),
    *_row(LAYER + "self_attn.o_proj", BLOCK + "attn_output", "hidden", "queries"),
    *_row(LAYER + "mlp.gate_up_proj", BLOCK + "ffn_up", "gate_and_up", "hidden"),
    *_row(LAYER + "mlp.down_proj", BLOCK + "ffn_down", "hidden", "inner"),
    *_NORMS,
)
_QWEN3_NORMS = (
    *_row(LAYER + "self_attn.q_norm", BLOCK + "attn_q_norm", "head"),
    *_row(LAYER + "self_attn.k_norm", BLOCK + "attn_k_norm", "head"),
)
_STABLELM_NORMS = (
    *_both(LAYER + "input_layernorm", BLOCK + "attn_norm", "hidden", bias=lambda _: True),
    *_row(LAYER + "post_attention_layernorm", BLOCK + "ffn_norm", "hidden", when=lambda config: not _parallel(config)),
    Row(
        LAYER + "post_attention_layernorm.bias",
        BLOCK + "ffn_norm.bias",
        ("hidden",),
        lambda config: not _parallel(config),
    ),
    *_row(
        LAYER + "self_attn.q_layernorm.norms.{head}",
        BLOCK + "attn_q_norm",
        "heads",
        "head",
        when=_condition("qk_layernorm"),
    ),
    *_row(
        LAYER + "self_attn.k_layernorm.norms.{head}",
        BLOCK + "attn_k_norm",
        "kv_heads",
        "head",
        when=_condition("qk_layernorm"),
    ),
)

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _LLAMA),
    "mistral": Family("llama", _LLAMA, defaults={"num_key_value_heads": 8}),
    "qwen2": Family("qwen2", (*_decoder(qkv_bias=True, output_bias=False, mlp_bias=False), *_NORMS)),
    "qwen3": Family(
        "qwen3",
        (*_decoder(qkv_bias=False, output_bias=False, mlp_bias=False), *_NORMS, *_QWEN3_NORMS),
        defaults={"head_dim": 128},
    ),
    "smollm3": Family("smollm3", _LLAMA),
    "olmo2": Family("olmo2", (*_decoder(qkv_bias=False, output_bias=False, mlp_bias=False), *_OLMO2_NORMS)),
    "phi3": Family("phi3", _PHI3),
    "stablelm": Family(
        "stablelm",
        (*_decoder(qkv_bias="use_qkv_bias", output_bias=False, mlp_bias=False, norm_bias=True), *_STABLELM_NORMS),
        epsilon="layer_norm_eps",
        epsilon_key="attention.layer_norm_epsilon",
        rotary=0.25,
        bool_keys={"use_parallel_residual": "use_parallel_residual"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LanguageConfig:
    """The `config.json` of a language model, checked."""

    model_type: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int  # width of a head
    inner: int
    vocabulary: int
    context: int  # most positions
    epsilon: float
    rope_theta: float
    rope_scaling: dict[str, Any]  # with "rope_type"
    rotary: int  # rotated values of a head
    tied: bool
    raw: dict[str, Any]

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.kv_heads * self.head

    @property
    def attention_inputs(self) -> int:
        """Width of queries, keys and values together."""
        return self.queries + 2 * self.keys

    @property
    def gate_and_up(self) -> int:
        """Width of both halves of the feed-forward part together."""
        return 2 * self.inner

    def tensors(self) -> Iterator[tuple[Row, str, str, tuple[int, ...]]]:
        """Every tensor of the model: its row, name in transformers, name in llama.cpp, shape."""
        for row in self.family.rows:
            if row.when(self):
                shape = tuple(getattr(self, word) for word in row.shape)
                for layer in range(self.layers) if "{layer}" in row.source else (0,):
                    yield (
                        row,
                        row.source.replace("{layer}", str(layer)),
                        row.target.replace("{layer}", str(layer)),
                        shape,
                    )


def read_config(folder: Path) -> LanguageConfig:
    """The configuration in a Hugging Face folder.

    Raises ModelNotFound without config.json, and UnsupportedModel for a family that is unknown, or a setting that
    llama.cpp's graph of the family does not have.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{folder} has no config.json: give a Hugging Face folder") from error
    except (ValueError, OSError, RecursionError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise UnsupportedModel(f"{path} holds no settings")
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], name: str) -> LanguageConfig:
    """The same from the settings themselves; `name` is what errors call them."""
    family = _family(raw, name)
    settings = {**family.defaults, **{key: value for key, value in raw.items() if value is not None}}
    _refuse_unknown(settings, name)
    heads = _whole(settings, "num_attention_heads", name)
    hidden = _whole(settings, "hidden_size", name)
    head = _whole(settings, "head_dim", name) if "head_dim" in settings else hidden // heads
    kv_heads = _whole(settings, "num_key_value_heads", name) if "num_key_value_heads" in settings else heads
    if heads % kv_heads:
        raise UnsupportedModel(f"{name}: {heads} heads cannot share {kv_heads} heads of keys")
    rope, theta, share = _rope(settings, family, name)
    if int(head * share) < 2:
        raise UnsupportedModel(f"{name}: heads of {head} values, of which {share:.0%} rotate, cannot be")
    return LanguageConfig(
        model_type=raw["model_type"],
        family=family,
        layers=_whole(settings, "num_hidden_layers", name),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        inner=_whole(settings, "intermediate_size", name),
        vocabulary=_whole(settings, "vocab_size", name),
        context=_context(raw, settings, name),
        epsilon=_real(settings, family.epsilon, 1e-6 if family.epsilon == "rms_norm_eps" else 1e-5, name),
        rope_theta=theta,
        rope_scaling=rope,
        rotary=int(head * share),
        tied=bool(settings.get("tie_word_embeddings", False)),
        raw=settings,
    )


def _family(raw: dict[str, Any], name: str) -> Family:
    model_type = raw.get("model_type")
    known = ", ".join(FAMILIES)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModel(
            f"{name} is of the architecture {model_type!r}, which cannot be converted to GGUF here; known are {known}."
            " Convert it with llama.cpp's convert_hf_to_gguf.py and give the .gguf file"
        )
    heads = raw.get("architectures") or []
    if heads and not (isinstance(heads, list) and str(heads[0]).endswith("ForCausalLM")):
        found = heads[0] if isinstance(heads, list) else heads
        raise UnsupportedModel(f"{name} is a {found}, which writes no text; a ...ForCausalLM does")
    return FAMILIES[model_type]


def _refuse_unknown(settings: dict[str, Any], name: str) -> None:
    """Settings that would change the computation and that llama.cpp's graphs of these families do not know."""
    activation = settings.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(f"{name}: llama.cpp computes hidden_act 'silu', not {activation!r}, in this family")
    if settings.get("quantization_config"):
        given = settings["quantization_config"]
        method = given.get("quant_method", "unknown") if isinstance(given, dict) else "unknown"
        raise UnsupportedModel(f"{name}: the weights are quantized already ({method}); give the original float model")
    model_type = settings["model_type"]
    if model_type in ("qwen3", "olmo2", "phi3") and settings.get("attention_bias"):
        raise UnsupportedModel(f"{name}: llama.cpp has no attention_bias for {model_type}")
    if model_type == "smollm3":
        _refuse_other_positions(settings, name)


def _refuse_other_positions(settings: dict[str, Any], name: str) -> None:
    """Every fourth layer of a SmolLM3 sees no positions: llama.cpp knows no other interval."""
    layers = settings.get("num_hidden_layers")
    rotated = settings.get("no_rope_layers") or []
    expected = [int((layer + 1) % NO_POSITIONS != 0) for layer in range(layers if type(layers) is int else 0)]
    if settings.get("no_rope_layer_interval", NO_POSITIONS) != NO_POSITIONS or (rotated and rotated != expected):
        raise UnsupportedModel(f"{name}: llama.cpp leaves out the positions in every fourth layer, and only there")


def _rope(settings: dict[str, Any], family: Family, name: str) -> tuple[dict[str, Any], float, float]:
    """Scaling with "rope_type", base, and the rotated share of a head; transformers 5 keeps them in one place."""
    parts = [settings.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(part, dict) for part in parts):
        raise UnsupportedModel(f"{name}: rope_scaling and rope_parameters hold settings by name, not {parts!r}")
    found = {**parts[0], **parts[1]}
    rope_type = found.get("rope_type", found.get("type", "default"))
    if not isinstance(rope_type, str) or rope_type not in ROPE_SCALINGS:
        raise UnsupportedModel(
            f"{name}: positions are scaled by {rope_type!r}, which is not supported; supported are"
            f" {', '.join(ROPE_SCALINGS)}"
        )
    if any(found.get(key) is not None for key in _FOREIGN_YARN):
        raise UnsupportedModel(f"{name}: {' and '.join(_FOREIGN_YARN)} of rope_scaling are not supported")
    optional = ("original_max_position_embeddings", "beta_fast", "beta_slow")
    for key in (*ROPE_SCALINGS[rope_type], *(key for key in optional if found.get(key))):
        _positive(found.get(key), f"{key} of rope_scaling", name)
    theta = found.get("rope_theta", settings.get("rope_theta", 10000.0))
    share = found.get("partial_rotary_factor", settings.get("partial_rotary_factor", family.rotary))
    theta, share = _positive(theta, "rope_theta", name), _positive(share, "partial_rotary_factor", name)
    return {**found, "rope_type": rope_type}, theta, share


def _context(raw: dict[str, Any], settings: dict[str, Any], name: str) -> int:
    """Tokens: the positions, or the window over which each token looks back where that is less.

    llama.cpp's graphs of these families look back over everything; within one window the two are the same.
    """
    positions = _whole(settings, "max_position_embeddings", name)
    family = settings["model_type"]
    slides = family in ("mistral", "phi3") or settings.get("use_sliding_window")
    silent = None if family == "phi3" else SLIDING_WINDOW
    window = raw.get("sliding_window", silent) if slides else None
    if window is None:
        return positions
    window = _whole({"sliding_window": window}, "sliding_window", name)
    if window < positions:
        warnings.warn(
            f"{name}: tokens look back over {window} others of {positions}, which llama.cpp does not do in this family:"
            f" its context is set to {window} tokens",
            stacklevel=2,
        )
    return min(positions, window)


def _positive(value: Any, what: str, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UnsupportedModel(f"{name}: {what} is {value!r}, not a number above zero")
    return float(value)


def _whole(settings: dict[str, Any], key: str, name: str) -> int:
    value, most = settings.get(key), MOST.get(key, LARGEST)
    if type(value) is not int or not 0 < value <= most:
        raise UnsupportedModel(f"{name}: {key} must be a whole number from 1 to {most}, not {value!r}")
    return value


def _real(settings: dict[str, Any], key: str, default: float, name: str) -> float:
    value = settings.get(key, default)
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise UnsupportedModel(f"{name}: {key} must be a number above zero, not {value!r}")
    return float(value)
