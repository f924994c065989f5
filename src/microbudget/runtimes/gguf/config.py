"""The `config.json` of a language model: read, and checked against what llama.cpp's graph of its family computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ...errors import ModelNotFound, UnsupportedModel
from . import positions
from .families import FAMILIES
from .families.family import Family, LanguageConfig, Settings
from .settings import real, whole

WRITES_TEXT = ("ForCausalLM", "LMHeadModel")
BY_HAND = "Convert it with llama.cpp's convert_hf_to_gguf.py and give the .gguf file"


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


def parse_config(raw: Settings, name: str) -> LanguageConfig:
    """The same from the settings themselves; `name` is what errors call them."""
    family = _family(raw, name)
    settings = family.usual(raw)
    _refuse_unknown(settings, family, name)
    heads = whole(settings, "num_attention_heads", name)
    hidden = whole(settings, "hidden_size", name)
    if "head_dim" not in settings and hidden % heads:
        raise UnsupportedModel(f"{name}: {heads} heads cannot divide {hidden} values of hidden_size")
    head = whole(settings, "head_dim", name) if "head_dim" in settings else hidden // heads
    kv_heads = whole(settings, "num_key_value_heads", name) if "num_key_value_heads" in settings else heads
    if heads % kv_heads:
        raise UnsupportedModel(f"{name}: {heads} heads cannot share {kv_heads} heads of keys")
    rope, theta, share = positions.rotation(settings, family, name)
    if family.rotary and int(head * share) < 2:
        raise UnsupportedModel(f"{name}: heads of {head} values, of which {share:.0%} rotate, cannot be")
    found = LanguageConfig(
        model_type=raw["model_type"],
        family=family,
        layers=whole(settings, "num_hidden_layers", name),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        inner=whole(settings, "intermediate_size", name),
        vocabulary=whole(settings, "vocab_size", name),
        context=positions.context(raw, settings, family, name),
        epsilon=real(settings, family.epsilon, 1e-6 if family.epsilon == "rms_norm_eps" else 1e-5, name),
        rope_theta=theta,
        rope_scaling=rope,
        rotary=int(head * share),
        tied=True,
        raw=settings,
    )
    return found if settings.get("tie_word_embeddings", False) else untied(found, name)


def untied(config: LanguageConfig, name: str) -> LanguageConfig:
    """The same with a head besides the table of tokens. Raises UnsupportedModel where llama.cpp has none."""
    if not config.family.own_head:
        raise UnsupportedModel(
            f"{name}: its head is not the table of its tokens, and llama.cpp's {config.family.architecture} has no"
            " place for a head of its own"
        )
    return replace(config, tied=False)


def _family(raw: Settings, name: str) -> Family:
    model_type, heads = raw.get("model_type"), raw.get("architectures") or []
    found = str(heads[0] if isinstance(heads, list) else heads) if heads else ""
    if isinstance(raw.get("text_config"), dict):
        raise UnsupportedModel(
            f"{name} is a {found or model_type}, which sees or hears besides reading: only models of text alone are"
            f" converted to GGUF here. {BY_HAND}, which then holds the part for text alone"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModel(
            f"{name} is of the architecture {model_type!r}, which cannot be converted to GGUF here; known are"
            f" {', '.join(FAMILIES)}. {BY_HAND}"
        )
    if heads and not (isinstance(heads, list) and found.endswith(WRITES_TEXT)):
        raise UnsupportedModel(f"{name} is a {found}, which writes no text; a ...ForCausalLM does")
    return FAMILIES[model_type]


def _refuse_unknown(settings: Settings, family: Family, name: str) -> None:
    """Settings that would change the computation and that llama.cpp's graph of the family does not know."""
    key, known = family.activation
    activation = settings.get(key, known[0])
    if activation not in known:
        raise UnsupportedModel(f"{name}: llama.cpp computes {key} {known[0]!r}, not {activation!r}, in this family")
    if settings.get("quantization_config"):
        given = settings["quantization_config"]
        method = given.get("quant_method", "unknown") if isinstance(given, dict) else "unknown"
        raise UnsupportedModel(f"{name}: the weights are quantized already ({method}); give the original float model")
    family.check(settings, name)
