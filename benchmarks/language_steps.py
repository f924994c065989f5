"""The steps of language_models.py that run in processes of their own, so that their memory is their own.

python benchmarks/language_steps.py STEP ARGUMENTS... prints a row as JSON on its last line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from microbudget.machine import memory

WORDS = 32_000
CONFIG = {  # of the 110M shape
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 2048,
    "vocab_size": WORDS,
    "tie_word_embeddings": True,
}


def random(folder: str, *texts: str) -> dict[str, Any]:
    """A random Llama with a byte-level BPE of the texts, as transformers saves them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train(list(texts), trainer)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    words = len(wrapped)
    config = transformers.LlamaConfig(**{**CONFIG, "vocab_size": words}, bos_token_id=0, eos_token_id=0)
    network = transformers.LlamaForCausalLM(config)
    network.save_pretrained(folder, safe_serialization=True)
    return {"words": words, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def convert(folder: str, target: str) -> dict[str, Any]:
    """To float16; the peak of the whole process, and the largest tensor in float32."""
    from microbudget.runtimes.gguf import convert as convert_gguf

    before, started = memory.read(), time.perf_counter()
    plan = convert_gguf.plan(Path(folder))
    plan.write(Path(target))
    seconds = time.perf_counter() - started
    largest = max(4 * tensor.parameters for tensor in plan.layout.tensors)
    return _costs(before, seconds, target) | {"largest_tensor_bytes": largest}


def imatrix(source: str, text: str, target: str, passages: str, threads: str) -> dict[str, Any]:
    from microbudget.kinds.language_modelling.text import TextTask
    from microbudget.methods.quantize.gguf.quantizing import evenly_spaced
    from microbudget.runtimes.gguf import importance

    before, started = memory.read(), time.perf_counter()
    task = TextTask.open(text)
    chosen = evenly_spaced(task.examples("train"), int(passages))
    matrix, tokens = importance.collect(Path(source), map(task.text, chosen), threads=int(threads))
    importance.save(Path(target), matrix, tokens, source=f"{len(chosen)} passages")
    return _costs(before, time.perf_counter() - started, target) | {"tokens": tokens}


def quantize(source: str, level: str, matrix: str, target: str, threads: str) -> dict[str, Any]:
    from microbudget.methods.quantize.gguf.mixtures import Facts, choose
    from microbudget.methods.quantize.gguf.rewrite import ordered, rewrite
    from microbudget.runtimes.gguf import importance
    from microbudget.runtimes.gguf.file import GgufFile
    from microbudget.runtimes.gguf.llama import library

    library()
    before, started = memory.read(), time.perf_counter()
    weights = None if matrix == "none" else importance.load(Path(matrix))
    with GgufFile(Path(source)) as file:
        choices = choose(ordered(file), Facts.of(file), level, imatrix=weights is not None)
        _refuse_unweighted(choices, level, weights)
        rewrite(file, choices, level, Path(target), importance=weights, threads=int(threads))
    return _costs(before, time.perf_counter() - started, target)


def _refuse_unweighted(choices: Any, level: str, weights: Any) -> None:
    from microbudget.methods.quantize.gguf.mixtures import needs_imatrix

    if weights is None and any(needs_imatrix(choice, level) for choice in choices):
        raise SystemExit("needs an importance matrix")


def stock(libraries: str, source: str, level: str, matrix: str, target: str, threads: str) -> dict[str, Any]:
    """llama.cpp's own quantizer, from a prebuilt library."""
    from microbudget.runtimes.gguf import importance
    from microbudget.runtimes.gguf.types import FILE_TYPES
    from stock_quantizer import StockQuantizer

    quantizer = StockQuantizer(Path(libraries))
    weights = {} if matrix == "none" else dict(importance.load(Path(matrix)))
    before, started = memory.read(), time.perf_counter()
    done, log = quantizer.quantize(Path(source), Path(target), FILE_TYPES[level], imatrix=weights, threads=int(threads))
    if not done:
        raise SystemExit(log.strip().splitlines()[-1] if log.strip() else "it failed")
    return _costs(before, time.perf_counter() - started, target) | {"version": quantizer.version}


def sizes(folder: str) -> dict[str, Any]:
    """Predicted bytes of every level by weighting."""
    from microbudget.kinds.language_modelling import fits
    from microbudget.methods.quantize.gguf.mixtures import MIXTURES
    from microbudget.runtimes.loading import load

    about = fits.anatomy(load(folder))
    return {
        kind: {row.type: row.size_bytes for row in fits.levels(about, tuple(MIXTURES), imatrix=kind == "imatrix")}
        for kind in ("plain", "imatrix")
    }


def memory_of(path: str, context: str) -> dict[str, Any]:
    """Predicted and measured: the file opened, a context filled by 512 tokens at once, the last one written."""
    from microbudget.kinds.language_modelling import fits
    from microbudget.runtimes.gguf.llama import library
    from microbudget.runtimes.gguf.llama.network import Network
    from microbudget.runtimes.loading import load

    library()
    before, size = memory.read().resident_bytes, int(context)
    network = Network(Path(path))
    run = network.context(size, threads=2, rows=1)
    for start in range(0, size - 1, 512):
        run.process([1] * min(512, size - 1 - start), 1)
    run.process([2], 1)
    measured = memory.read().peak_bytes - before
    about = fits.anatomy(load(path))
    level = path.rsplit("/", 1)[-1].split(".")[1]
    (row,) = fits.levels(about, [level], context=size)
    return {"predicted_bytes": row.memory_bytes, "measured_bytes": measured, "file_bytes": os.path.getsize(path)}  # noqa: PTH202


def _costs(before: memory.Memory, seconds: float, target: str) -> dict[str, Any]:
    now = memory.read()
    return {
        "seconds": seconds,
        "peak_bytes": now.peak_bytes,  # of the whole process, Python and libraries too
        "added_bytes": now.peak_bytes - before.resident_bytes,
        "size_bytes": Path(target).stat().st_size,
    }


STEPS = {
    "random": random,
    "convert": convert,
    "imatrix": imatrix,
    "quantize": quantize,
    "stock": stock,
    "sizes": sizes,
    "memory": memory_of,
}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](*sys.argv[2:])))
