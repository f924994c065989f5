"""Whisper of a Hugging Face folder to CTranslate2: the layers by its own loader, tokens and settings by ours.

Its converter takes the names of tokens from the tokenizer's class and the suppressed tokens from the configuration's.
Here both come from the files, so that a trimmed vocabulary and a shorter window survive.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...audio.log_mel import config_text
from ...errors import MissingExtra, UnsupportedModel
from ..speech import tokenizer
from ..speech.tokenizer import read_json
from ..speech.whisper import MULTILINGUAL, NO_TIMESTAMPS, Vocabulary, front_end

TYPES = ("int8", "int8_float16", "int8_float32", "float32")
TIMESTAMP_S = 0.02
POSITIONS = 1500  # of 30 seconds


def convert(folder: Path, out: Path, type: str) -> dict[str, Any]:
    """Write model.bin and its companions into `out`; what was done, JSON-ready. Raises UnsupportedModel."""
    try:
        from .layers import Loader, Source
    except ImportError as error:
        raise MissingExtra("export to ct2 needs ctranslate2: pip install 'microbudget[speech]'") from error
    source = Source(folder)
    network = source.network
    front = front_end(folder)
    positions = int(network.config.max_source_positions)
    if front.frames != 2 * positions:
        raise UnsupportedModel(
            f"{folder} takes {front.frames} frames by its preprocessor_config.json and {2 * positions} by its"
            " config.json: both must have the same window"
        )
    tokens = vocabulary(folder, int(network.config.vocab_size))
    whole = lengthen(network)
    loader = Loader(source, type)
    spec = loader.get_model_spec(network)
    for name, value in _settings(network).items():
        setattr(spec.config, name, value)
    spec.register_vocabulary(tokens)
    loader.finished(spec)
    spec.save(str(out))
    _write_tokenizer_and_settings(folder, out, network)
    (out / "preprocessor_config.json").write_text(config_text(front), encoding="utf-8")
    return {"format": "ct2", "type": type, "tokens": len(tokens), "window_s": front.seconds, "positions": whole}


def lengthen(network: Any) -> int:
    """Continue the encoder's table of positions to 30 seconds, in place; returns the number of positions.

    faster-whisper fills every piece up to 30 seconds, whatever the window; CTranslate2 takes shorter features with a
    longer table. A table of other than sinusoids (Vaswani et al. 2017, section 3.5) cannot be continued and stays.
    """
    import torch

    table = network.model.encoder.embed_positions.weight
    positions, width = table.shape
    if positions >= POSITIONS:
        return int(positions)
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(POSITIONS)[:, None] * rates
    sinusoids = torch.cat([angles.sin(), angles.cos()], dim=1)
    if not torch.allclose(sinusoids[:positions], table, atol=1e-3):
        return int(positions)
    longer = torch.cat([table.detach(), sinusoids[positions:]])
    network.model.encoder.embed_positions.weight = torch.nn.Parameter(longer, requires_grad=False)
    return POSITIONS


def vocabulary(folder: Path, size: int) -> list[str]:
    """The tokens in the order of their ids. Raises UnsupportedModel where ids are missing."""
    found = Vocabulary(folder)
    named = dict(found.named)
    first = found.special(NO_TIMESTAMPS) + 1  # older tokenizers do not name the timestamps
    unnamed = [index for index in range(first, size) if index not in named]
    named |= {index: f"<|{(index - first) * TIMESTAMP_S:.2f}|>" for index in unnamed}
    if sorted(named) != list(range(size)):
        raise UnsupportedModel(
            f"{folder} has {size} rows of embeddings and {len(named)} tokens with ids up to {max(named)}:"
            " the tokenizer is not this model's"
        )
    return [named[index] for index in range(size)]


def needs_language(out: Path) -> bool:
    """Whether a written folder is multilingual and CTranslate2 cannot detect the language of a recording.

    Older versions recognize a multilingual model by the number of its tokens, newer ones (4.8) by an empty token.
    """
    settings = read_json(out / "generation_config.json")
    tokens = json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))
    detects = len(tokens) >= MULTILINGUAL and "" in tokens
    return bool(settings.get("is_multilingual")) and not detects and not settings.get("language")


def settle_language(out: Path, language: str) -> None:
    """Set the one language that a folder is used for."""
    path = out / "generation_config.json"
    path.write_text(json.dumps({**read_json(path), "language": language}, indent=1), encoding="utf-8")


def _settings(network: Any) -> dict[str, Any]:
    """What CTranslate2 keeps in its config.json."""
    generation, config = network.generation_config, network.config
    languages: Any = getattr(generation, "lang_to_id", None) or {}
    heads: Any = getattr(generation, "alignment_heads", None)
    layers, count = int(config.decoder_layers), int(config.decoder_attention_heads)
    fits = bool(heads) and all(layer < layers and head < count for layer, head in heads)
    half = [[layer, head] for layer in range(layers // 2, layers) for head in range(count)]
    return {
        "suppress_ids": list(generation.suppress_tokens or ()),
        "suppress_ids_begin": list(generation.begin_suppress_tokens or ()),
        "lang_ids": sorted(languages.values()),
        "alignment_heads": [list(pair) for pair in heads] if fits else half,
    }


def _write_tokenizer_and_settings(folder: Path, out: Path, network: Any) -> None:
    """The tokenizer, without blanks, and the generation settings, which say whether there are several languages."""
    short = json.dumps(tokenizer.description(folder), ensure_ascii=False, separators=(",", ":"))
    (out / tokenizer.NAME).write_text(short, encoding="utf-8")
    settings = read_json(folder / "generation_config.json")
    multilingual = settings.get("is_multilingual", int(network.config.vocab_size) >= MULTILINGUAL)
    longest = int(network.config.max_target_positions)
    settings = {**settings, "is_multilingual": bool(multilingual), "max_length": longest}
    (out / "generation_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
