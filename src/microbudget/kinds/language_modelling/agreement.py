"""Whether an exported GGUF file answers as its source does, on a few texts: before anything is judged.

Float types only round, so that a larger difference is a fault of the conversion, and would be blamed on quantization.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import metrics
from ...errors import MissingExtra, UnsupportedModel
from ...runtimes.gguf import inputs
from ...runtimes.gguf.llama.network import Network
from ...runtimes.gguf.llama.structures import Tensor

TOKENS = 96  # of each text
MOST_KL = {"float32": 1e-3, "float16": 1e-3, "bfloat16": 1e-2}  # nats a token; llama.cpp rounds inputs to the type too
LARGE_BYTES = 1 << 29  # of the file: float32 weights of more than 1 GB are not held in memory
Answer = tuple[NDArray[np.float32], list[NDArray[np.float32]]]
DIFFERS = 0.05  # of a layer's values, relative to their root mean square


def check(folder: Path, path: Path, texts: Sequence[str], dtype: str) -> float | None:
    """The KL divergence of the file from its source, nats per token; None where torch is not there to run the source.

    Raises UnsupportedModel above MOST_KL, with the first layer that differs.
    """
    try:
        expected = list(_of_sources(folder, texts, large=path.stat().st_size > LARGE_BYTES))
    except MissingExtra:
        return None
    if not expected:
        return None
    network = Network(path)
    try:
        lost, count = 0.0, 0
        for row, (logits, states) in expected:
            answered, outputs = _of_file(network, row)
            kl = metrics.kl_divergence(logits, answered)
            lost, count = lost + float(kl.sum()), count + len(kl)
            if not lost / count <= MOST_KL[dtype]:
                raise UnsupportedModel(
                    f"{folder}: the exported GGUF file answers differently from its source, by"
                    f" {lost / count:.3g} nats a token on {count} tokens (at most {MOST_KL[dtype]:g} is rounding)."
                    f" {_first_difference(states, outputs)} is the first layer that differs: the conversion does not"
                    " fit this model. Convert it with llama.cpp's convert_hf_to_gguf.py and give the .gguf file"
                )
    finally:
        network.close()
    return lost / count


def _of_sources(folder: Path, texts: Sequence[str], large: bool) -> Iterator[tuple[list[int], Answer]]:
    """The tokens of each text with what the source computes; the source is closed before a file is opened.

    large: its layers are read from the disk one by one, and only the first text is. Raises MissingExtra.
    """
    from ...runtimes.hf import causal

    with tempfile.TemporaryDirectory(prefix="microbudget-") as offload:
        source, tokenizer = causal.load_network(folder, Path(offload) if large else None), causal.load_tokenizer(folder)
        longest = min(TOKENS, int(getattr(source.config, "max_position_embeddings", None) or TOKENS))
        rows = [tokenizer(text, verbose=False)["input_ids"][:longest] for text in texts]
        for row in [row for row in rows if row][: 1 if large else None]:
            yield row, _of_source(source, row)


def _of_source(network: Any, tokens: Sequence[int]) -> Answer:
    """Logits (tokens, vocabulary), and the output of the embedding, of each layer, of the norm: (tokens, width)."""
    import torch

    with torch.inference_mode():
        answered = network(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True, use_cache=False)
    return answered.logits[0].float().numpy(), [state[0].float().numpy() for state in answered.hidden_states]


def _of_file(network: Network, tokens: Sequence[int]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Logits, and the outputs of layers by llama.cpp's names, such as "l_out-0"."""
    outputs: dict[str, NDArray[np.float32]] = {}

    def watch(tensor: Tensor, before: bool) -> bool:
        name = str(tensor.name.decode("utf-8", "replace"))
        wanted = name.startswith("l_out-") or name == "result_norm"
        if wanted and not before:
            outputs[name] = inputs.values(tensor).copy()
        return wanted or not before

    context = network.context(len(tokens), threads=1, rows=len(tokens), cache="F32", watch=watch)
    try:
        return context.process(tokens, len(tokens)), outputs
    finally:
        context.close()


def _first_difference(states: Sequence[NDArray[np.float32]], outputs: dict[str, NDArray[np.float32]]) -> str:
    """The name in llama.cpp of the first layer whose output is another; "output" where only the head can be it."""
    for name, expected, found in _pairs(states, outputs):
        size = float(np.sqrt(np.square(expected).mean())) or 1.0
        if expected.shape != found.shape or not np.abs(expected - found).mean() <= DIFFERS * size:
            return name
    return "output"


def _pairs(
    states: Sequence[NDArray[np.float32]], outputs: dict[str, NDArray[np.float32]]
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Of each layer that both show: transformers gives the last one only after its norm."""
    for layer in range(len(states) - 2):
        if f"l_out-{layer}" in outputs:
            yield f"blk.{layer}", states[layer + 1], outputs[f"l_out-{layer}"]
    if "result_norm" in outputs:
        yield f"blk.{len(states) - 2}", states[-1], outputs["result_norm"]
