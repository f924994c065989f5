"""GPT-2: learned positions, norms with a bias, matrices that transformers stores as (inputs, outputs)."""

from __future__ import annotations

from ....errors import UnsupportedModel
from .family import BLOCK, GELU, POSITIONS, Family, Row, Settings, biased, head_row, refuse_set, weight, widened

LAYER = "transformer.h.{layer}."

_ROWS = (
    *weight("transformer.wte", "token_embd", "vocabulary", "hidden"),
    Row("transformer.wpe.weight", POSITIONS, ("context", "hidden")),
    *biased("transformer.ln_f", "output_norm", "hidden"),
    *head_row(),
    *biased(LAYER + "ln_1", BLOCK + "attn_norm", "hidden"),
    *biased(LAYER + "attn.c_attn", BLOCK + "attn_qkv", "attention_inputs", "hidden", transposed=True),
    *biased(LAYER + "attn.c_proj", BLOCK + "attn_output", "hidden", "queries", transposed=True),
    *biased(LAYER + "ln_2", BLOCK + "ffn_norm", "hidden"),
    *biased(LAYER + "mlp.c_fc", BLOCK + "ffn_up", "inner", "hidden", transposed=True),
    *biased(LAYER + "mlp.c_proj", BLOCK + "ffn_down", "hidden", "inner", transposed=True),
)


def _settle(settings: Settings) -> Settings:
    return {**settings, "intermediate_size": widened(settings, "n_inner")}


def _check(settings: Settings, name: str) -> None:
    why = "llama.cpp's GPT-2 does not have that"
    refuse_set(settings, name, dict.fromkeys(("scale_attn_by_inverse_layer_idx", "add_cross_attention"), why))
    if not settings["scale_attn_weights"]:
        raise UnsupportedModel(f"{name}: scale_attn_weights is off, and llama.cpp's GPT-2 always scales attention")


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "gpt2",
        _ROWS,
        epsilon="layer_norm_epsilon",
        epsilon_key="attention.layer_norm_epsilon",
        activation=("activation_function", GELU),
        rotary=0,
        defaults={"max_position_embeddings": 1024, "tie_word_embeddings": True, "scale_attn_weights": True},
        names={
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_positions": "max_position_embeddings",
        },
        prefix="transformer.",
        settle=_settle,
        check=_check,
    )
}
