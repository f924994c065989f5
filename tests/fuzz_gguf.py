"""Damage GGUF files at random: the reader must open them or say why not, with little memory. `make fuzz` runs it.

python tests/fuzz_gguf.py --seconds 60 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import random
import struct
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from microbudget.errors import UnsupportedModel
from microbudget.kinds.language_modelling import fits, ollama
from microbudget.runtimes.gguf.file import GgufFile, TensorInfo
from microbudget.runtimes.gguf.session import cache_row_bytes
from microbudget.runtimes.gguf.types import TYPES
from microbudget.runtimes.gguf.write import Layout, entry
from microbudget.runtimes.loading import load

HUGE = (2**63, 2**64 - 1, 2**62, 2**32, 2**31, 2**16, 0, 1, 255)
MOST_BYTES = 3_000_000  # that a reader of a file of a few kB may take


def write_sample(path: Path) -> bytes:
    """A small file with every kind of value."""
    entries = (
        entry("general.architecture", "llama", "str"),
        entry("llama.block_count", 2, "u32"),
        entry("llama.context_length", 64, "u32"),
        entry("llama.embedding_length", 32, "u32"),
        entry("llama.feed_forward_length", 32, "u32"),
        entry("llama.attention.head_count", 2, "u32"),
        entry("llama.attention.head_count_kv", 1, "u32"),
        entry("tokenizer.ggml.eos_token_id", 1, "u32"),
        entry("tokenizer.chat_template", "{{ messages[0].content }}", "str"),
        entry("a.number", -3, "i32"),
        entry("a.real", 0.5, "f32"),
        entry("a.flag", True, "bool"),
        entry("tokenizer.ggml.tokens", ["a", "", "\u00e9", "long " * 20], "[str]"),
        entry("tokenizer.ggml.scores", [0.0, -1.5, 3.0], "[f32]"),
        entry("tokenizer.ggml.token_type", [1, 2, 3], "[i32]"),
    )
    tensors = (
        TensorInfo("token_embd.weight", (6, 32), TYPES["F16"]),
        TensorInfo("blk.0.attn_norm.weight", (32,), TYPES["F32"]),
        TensorInfo("blk.0.attn_q.weight", (4, 256), TYPES["Q4_K"]),
        TensorInfo("blk.0.ffn_down_exps.weight", (2, 3, 32), TYPES["Q8_0"]),
    )
    Layout(entries, tensors).write(path, lambda tensor: [np.arange(tensor.size_bytes).astype(np.uint8)])
    return path.read_bytes()


def damage(raw: bytes, coin: random.Random) -> bytes:
    """One to eight random changes: bytes, huge counts, cuts, insertions, repetitions."""
    data = bytearray(raw)
    for _ in range(coin.randint(1, 8)):
        place = coin.randrange(max(1, len(data)))
        kind = coin.randrange(6)
        if kind == 0:
            data[place : place + 1] = bytes([coin.randrange(256)])
        elif kind == 1:
            data[place : place + 8] = struct.pack("<Q", coin.choice(HUGE))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", coin.choice(HUGE) & 0xFFFFFFFF)
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = coin.randbytes(coin.randint(1, 16))
        else:
            data[place:place] = data[place : place + coin.randint(1, 64)]
    return bytes(data)


def examine(path: Path) -> bool:
    """Read all of a file; whether it was accepted. Anything but UnsupportedModel is a defect."""
    try:
        with GgufFile(path) as file:
            for key in file.entries:
                file.get(key)
            for tensor in file.tensors.values():
                assert len(file.read(tensor)) == tensor.size_bytes
    except UnsupportedModel:
        return False
    return True


def use(path: Path) -> None:
    """What `fits`, `shrink` and `ollama` read of a file. Anything but UnsupportedModel is a defect."""

    def cache() -> None:
        with GgufFile(path) as file:
            cache_row_bytes(file)

    for read in (lambda: fits.levels(fits.anatomy(load(path)), ("F16", "Q4_0")), lambda: ollama.modelfile(path), cache):
        with contextlib.suppress(UnsupportedModel):
            read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    coin, tried, accepted, largest = random.Random(given.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.gguf"
        raw, until = write_sample(path), time.monotonic() + given.seconds
        tracemalloc.start()
        while time.monotonic() < until:
            path.write_bytes(damage(raw, coin))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                if examine(path):
                    accepted += 1
                    if accepted % 10 == 0:  # it takes a hundred times as long as to read the file
                        use(path)
            except BaseException:
                kept = Path(tempfile.gettempdir()) / "microbudget-fuzzed.gguf"
                kept.write_bytes(path.read_bytes())
                print(f"file {tried} of seed {given.seed} broke the reader; it is kept in {kept}", file=sys.stderr)
                raise
            largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
            tried += 1
    assert largest < MOST_BYTES, f"a damaged file made the reader take {largest} bytes"
    print(f"{tried} damaged files, {accepted} of them still read; at most {largest} bytes of memory for one")


if __name__ == "__main__":
    main()
