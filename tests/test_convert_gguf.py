"""hf -> gguf: the same logits in llama.cpp as in transformers, the same tokens, and errors that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from microbudget.runtimes import convert_gguf
from microbudget.runtimes.llama.network import Network
from toy_language_models import SHAPES, train_byte_level, write_network


def logits_of(path: Path, tokens: list[int]) -> np.ndarray:
    network = Network(path)
    context = network.context(len(tokens), threads=1, rows=len(tokens), cache="F32")
    try:
        return context.process(tokens, len(tokens))
    finally:
        context.close()
        network.close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_byte_level(folder)
    return folder


def give_tokenizer(tokenizer: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_answers_as_transformers(shape: str, tokenizer: Path, tmp_path: Path) -> None:
    folder = give_tokenizer(tokenizer, tmp_path / "model")
    network = write_network(folder, shape)
    conversion = convert_gguf.plan(folder, "float32")
    path = tmp_path / "model.gguf"
    conversion.write(path)
    assert path.stat().st_size == conversion.layout.size_bytes
    tokens = np.random.default_rng(0).integers(0, 500, 100)
    with torch.inference_mode():
        expected = network(torch.from_numpy(tokens)[None]).logits[0].numpy()
    answered = logits_of(path, tokens.tolist())
    assert expected.std() > 0.3  # the comparison would mean nothing if all logits were alike
    np.testing.assert_allclose(answered, expected, atol=2e-4 * np.abs(expected).max())
