"""The binding to llama.cpp: structures that are checked, quantizers, and an open file."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import InvalidOption, MissingExtra, UnsupportedModel
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.gguf.llama import library, quantizing, structures
from microbudget.runtimes.gguf.llama import library as open_library
from microbudget.runtimes.gguf.llama.network import Network
from microbudget.runtimes.gguf.llama.structures import Tensor
from microbudget.runtimes.gguf.session import GgufReader, cache_row_bytes
from microbudget.runtimes.gguf.types import TYPES
from toy_pair import Pair, needs_llama, write_pair

pytestmark = needs_llama


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def network(pair: Pair) -> Iterator[Network]:
    opened = Network(pair.gguf)
    yield opened
    opened.close()


# The library


def test_the_installed_library_is_the_one_we_know() -> None:
    assert list(structures.differences(open_library())) == []


@pytest.mark.parametrize(
    ("table", "field"),
    [("MODEL_DEFAULTS", "use_extra_bufts"), ("CONTEXT_DEFAULTS", "n_ubatch"), ("CONTEXT_DEFAULTS", "ctx_other")],
)
def test_a_field_that_moved_is_found(table: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(getattr(structures, table), field, 77)
    (line,) = structures.differences(open_library())
    assert field in line


def test_a_tensor_of_another_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "OBJECT_BYTES", 40)
    (line,) = structures.differences(open_library())
    assert "ggml_tensor has" in line


def test_another_library_is_refused_with_the_version_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("microbudget.runtimes.gguf.llama.library", fromlist=["x"])
    monkeypatch.setattr(module, "differences", lambda _: iter(["ContextParams.n_ctx is 3, not 512"]))
    with pytest.raises(MissingExtra, match=rf"n_ctx is 3.*xllamacpp=={structures.TESTED}"):
        library.__wrapped__()  # type: ignore[attr-defined]


def test_another_version_is_refused_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("microbudget.runtimes.gguf.llama.library", fromlist=["x"])
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2026.10.11550")
    monkeypatch.setattr(module.ctypes, "CDLL", None)
    with pytest.raises(MissingExtra, match=rf"of another version.*xllamacpp=={structures.TESTED}"):
        library.__wrapped__()  # type: ignore[attr-defined]


def test_a_library_without_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("microbudget.runtimes.gguf.llama.library", fromlist=["x"])
    monkeypatch.setitem(module.PROTOTYPES, "llama_no_such_function", (None, ()))
    with pytest.raises(MissingExtra, match="exports no llama_no_such_function"):
        library.__wrapped__()  # type: ignore[attr-defined]


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(MissingExtra, match=r"microbudget\[llm\]"):
        library.__wrapped__()  # type: ignore[attr-defined]


# Quantizers


# Without the types of two bits and less with tables, whose making takes ggml half a minute.
QUICK = [name for name, kind in TYPES.items() if kind.id in quantizing.WRITABLE and not name.startswith(("IQ1", "IQ2"))]


@pytest.mark.parametrize("name", QUICK)
def test_every_type_has_the_size_that_we_say(name: str) -> None:
    kind = TYPES[name]
    rows = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    blocks = quantizing.quantize(rows, kind.id, np.ones(512, np.float32))
    assert blocks.shape == (3, kind.bytes_of((512,))) == (3, quantizing.row_bytes(kind.id, 512))
    back = quantizing.dequantize(blocks, kind.id, 512)
    steps = 2.0 ** -max(1.0, min(8.0, kind.bits_per_weight) - 1.5)  # generous: part of the bits are scales
    assert np.abs(back - rows).mean() < 2 * steps


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS"])
def test_values_are_those_that_the_gguf_package_reads(name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: no foreign reader to compare with")
    rows = np.random.default_rng(1).normal(size=(4, 768)).astype(np.float32)
    kind = TYPES[name]
    blocks = quantizing.quantize(rows, kind.id)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(kind.id))
    np.testing.assert_allclose(quantizing.dequantize(blocks, kind.id, 768), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 3), seed=st.integers(0, 99))
def test_rows_are_quantized_each_by_itself(rows: int, blocks: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, 256 * blocks)).astype(np.float32)
    together = quantizing.quantize(values, TYPES["Q4_K"].id)
    apart = [quantizing.quantize(values[row : row + 1], TYPES["Q4_K"].id)[0] for row in range(rows)]
    np.testing.assert_array_equal(together, apart)


def test_columns_that_matter_are_rounded_better() -> None:
    rows = np.random.default_rng(2).normal(size=(64, 256)).astype(np.float32)
    importance = np.where(np.arange(256) % 8 == 0, 100.0, 0.01).astype(np.float32)
    errors = []
    for given_importance in (None, importance):
        blocks = quantizing.quantize(rows, TYPES["Q2_K"].id, given_importance)
        errors.append(float((importance * (quantizing.dequantize(blocks, 10, 256) - rows) ** 2).sum()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("type_id", "columns", "says"),
    [(9, 256, "cannot quantize to type 9"), (99, 256, "type 99"), (12, 255, "no multiple"), (16, 256, "importance")],
)
def test_what_cannot_be_quantized_is_refused_before_ggml_ends_the_process(
    type_id: int, columns: int, says: str
) -> None:
    with pytest.raises(InvalidOption, match=says):
        quantizing.quantize(np.zeros((1, columns), np.float32), type_id)


# An open file


def test_a_file_that_llama_cpp_does_not_take_has_its_reasons(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 60)
    with pytest.raises(UnsupportedModel, match=r"cannot open .*x\.gguf: \S+"):
        Network(path)


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40))
def test_decoding_is_the_inverse_of_encoding(pair: Pair, text: str) -> None:
    network = Network(pair.gguf, vocabulary_only=True)
    try:
        assert network.vocabulary.decode(network.vocabulary.encode(text)) == text
    finally:
        network.close()


def test_special_tokens_in_a_text_are_letters_unless_asked_for(network: Network) -> None:
    words = network.vocabulary
    assert words.end is not None
    assert words.encode("a<|end|>", special=True)[-1] == words.end
    assert words.end not in words.encode("a<|end|>")
    assert words.decode(words.encode("a<|end|>")) == "a<|end|>"
    assert words.text(words.end) == "<|end|>"
    assert words.ends(words.end)
    assert not words.ends(words.encode("a")[0])


def test_pieces_rewound_and_whole_give_the_same_logits(network: Network) -> None:
    tokens = list(range(10, 70))
    context = network.context(64, threads=1, rows=60, cache="F32")
    whole = context.process(tokens, 60)
    context.rewind()
    pieces = np.concatenate([context.process(tokens[:30], 30), context.process(tokens[30:], 30)])
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    context.rewind(59)
    np.testing.assert_allclose(context.process(tokens[59:], 1), whole[59:], atol=1e-4)
    context.close()


def test_more_than_fits_is_an_error_and_not_a_crash(network: Network) -> None:
    context = network.context(16, threads=1)
    with pytest.raises(ValueError, match="do not fit"):
        context.process(list(range(17)))
    with pytest.raises(ValueError, match="do not fit"):
        context.process([1, 2], rows=2)
    context.close()


def test_an_error_while_watching_comes_out(network: Network) -> None:
    def watch(tensor: Tensor, asked: bool) -> bool:
        if asked:
            return bool(open_library().ggml_op_name(tensor.op) == b"MUL_MAT")
        raise KeyError("mine")

    context = network.context(16, threads=1, watch=watch)
    with pytest.raises(KeyError, match="mine"):
        context.process([1, 2, 3])
    context.close()


@pytest.mark.parametrize("cache", ["F16", "F32"])
def test_the_size_of_the_cache_is_what_llama_cpp_keeps(pair: Pair, cache: str) -> None:
    with GgufFile(pair.gguf) as file:
        row_bytes = cache_row_bytes(file, cache)
    network = Network(pair.gguf)
    context = network.context(128, threads=1, cache=cache)
    sizes = []
    for _ in range(2):
        context.process(list(range(40)))
        sizes.append(open_library().llama_state_get_size(context._handle))
    assert row_bytes == 2 * 2 * 2 * 16 * {"F16": 2, "F32": 4}[cache]  # layers, keys and values, heads, their width
    assert 0 <= (sizes[1] - sizes[0]) / 40 - row_bytes <= 16  # with the position and sequence of each token
    context.close()
    network.close()


def test_a_reader_tells_what_it_holds(pair: Pair) -> None:
    reader = GgufReader(pair.gguf, threads=1)
    reader.reserve(100, 1)
    assert (reader.longest, reader.vocabulary) == (256, 512)
    assert reader.cache_bytes() == 256 * 256  # 100 tokens are rounded up to 256
    assert (reader.bos_text, reader.eos_text) == ("<|begin|>", "<|end|>")
    assert reader.runtime.startswith("llama.cpp")
    reader.close()
