"""GGUF files: written and read back, by us and by the `gguf` package; damaged ones are refused with a reason."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_gguf import MOST_BYTES, damage, examine, use, write_sample
from microbudget import cli
from microbudget.errors import DiskFull, Failed, ModelNotFound, UnsupportedModel
from microbudget.machine import files
from microbudget.runtimes.gguf.file import GgufFile, TensorInfo
from microbudget.runtimes.gguf.types import BY_ID, FLOATS, TYPES, find
from microbudget.runtimes.gguf.write import Layout, entry, layer_of, order
from microbudget.runtimes.loading import load

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(
    st.tuples(st.just("u32"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("f32"), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("str"), TEXTS),
    st.tuples(st.just("[str]"), st.lists(TEXTS, max_size=5)),
    st.tuples(st.just("[i32]"), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)),
    st.tuples(st.just("[f32]"), st.lists(st.floats(width=32, allow_nan=False), max_size=5)),
)
SHAPES = st.lists(st.integers(1, 4), max_size=2).map(tuple)
KINDS = st.sampled_from([kind for kind in TYPES.values() if kind.name in (*FLOATS, "Q8_0", "Q4_K", "IQ2_XXS", "I32")])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(TEXTS.filter(lambda key: key != "general.alignment"), VALUES, max_size=6),
    tensors=st.dictionaries(TEXTS.filter(lambda name: len(name.encode()) < 40), st.tuples(SHAPES, KINDS), max_size=4),
    seed=st.integers(0, 2**16),
)
def test_what_is_written_is_read(values: dict[str, Any], tensors: dict[str, Any], seed: int, tmp_path: Path) -> None:
    coin = np.random.default_rng(seed)
    infos = tuple(TensorInfo(name, (*shape, kind.block), kind) for name, (shape, kind) in tensors.items())
    data = {info.name: coin.integers(0, 256, info.size_bytes, np.uint8) for info in infos}
    layout = Layout(tuple(entry(key, value, kind) for key, (kind, value) in values.items()), infos)
    path = tmp_path / "file.gguf"
    layout.write(path, lambda info: np.array_split(data[info.name], 3))
    assert path.stat().st_size == layout.size_bytes
    with GgufFile(path) as file:
        for key, (_, value) in values.items():
            found = file.get(key)
            assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
        assert {name: (info.shape, info.type) for name, info in file.tensors.items()} == {
            info.name: (info.shape, info.type) for info in infos
        }
        for info in file.tensors.values():
            np.testing.assert_array_equal(file.read(info), data[info.name])


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "sample.gguf"
    write_sample(path)
    foreign = gguf.GGUFReader(path)
    with GgufFile(path) as file:
        assert set(file.entries) == {key for key in foreign.fields if not key.startswith("GGUF.")}
        assert foreign.fields["tokenizer.ggml.tokens"].contents() == file.get("tokenizer.ggml.tokens")
        for theirs in foreign.tensors:
            ours = file.tensors[theirs.name]
            assert ours.shape == tuple(int(length) for length in theirs.shape)[::-1]
            assert (ours.type.id, file.data_start + ours.offset) == (theirs.tensor_type, theirs.data_offset)
            assert file.read(ours).tobytes() == theirs.data.tobytes()


def test_types_are_those_of_the_library() -> None:
    from microbudget.runtimes.gguf.llama import library

    for kind in TYPES.values():
        traits = library().ggml_get_type_traits(kind.id).contents
        found = (traits.type_name.decode().upper(), traits.blck_size, traits.type_size, traits.is_quantized)
        expected = (kind.name, kind.block, kind.block_bytes, kind.quantized)
        assert found == expected
    assert find("q4_k") is TYPES["Q4_K"]


def sample(tmp_path: Path) -> tuple[Path, bytearray]:
    path = tmp_path / "sample.gguf"
    return path, bytearray(write_sample(path))


def place_of(raw: bytes, text: str) -> int:
    """Where a name's length stands."""
    return raw.index(struct.pack("<Q", len(text)) + text.encode())


def refused(path: Path, raw: bytes, reason: str) -> None:
    path.write_bytes(raw)
    with pytest.raises(UnsupportedModel, match=reason):
        GgufFile(path)
    with pytest.raises(UnsupportedModel, match=reason):
        load(path)


def test_no_file_and_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        GgufFile(tmp_path / "none.gguf")
    path, raw = sample(tmp_path)
    refused(path, b"", "it has 0 bytes, a header has 24")
    refused(path, b"PK\x03\x04" + bytes(raw[4:]), "is no GGUF file: it begins with b'PK")
    refused(path, bytes(raw[:4]) + struct.pack("<I", 1) + bytes(raw[8:]), "it is of version 1; versions 2 and 3")
    refused(path, bytes(raw[:4]) + struct.pack(">I", 3) + bytes(raw[8:]), "big-endian order")


STRANGE: list[tuple[Any, Any]] = [
    ("two", "str"), (["a", "b"], "[str]"), ([], "[i32]"), ([-1, 2], "[i32]"), ([0.5], "[f32]"), (1.5, "f32"),
    (float("nan"), "f32"), (True, "bool"), (-1, "i32"), (0, "u32"), (2**32 - 1, "u32"),
]  # fmt: skip


@pytest.mark.parametrize("value", STRANGE, ids=str)
def test_metadata_of_another_kind_are_reported(value: tuple[Any, Any], tmp_path: Path) -> None:
    """Whatever reads them raises UnsupportedModel and nothing else."""
    path = tmp_path / "file.gguf"
    write_sample(path)
    with GgufFile(path) as file:
        entries, tensors = file.entries, tuple(file.tensors.values())
    keys = ["split.count", "llama.attention.key_length", "tokenizer.ggml.bos_token_id", "llama.expert_count", *entries]
    for key in keys:
        # The template is rendered in a process of its own; of the keys only the tokenizer's have to do with it.
        left_out = {key} if key.startswith("tokenizer.") else {key, "tokenizer.chat_template"}
        others = tuple(item for name, item in entries.items() if name not in left_out)
        Layout((*others, entry(key, *value)), tensors).write(path, lambda info: [bytes(info.size_bytes)])
        use(path)


def test_what_is_strange_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.gguf"
    tensor = TensorInfo("token_embd.weight", (6, 32), TYPES["F16"])
    entries = (entry("general.architecture", "llama", "str"), entry("llama.block_count", "two", "str"))
    Layout(entries, (tensor,)).write(path, lambda info: [bytes(info.size_bytes)])
    assert cli.main(["fits", str(path)]) == 2
    assert "llama.block_count is 'two', not a whole number from 1" in capsys.readouterr().err


def test_truncated_files(tmp_path: Path) -> None:
    path, raw = sample(tmp_path)
    for length in range(24, len(raw), 97):
        refused(path, bytes(raw[:length]), "is damaged at byte|is truncated|tensors, more than")


def test_counts_that_the_file_cannot_hold(tmp_path: Path) -> None:
    path, raw = sample(tmp_path)
    for place, what in ((8, "tensors"), (16, "entries")):
        for count in (2**63, 2**40, 10_000):
            changed = bytes(raw[:place]) + struct.pack("<Q", count) + bytes(raw[place + 8 :])
            refused(path, changed, f"it claims {count} {what}")


def test_strings_and_arrays_longer_than_the_file(tmp_path: Path) -> None:
    path, raw = sample(tmp_path)
    place = place_of(raw, "general.architecture")
    for length in (2**63, 2**64 - 1, len(raw)):
        refused(path, bytes(raw[:place]) + struct.pack("<Q", length) + bytes(raw[place + 8 :]), "a key takes")
    place = place_of(raw, "tokenizer.ggml.tokens") + 8 + len("tokenizer.ggml.tokens") + 8  # the array's count
    for count in (2**61, 2**63, 2**40):
        changed = bytes(raw[:place]) + struct.pack("<Q", count) + bytes(raw[place + 8 :])
        refused(path, changed, "the value of 'tokenizer.ggml.tokens' takes")


def test_tensors_that_cannot_be(tmp_path: Path) -> None:
    path, raw = sample(tmp_path)
    name = "blk.0.attn_q.weight"
    place = place_of(raw, name) + 8 + len(name)  # dimensions, shape, type, offset

    def changed(at: int, form: str, value: int) -> bytes:
        copy = bytearray(raw)
        struct.pack_into(form, copy, place + at, value)
        return bytes(copy)

    refused(path, changed(0, "<I", 5), "has 5 dimensions; 1 to 4")
    refused(path, changed(0, "<I", 2**31), "dimensions")
    refused(path, changed(4, "<Q", 255), "does not fit Q4_K, whose blocks have 256 values")
    refused(path, changed(4, "<Q", 0), "does not fit")
    refused(path, changed(12, "<Q", 2**62), "has offset|truncated")
    refused(path, changed(20, "<I", 999), "is of type 999, which is unknown")
    refused(path, changed(24, "<Q", 2**62), "has offset 4611686018427387904 where")
    refused(path, changed(24, "<Q", 7), "has offset 7 where")


def test_doubled_names_and_bad_text(tmp_path: Path) -> None:
    path, raw = sample(tmp_path)
    refused(path, bytes(raw).replace(b"a.number", b"a.number"[:7] + b"\xff"), "is not UTF-8")
    twice = entry("same", 1, "u32")
    Layout((twice, twice), ()).write(path, lambda _: [])
    refused(path, path.read_bytes(), "the key 'same' occurs twice")
    info = TensorInfo("x", (32,), TYPES["F32"])
    Layout((), (info, info)).write(path, lambda _: [np.zeros(32, np.float32)])
    refused(path, path.read_bytes(), "the tensor 'x' occurs twice")
    Layout((entry("general.alignment", 24, "u32"),), ()).write(path, lambda _: [])
    refused(path, path.read_bytes(), "not a power of two")
    long = TensorInfo("x" * 64, (32,), TYPES["F32"])
    Layout((), (long,)).write(path, lambda _: [np.zeros(32, np.float32)])
    refused(path, path.read_bytes(), "64 bytes; 63 are allowed")


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00003.gguf"
    parts = entry("split.count", 3, "u32")
    Layout((entry("general.architecture", "llama", "str"), parts), ()).write(path, lambda _: [])
    with pytest.raises(UnsupportedModel, match="one of 3 parts: join them"):
        load(path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    Layout((entry("general.architecture", 3, "u32"),), ()).write(path, lambda _: [])
    with GgufFile(path) as file:
        with pytest.raises(UnsupportedModel, match=r"general.architecture is 3, not a text"):
            _ = file.architecture
        with pytest.raises(UnsupportedModel, match=r"has no 'llama.block_count' in its metadata"):
            file.require("llama.block_count")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused_in_little_memory(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.gguf"
    raw = write_sample(path)
    path.write_bytes(damage(raw, random.Random(seed)))
    tracemalloc.start()
    try:
        if examine(path):
            use(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_writing_checks_the_disk_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout((), (TensorInfo("x", (2, 32), TYPES["F32"]),))
    with pytest.raises(Failed, match="x: 128 bytes were made, 256 were expected"):
        layout.write(tmp_path / "short.gguf", lambda _: [np.zeros(32, np.float32)])
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DiskFull, match="has 10 B left"):
        layout.write(tmp_path / "none.gguf", lambda _: [np.zeros(64, np.float32)])
    assert not (tmp_path / "none.gguf").exists()


def test_order_is_by_layer_and_name() -> None:
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "rope_freqs.weight", "blk.x.a"]
    infos = [TensorInfo(name, (32,), BY_ID[0]) for name in names]
    assert [info.name for info in order(infos)] == [
        "blk.x.a", "output.weight", "rope_freqs.weight", "blk.2.a", "blk.2.b", "blk.10.a",
    ]  # fmt: skip
    assert layer_of("blk.7.attn_v.weight") == 7
