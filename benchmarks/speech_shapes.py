"""Random networks in the shapes of whisper-tiny.en and -base.en: the times and sizes that users of those will see.

What a random network writes is nonsense, and it would never end. So its decoder's positions from the 16th token on
point to the end of the text: every way writes 16 tokens, as many as an utterance of five seconds takes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from microbudget.machine.files import whole_folder
from speech_settings import INT8, MODEL, STORE

SHAPES = {
    "whisper-tiny.en": {"d_model": 384, "layers": 4, "heads": 6},
    "whisper-base.en": {"d_model": 512, "layers": 6, "heads": 8},
}
TOKENS, PROMPT = 16, 2
LOUD = 1e3  # of the position that ends a text: all else in the residual stream is small compared with it
WAYS = {
    "transformers, float32": ("transformers", ""),
    "faster-whisper, int8": ("faster-whisper --type int8", INT8),
    "faster-whisper, int8, window of 10 s": ("faster-whisper --type int8 --window 10", f"window(seconds=10) > {INT8}"),
    "int8": ("microbudget", INT8),
    "window, int8": ("microbudget", f"window(seconds=10) > {INT8}"),
    "window, trim to 10,000 tokens, int8": ("microbudget", f"window(seconds=10) > trim(keep=8000) > {INT8}"),
    "window, trim to the words, 1 decoder layer, int8": (
        "microbudget",
        f"window(seconds=10) > trim() > distill(decoder_layers=1, epochs=0) > {INT8}",
    ),
}


def write(name: str) -> Path:
    """The folder of a random network, made where it is missing."""
    whole = STORE / "shapes" / name
    if whole.is_dir():
        return whole
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    shape = SHAPES[name]
    config = WhisperConfig.from_pretrained(str(MODEL))
    changed: dict[str, Any] = {"d_model": shape["d_model"]}
    for side in ("encoder", "decoder"):
        changed |= {
            f"{side}_layers": shape["layers"],
            f"{side}_attention_heads": shape["heads"],
            f"{side}_ffn_dim": 4 * shape["d_model"],
        }
    config.update(changed)
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        end = network.model.decoder.embed_tokens.weight[config.eos_token_id]
        end.copy_(torch.randn(config.d_model) * config.init_std)
        network.model.decoder.embed_positions.weight[PROMPT + TOKENS - 1 :] = LOUD * end / end.norm()
    generation = json.loads((MODEL / "generation_config.json").read_text(encoding="utf-8"))
    generation.pop("alignment_heads", None)
    with whole_folder(whole) as folder:
        network.save_pretrained(str(folder))
        for file in MODEL.iterdir():
            if file.name not in ("config.json", "model.safetensors", "generation_config.json", "training.json"):
                shutil.copyfile(file, folder / file.name)
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    print(f"{name}: written", file=sys.stderr, flush=True)
    return whole
