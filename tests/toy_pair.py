"""A tiny random language model in both formats, `hf` and `gguf`, with the same weights and tokenizer."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from microbudget.runtimes.gguf import convert as convert_gguf
from toy_language_models import train_byte_level, write_network

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install 'microbudget[llm]'"
)
WORDS = ["def", "answer(question):", "return", "42", "# lost,", "isn't it?", "Größe", "你好", "fox", "jumps", "x += 1"]


@dataclass(frozen=True)
class Pair:
    """`network` is the torch module itself, to be an oracle."""

    hf: Path
    gguf: Path
    network: Any


def write_pair(folder: Path, shape: str = "llama", **more: Any) -> Pair:
    """Write the model into a new folder."""
    train_byte_level(folder / "hf")
    network = write_network(folder / "hf", shape, **more)
    convert_gguf.plan(folder / "hf", "float32").write(folder / "toy.gguf")
    return Pair(folder / "hf", folder / "toy.gguf", network)


def prose(words: int, seed: int = 0) -> str:
    """Random lines of a few words."""
    import random

    coin = random.Random(seed)
    return "".join(coin.choice(WORDS) + ("\n" if coin.random() < 0.15 else " ") for _ in range(words))
