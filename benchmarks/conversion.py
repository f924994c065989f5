"""Export and quantization of a large language model: time and peak memory, ours and llama.cpp's own quantizer.

    python benchmarks/conversion.py run FOLDER LIBRARIES      # random weights of TinyLlama's shape; 6 GB of disk
    python benchmarks/conversion.py table FOLDER              # writes docs/results/conversion.md of what `run` found

FOLDER: a new one, for the model and the files. LIBRARIES: a folder with libllama and libggml that have
`llama_model_quantize`, such as npm's package node-llama-cpp carries. The tokenizer is SmolLM2's
(`../shared/real/make.py smollm2-135m`). Each step runs in a process of its own (`conversion_steps.py`).
"""

from __future__ import annotations

import filecmp
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from markdown import RESULTS, provenance, table

HERE = Path(__file__).parent
RESULT = RESULTS / "conversion.md"
TOKENIZER = Path("~/.cache/microbudget-real/smollm2-135m").expanduser()
VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 49152, 2048, 5632, 22, 32, 4  # TinyLlama's, another vocabulary
SHARD_BYTES = 1_000_000_000
KIND, THREADS = "Q4_K_M", "2"


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes."""
    keys = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        before = f"model.layers.{layer}."
        for name, rows in (("q", HIDDEN), ("k", keys), ("v", keys), ("o", HIDDEN)):
            yield f"{before}self_attn.{name}_proj.weight", (rows, HIDDEN)
        yield from ((f"{before}mlp.{name}_proj.weight", (INNER, HIDDEN)) for name in ("gate", "up"))
        yield f"{before}mlp.down_proj.weight", (HIDDEN, INNER)
        yield from ((f"{before}{name}_layernorm.weight", (HIDDEN,)) for name in ("input", "post_attention"))
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_checkpoint(folder: Path) -> None:
    """Random weights in bfloat16, in shards. The same four million values are repeated: rounding takes as long."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    config = json.loads((TOKENIZER / "config.json").read_text(encoding="utf-8"))
    config |= {
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    for name, shape in tensors():
        if sum(2 * int(np.prod(other)) for _, other in shards[-1]) > SHARD_BYTES:
            shards.append([])
        shards[-1].append((name, shape))
    values = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * np.float32(0.02)
    tile = (values.view(np.uint32) >> 16).astype(np.uint16)
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= {name: file for name, _ in shard}
        write_shard(folder / file, shard, tile)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]], tile: np.ndarray) -> None:
    """A safetensors file."""
    header, place = {}, 0
    for name, shape in shard:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    raw = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for _, shape in shard:
            left = int(np.prod(shape))
            ones = np.full(left if len(shape) == 1 else 0, 0x3F80, np.uint16)  # norms
            stream.write(ones.tobytes())
            left -= len(ones)
            while left:
                stream.write(tile[:left].tobytes())
                left -= min(left, len(tile))


def run(folder: Path, libraries: str) -> None:
    """Measure all steps; results go to FOLDER/steps.json."""
    write_checkpoint(folder / "hf")
    f16, ours, stock = (folder / f"{name}.gguf" for name in ("f16", "ours", "stock"))
    steps = {
        "export": (str(folder / "hf"), str(f16)),
        "quantize": (str(f16), str(ours), KIND, THREADS),
        "stock": (str(f16), str(stock), KIND, THREADS, libraries),
    }
    found = {}
    for name, arguments in steps.items():
        command = [sys.executable, str(HERE / "conversion_steps.py"), name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    found["same_bytes"] = filecmp.cmp(ours, stock, shallow=False)
    (folder / "steps.json").write_text(json.dumps(found), encoding="utf-8")


def write_table(folder: Path) -> None:
    """Write the page."""
    found = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    names = {"export": "export to float16", "quantize": f"quantize to {KIND}", "stock": f"llama.cpp's own, {KIND}"}
    rows = [
        (
            names[name],
            f"{found[name]['processor_s']:.0f} s",
            f"{found[name]['s']:.0f} s",
            f"{found[name]['after']['peak'] / 1e6:.0f} MB",
        )
        for name in names
    ]
    ratio = found["quantize"]["processor_s"] / found["stock"]["processor_s"]
    same = "the same to the byte" if found["same_bytes"] else "not the same"
    parameters = sum(int(np.prod(shape)) for _, shape in tensors())
    largest = max(4 * int(np.prod(shape)) for _, shape in tensors())
    text = f"""# Conversion of a large language model

{provenance("conversion.py")}

A Llama of {parameters / 1e9:.2f} billion random weights in bfloat16, in shards;
two threads, each step in a process of its own. The peak is VmHWM, mapped files included. The largest tensor takes
{largest / 1e6:.0f} MB in float32. Both quantized files are {same}; ours takes {ratio:.2f} times the processor time.
Seconds of the clock are those of a machine that was doing other work.

{table(("step", "processor", "clock", "peak memory"), rows)}
"""
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "run":
        run(place, sys.argv[3])
    write_table(place)
