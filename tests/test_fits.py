"""What fits: sizes to the byte against files that are really made, memory and speed as the equations say."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from microbudget.errors import BadInput, InvalidOption, ModelNotFound, UnsupportedModel
from microbudget.judge.memory import of_model
from microbudget.judge.worker import Worker
from microbudget.kinds.language_modelling import fits, placing, search_space
from microbudget.methods.quantize.gguf.mixtures import choose
from microbudget.methods.quantize.gguf.rewrite import layout as layout_of
from microbudget.methods.quantize.gguf.rewrite import ordered, rewrite
from microbudget.methods.quantize.gguf.stock import Facts
from microbudget.model import Model, Record
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf.file import GgufFile, TensorInfo
from microbudget.runtimes.gguf.types import TYPES
from microbudget.runtimes.loading import load
from mixture_cases import NAMES, layout
from toy_language_models import SHAPES, train_byte_level, write_network

FAST = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q6_K", "IQ4_XS", "Q1_0", "Q2_0")


@pytest.fixture(scope="session", params=["llama", "qwen2", "qwen3", "stablelm", "llama-3.1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits") / request.param
    train_byte_level(folder)
    write_network(folder, request.param, hidden_size=256, intermediate_size=288, num_hidden_layers=3)
    return folder


def test_sizes_are_exact(folder: Path, tmp_path: Path) -> None:
    """Predicted from the configuration and the tokenizer alone, and from the file in float16."""
    path = tmp_path / "model.gguf"
    convert_gguf.plan(folder).write(path)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    predicted = {level.type: level for level in fits.levels(fits.anatomy(hf(folder)), FAST, imatrix=False)}
    weights.unlink()
    without = {level.type: level for level in fits.levels(fits.anatomy(hf(folder)), FAST, imatrix=False)}
    weights.write_bytes(kept)
    from_file = {level.type: level for level in fits.levels(fits.anatomy(load(path)), FAST, imatrix=False)}
    assert predicted == without == from_file
    assert predicted["F16"].size_bytes == path.stat().st_size
    with GgufFile(path) as file:
        for kind, level in predicted.items():
            choices = choose(ordered(file), Facts.of(file), kind, imatrix=False)
            rewrite(file, choices, kind, tmp_path / kind, threads=2)
            assert (tmp_path / kind).stat().st_size == level.size_bytes, kind
            assert level.fallbacks == sum(choice.fell_back for choice in choices)
    assert "Q1_0" not in predicted  # rows of 288 values fit no block of 128, and llama.cpp has no other type for them
    assert predicted["Q4_K_M"].fallbacks > 0


def hf(folder: Path) -> Model:
    return Model(folder, "hf", Record())


def test_bits_per_weight_and_order(folder: Path) -> None:
    rows = fits.levels(fits.anatomy(hf(folder)))
    assert [row.type for row in rows] == list(fits.LADDER)
    sizes = {row.type: row.size_bytes for row in rows}
    assert sizes["F16"] > sizes["Q8_0"] > sizes["Q6_K"] > sizes["Q5_K_M"] > sizes["Q4_K_M"] > sizes["Q3_K_M"]
    assert 16 <= rows[0].bits_per_weight < 16.1


def recipes(given: Model) -> Iterator[Recipe]:
    """What `shrink` tries; the levels do not depend on the data."""
    return search_space.SearchSpace(given, None).recipes(())  # type: ignore[arg-type]


def test_shrink_makes_the_predicted_levels(folder: Path) -> None:
    assert set(search_space.LEVELS) == set(fits.LADDER) - {"F16"}
    tried = [recipe.steps[-1].type for recipe in recipes(hf(folder))]  # type: ignore[attr-defined]
    assert tried == [kind for kind in search_space.LEVELS if kind in tried]
    rows = {row.type: row.types for row in fits.levels(fits.anatomy(hf(folder)))}
    assert len({rows[kind] for kind in tried}) == len(tried) == len(set(rows.values()) - {rows["F16"]})


def test_levels_that_come_out_the_same_are_tried_once(tmp_path: Path) -> None:
    """Rows of 64 and 96 values: every IQ type falls back to IQ4_NL."""
    train_byte_level(tmp_path / "hf")
    write_network(tmp_path / "hf", "llama")
    tried = [recipe.steps[-1].type for recipe in recipes(hf(tmp_path / "hf"))]  # type: ignore[attr-defined]
    assert tried[:2] == ["Q8_0", "Q4_K_M"]
    assert len(tried) < len(search_space.LEVELS)


def test_a_given_file_is_only_made_smaller(folder: Path, tmp_path: Path) -> None:
    """The levels depend on the types and shapes in the file alone: its weights are zeros."""
    convert_gguf.plan(folder).write(tmp_path / "F16")
    with GgufFile(tmp_path / "F16") as file:
        for kind in ("Q4_K_M", "IQ1_S"):
            rewritten = layout_of(file, choose(ordered(file), Facts.of(file), kind, imatrix=True), kind)
            rewritten.write(tmp_path / f"{kind}.gguf", lambda tensor: [bytes(tensor.size_bytes)])
    given = tmp_path / "Q4_K_M.gguf"
    tried = [recipe.steps[-1].type for recipe in recipes(load(given))]  # type: ignore[attr-defined]
    sizes = {row.type: row.size_bytes for row in fits.levels(fits.anatomy(load(given)))}
    assert tried
    assert all(sizes[kind] < given.stat().st_size for kind in tried)
    assert not set(tried) & {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"}
    with pytest.raises(UnsupportedModel, match="no level is smaller: give the model in F16"):
        list(recipes(load(tmp_path / "IQ1_S.gguf")))


def test_the_cache_is_layers_times_heads_times_widths(folder: Path) -> None:
    about = fits.anatomy(hf(folder))
    config = convert_gguf.plan(folder).config
    (level,) = fits.levels(about, ["Q8_0"], context=1024)
    assert level.cache_bytes == config.layers * 2 * config.kv_heads * config.head * 1024 * 2
    assert fits.levels(about, ["Q8_0"], context=1000)[0].cache_bytes == level.cache_bytes  # rounded up to 256 tokens
    assert fits.levels(about, ["Q8_0"])[0].context == 256  # what the model was trained for
    assert level.memory_bytes > level.size_bytes + level.cache_bytes - 100_000


def test_speed_is_bandwidth_over_bytes(folder: Path) -> None:
    about = fits.anatomy(hf(folder))
    (level,) = fits.levels(about, ["F16"], context=256, read_bytes_per_s=1e9)
    read = fits.bytes_per_token(about.tensors)
    assert level.decode_tokens_per_s == pytest.approx(1e9 / read)  # an upper bound after a short text as well
    assert level.full_tokens_per_s == pytest.approx(1e9 / (read + level.cache_bytes))
    assert fits.levels(about, ["F16"])[0].decode_tokens_per_s is None


def test_a_token_reads_a_row_of_an_embedding_of_its_own() -> None:
    untied, tied = layout("tinyllama-1b").tensors, layout("lm-python").tensors
    whole = sum(tensor.size_bytes for tensor in untied)
    embedding = next(tensor for tensor in untied if tensor.name == "token_embd.weight")
    assert fits.bytes_per_token(untied) == whole - embedding.size_bytes + 2048 * 2
    assert fits.bytes_per_token(tied) == sum(tensor.size_bytes for tensor in tied)


def test_a_token_reads_a_row_of_learned_positions() -> None:
    made = [TensorInfo(name, (64, 32), TYPES["F32"]) for name in ("token_embd.weight", "position_embd.weight")]
    assert fits.bytes_per_token(made) == 64 * 32 * 4 + 32 * 4


@pytest.mark.parametrize("name", NAMES)
def test_large_models_are_predicted_without_their_weights(name: str, tmp_path: Path) -> None:
    made = layout(name)
    path = tmp_path / "model.gguf"
    with path.open("wb") as stream:
        stream.write(made.header)
        stream.truncate(made.size_bytes)  # sparse: 140 GB take no disk
    rows = fits.levels(fits.anatomy(load(path)), ["F16", "Q4_K_M", "IQ2_XS"], read_bytes_per_s=40e9)
    assert rows[0].size_bytes == pytest.approx(made.size_bytes, abs=200)
    assert all(row.memory_bytes > row.size_bytes - 10_000 for row in rows)


# As their authors published them. hidden, inner, layers, heads, heads of keys, vocabulary.
PUBLISHED: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "SmolLM2-135M": ((576, 1536, 30, 9, 3, 49152), {"model_type": "llama", "tie_word_embeddings": True}),
    "Llama-3.1-8B": (
        (4096, 14336, 32, 32, 8, 128256),
        {
            "model_type": "llama", "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        },
    ),
    "Mistral-7B-v0.3": ((4096, 14336, 32, 32, 8, 32768), {"model_type": "mistral", "sliding_window": None}),
    "Qwen2-0.5B": ((896, 4864, 24, 14, 2, 151936), {"model_type": "qwen2", "tie_word_embeddings": True}),
    "Qwen3-0.6B": (
        (1024, 3072, 28, 16, 8, 151936), {"model_type": "qwen3", "head_dim": 128, "tie_word_embeddings": True},
    ),
    "SmolLM3-3B": ((2048, 11008, 36, 16, 4, 128256), {"model_type": "smollm3", "tie_word_embeddings": True}),
    "OLMo-2-1B": ((2048, 8192, 16, 16, 16, 100352), {"model_type": "olmo2"}),
    "Phi-3-mini": ((3072, 8192, 32, 32, 32, 32064), {"model_type": "phi3", "max_position_embeddings": 4096}),
    "OLMo-1B": ((2048, 8192, 16, 16, 16, 50304), {"model_type": "olmo", "tie_word_embeddings": True}),
    "gemma-2b": ((2048, 16384, 18, 8, 1, 256000), {"model_type": "gemma", "head_dim": 256}),
    "gemma-2-2b": ((2304, 9216, 26, 8, 4, 256000), {"model_type": "gemma2", "head_dim": 256}),
    "gemma-3-1b": (
        (1152, 6912, 26, 4, 1, 262144),
        {"model_type": "gemma3_text", "head_dim": 256, "max_position_embeddings": 32768, "sliding_window": 512},
    ),
    "gpt2": ((768, 3072, 12, 12, 12, 50257), {"model_type": "gpt2", "max_position_embeddings": 2048}),
    "falcon-7b": ((4544, 18176, 32, 71, 1, 65024), {"model_type": "falcon"}),
    "falcon-40b": (
        (8192, 32768, 60, 128, 8, 65024),
        {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 8},
    ),
}  # fmt: skip
# As published; GPT-2 with 1,024 positions more, for a context of the test's length.
COUNTS = {
    "Llama-3.1-8B": 8_030_261_248,
    "OLMo-1B": 1_176_764_416,
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "gpt2": 124_439_808 + 1024 * 768,
    "falcon-7b": 6_921_720_704,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_alone_is_enough(name: str, tmp_path: Path) -> None:
    """The predicted file holds all parameters of the network that transformers makes of the config."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    (hidden, inner, layers, heads, kv_heads, vocabulary), more = PUBLISHED[name]
    config = transformers.AutoConfig.for_model(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, pad_token_id=None, **more,
    )  # fmt: skip
    train_byte_level(tmp_path)
    config.save_pretrained(str(tmp_path))
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    about = fits.anatomy(hf(tmp_path))
    factors = sum(tensor.parameters for tensor in about.tensors if tensor.name == "rope_freqs.weight")  # of llama3
    count = sum(tensor.parameters for tensor in about.tensors) - factors
    assert count == network.num_parameters() == COUNTS.get(name, count)
    rows = fits.levels(about, ["F16", "Q8_0", "Q4_K_M"], context=2048)
    assert [row.type for row in rows] == ["F16", "Q8_0", "Q4_K_M"]
    assert 16 <= rows[0].bits_per_weight < (16.3 if name == "gpt2" else 16.1)  # whose positions stay in float32
    assert rows[0].size_bytes > rows[1].size_bytes > rows[2].size_bytes
    assert (
        rows[0].cache_bytes
        == layers * kv_heads * 2 * (config.head_dim if "head_dim" in more else hidden // heads) * 2048 * 2
    )


MEASURE = """
import os, sys
from pathlib import Path
from microbudget.machine import memory
from microbudget.runtimes.gguf.llama import library
from microbudget.runtimes.gguf.llama.network import Network

def measure(path, context, at_once):
    before = memory.read().resident_bytes
    network = Network(Path(path))
    run = network.context(context, threads=1, rows=1)
    run.process([1] * at_once, 1)
    run.process([2], 1)
    print(memory.read().peak_bytes - before, flush=True)

library()
for path in sys.argv[1:]:
    for context, at_once in ((512, 128), (4096, 512)):
        child = os.fork()  # each is measured in a process that has opened nothing else
        if not child:
            try:
                measure(path, context, at_once)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="other matrices are repacked")
@pytest.mark.usefixtures("fresh_workers")
def test_memory_is_predicted_within_15_percent(tmp_path: Path) -> None:
    train_byte_level(tmp_path / "hf")
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}
    write_network(tmp_path / "hf", "llama", **shape, num_key_value_heads=8, max_position_embeddings=4096)
    path = tmp_path / "F16"
    convert_gguf.plan(tmp_path / "hf").write(path)
    about, kinds = fits.anatomy(hf(tmp_path / "hf")), ("F16", "Q8_0", "Q4_K_M")
    with GgufFile(path) as file:
        for kind in kinds[1:]:
            rewrite(file, choose(ordered(file), Facts.of(file), kind, imatrix=False), kind, tmp_path / kind, threads=2)
    train_byte_level(tmp_path / "gemma")  # whose layers with a window have a cache of their own
    windows = {**SHAPES["gemma2"], "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 512}
    write_network(tmp_path / "gemma", "gemma2", **{**windows, **shape, "max_position_embeddings": 4096})
    convert_gguf.plan(tmp_path / "gemma").write(tmp_path / "gemma.gguf")
    opened = [*((kind, about, kind) for kind in kinds), ("gemma.gguf", fits.anatomy(hf(tmp_path / "gemma")), "F16")]
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name, _, _ in opened)]
    measured = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    for name, each, kind in opened:
        for context, at_once in ((512, 128), (4096, 512)):
            (level,) = fits.levels(each, [kind], context=context, at_once=at_once)
            assert level.memory_bytes == pytest.approx(next(measured), rel=0.15), (name, context)
    text = np.frombuffer(b"def f(x):\n    return x\n" * 20, np.uint8)[None]
    with Worker() as worker:  # what `measure` and the table of levels report
        worker.open(Model(tmp_path / "Q8_0", "gguf", Record()), threads=1)
        weight = of_model(worker, {"decode": text, "depth": np.array([128])})
    (level,) = fits.levels(about, ["Q8_0"], context=129)
    assert level.memory_bytes == pytest.approx(weight.bytes, rel=0.15)


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="is a model in onnx: sizes of levels are predicted for hf and gguf"):
        fits.anatomy(Model(tmp_path, "onnx", Record()))
    with pytest.raises(ModelNotFound):
        fits.anatomy(hf(tmp_path))
    path = tmp_path / "x.gguf"
    with path.open("wb") as stream:
        stream.write(layout("rows-of-96").header)
        stream.truncate(layout("rows-of-96").size_bytes)
    about = fits.anatomy(load(path))
    with pytest.raises(InvalidOption, match="there is no type 'Q9'"):
        fits.levels(about, ["Q9"])
    with pytest.raises(InvalidOption, match="at least 1 token"):
        fits.levels(about, context=0)


def test_a_config_alone_has_the_size_of_the_exact_prediction(tmp_path: Path) -> None:
    """Without a tokenizer the tensors are the same, and only the tokenizer's bytes are estimated."""
    train_byte_level(tmp_path)
    write_network(tmp_path, "llama", **SHAPES["llama"])
    exact = fits.anatomy(hf(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    about = placing.sketch(config, "toy")
    assert {t.name: t.shape for t in about.tensors} == {t.name: t.shape for t in exact.tensors}
    assert about.cache_token_bytes == exact.cache_token_bytes


# Bytes of files that are published: bartowski's and Qwen's own GGUF files on the hub; general knowledge, two digits.
PUBLISHED_FILES = {
    ("meta-llama/Llama-3.1-8B-Instruct", "Q4_K_M"): 4.92e9,
    ("Qwen/Qwen2.5-0.5B-Instruct", "Q8_0"): 0.531e9,
    ("meta-llama/Llama-3.1-70B-Instruct", "Q4_K_M"): 42.5e9,
    ("Qwen/Qwen3-30B-A3B", "Q4_K_M"): 18.6e9,
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "Q8_0"): 49.6e9,
}


@pytest.mark.parametrize(("name", "level"), PUBLISHED_FILES)
def test_known_models_have_their_published_sizes_without_a_download(name: str, level: str) -> None:
    rows = placing.place(name, "rtx4090,laptop-16gb")
    found = [row for row in rows if row.type == level]
    assert [row.device for row in found] == ["RTX 4090", "Laptop x86 (Core i7-1260P class)"]
    assert found[0].size_bytes == pytest.approx(PUBLISHED_FILES[name, level], rel=0.02)


def test_what_does_not_fit_says_what_to_give_up() -> None:
    rows = {row.type: row for row in placing.place("meta-llama/Llama-3.1-70B-Instruct", "rtx4090", context=8192)}
    assert not rows["Q4_K_M"].fits
    assert 0 < rows["Q2_K"].layers_on_device < 80
    assert "layers on the device" in rows["Q2_K"].give_up
    small = {row.type: row for row in placing.place("Llama-3.1-8B-Instruct", "rtx 3060", context=131072)}
    level = small["Q4_K_M"]
    assert not level.fits
    assert level.give_up.startswith(("cache in", "context:"))
    assert level.longest_context["f16"] < level.longest_context["q8_0"] < level.longest_context["q4_0"]
    within = placing.place("Llama-3.1-8B-Instruct", "rtx 3060", context=level.longest_context["f16"] - 512)
    assert next(row for row in within if row.type == "Q4_K_M").fits


def test_more_answers_at_once_are_faster_and_take_more_memory() -> None:
    one, eight = (placing.place("Qwen/Qwen3-30B-A3B", "rtx5090", batch=batch)[3] for batch in (1, 8))
    assert one.type == eight.type
    assert one.memory_bytes < eight.memory_bytes
    assert one.tokens_per_s is not None
    assert eight.tokens_per_s is not None
    assert one.tokens_per_s < eight.tokens_per_s < 8 * one.tokens_per_s  # eight answers read more of the experts
    assert one.energy_low_j_per_token < one.energy_j_per_token < one.energy_high_j_per_token  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "where", "reason"),
    [
        ("Llama-3.1-8B-Instruct", "rtx9999", "the nearest are"),
        ("Llama-3.1-8B-Instruct", "Cortex-M4", "holds no language model"),
        ("google-bert/bert-base-uncased", "pi5", "from left to right"),
    ],
)
def test_devices_and_models_that_are_refused(name: str, where: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        placing.place(name, where)
