"""The models whose mixtures of types are compared with llama.cpp's: shapes of real ones, and odd ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from microbudget.runtimes.gguf.config import parse_config
from microbudget.runtimes.gguf.families.family import POSITIONS, LanguageConfig
from microbudget.runtimes.gguf.file import Entry, TensorInfo
from microbudget.runtimes.gguf.types import TYPES
from microbudget.runtimes.gguf.write import Layout, entry, order


def _config(model_type: str, hidden: int, layers: int, heads: str, inner: int, **more: Any) -> dict[str, Any]:
    queries, keys = (int(count) for count in heads.split("/"))
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "vocab_size": 4096,
        "max_position_embeddings": 2048,
        **more,
    }


CASES: dict[str, dict[str, Any]] = {
    "lm-python": _config("llama", 256, 5, "8/4", 768, tie_word_embeddings=True),
    "smollm-135m": _config("llama", 576, 30, "9/3", 1536, tie_word_embeddings=True),
    "tinyllama-1b": _config("llama", 2048, 22, "32/4", 5632),
    "llama-3-8b": _config("llama", 4096, 32, "32/8", 14336),
    "llama-3-70b": _config("llama", 8192, 80, "64/8", 28672),
    "llama-65b": _config("llama", 8192, 80, "64/64", 22016),
    "mistral-nemo": _config("mistral", 5120, 40, "32/8", 14336, head_dim=128),
    "qwen2-0.5b": _config("qwen2", 896, 24, "14/2", 4864, tie_word_embeddings=True),
    "qwen2-72b": _config("qwen2", 8192, 80, "64/8", 29568),
    "qwen3-0.6b": _config("qwen3", 1024, 28, "16/8", 3072, head_dim=128, tie_word_embeddings=True),
    "stablelm-3b": _config("stablelm", 2560, 32, "32/32", 6912),
    "stablelm-12b": _config("stablelm", 5120, 40, "32/8", 13824, qk_layernorm=True, use_parallel_residual=True),
    "gemma-2-2b": _config("gemma2", 2304, 26, "8/4", 9216, head_dim=256),
    "gemma-3-1b": _config("gemma3_text", 1152, 26, "4/1", 6912, head_dim=256),
    "gpt2": _config("gpt2", 768, 12, "12/12", 3072),
    "falcon-7b": _config("falcon", 4544, 32, "71/1", 18176),
    "falcon-40b": _config(
        "falcon", 8192, 60, "128/8", 32768, new_decoder_architecture=True, num_kv_heads=8, tie_word_embeddings=False
    ),
    "rows-of-96": _config("llama", 96, 3, "3/3", 96),
    "rows-of-72": _config("llama", 72, 3, "3/3", 144),
}
EXPERTS = "mixtral-8x7b"  # no family of ours, but a GGUF that may be given
NAMES = (*CASES, EXPERTS)


def layout(name: str) -> Layout:
    """A GGUF file of the case in float16, without a tokenizer: the quantizer looks at none."""
    if name == EXPERTS:
        return _experts()
    config = parse_config(CASES[name], name)
    tensors = [_tensor(target, shape) for _, _, target, shape in config.tensors()]
    return Layout(_entries(config, CASES[name]), order(tensors))


def _tensor(name: str, shape: tuple[int, ...]) -> TensorInfo:
    vector = len(shape) == 1 or name == POSITIONS or name.endswith("_norm.weight")
    return TensorInfo(name, shape, TYPES["F32" if vector else "F16"])


def _entries(parsed: LanguageConfig, config: dict[str, Any]) -> tuple[Entry, ...]:
    family, architecture = parsed.family, parsed.family.architecture
    more = family.entries(parsed)
    numbers = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": parsed.kv_heads,
        "attention.key_length": parsed.head,
        "attention.value_length": parsed.head,
        "vocab_size": config["vocab_size"],
        **({"expert_count": 8, "expert_used_count": 2} if "experts" in config else {}),
        **more.whole,
    }
    return (
        entry("general.architecture", architecture, "str"),
        *(entry(f"{architecture}.{key}", value, "u32") for key, value in numbers.items()),
        entry(f"{architecture}.{family.epsilon_key}", 1e-5, "f32"),
        *(entry(f"{architecture}.{key}", value, "f32") for key, value in more.real.items()),
        entry("general.file_type", 1, "u32"),
    )


def _experts() -> Layout:
    config = _config("llama", 4096, 32, "32/8", 14336, experts=8)
    dense = parse_config(config, EXPERTS)
    tensors = []
    for _, _, name, shape in dense.tensors():
        if ".ffn_norm" in name or ".ffn_" not in name:
            tensors.append(_tensor(name, shape))
        else:
            tensors.append(_tensor(name.replace(".weight", "_exps.weight"), (8, *shape)))
    tensors += [TensorInfo(f"blk.{layer}.ffn_gate_inp.weight", (8, 4096), TYPES["F32"]) for layer in range(32)]
    return Layout(_entries(dense, config), order(tensors))


def shorten(types: dict[str, str]) -> str:
    """Types by tensor as one line: `attn_v=Q6_K*2,Q4_K` means layers 0 and 1 in Q6_K, layer 2 in Q4_K."""
    groups: dict[str, list[str]] = {}
    for name, kind in types.items():
        parts = name.split(".")
        groups.setdefault(".".join(parts[2:] if parts[0] == "blk" else parts).removesuffix(".weight"), []).append(kind)
    return " ".join(f"{name}={_runs(kinds)}" for name, kinds in sorted(groups.items()))


def _runs(kinds: list[str]) -> str:
    runs: list[list[Any]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1][1] += 1
        else:
            runs.append([kind, 1])
    return ",".join(kind if count == 1 else f"{kind}*{count}" for kind, count in runs)


SMALL = _config("llama", 256, 1, "8/2", 256, vocab_size=64)


def write_small(path: Path) -> dict[str, np.ndarray]:
    """A float16 file whose every bit follows from integers, and an importance of its columns by tensor."""
    config = parse_config(SMALL, "small")
    tensors = order([_tensor(target, shape) for _, _, target, shape in config.tensors()])
    coin = np.random.default_rng(0)

    def values(tensor: TensorInfo) -> list[np.ndarray]:
        numbers = coin.integers(-(2**15), 2**15, (4, *tensor.shape)).sum(0).astype(np.float32) / 2**18
        return [numbers if tensor.type.name == "F32" else numbers.astype(np.float16)]

    Layout(_entries(config, SMALL), tensors).write(path, values)
    return {
        tensor.name: coin.integers(1, 2**10, tensor.columns).astype(np.float32) / 2**8
        for tensor in tensors
        if len(tensor.shape) == 2 and tensor.name != "token_embd.weight"
    }
