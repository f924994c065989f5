"""Importance matrices: the inputs of every weight matrix, as torch sees them, and the file that llama.cpp reads."""

from __future__ import annotations

import shlex
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import BadData, ModelNotFound, UnsupportedModel
from microbudget.runtimes.gguf import importance, inputs
from microbudget.runtimes.gguf.write import Layout, entry
from microbudget.runtimes.hf.causal import CausalReader
from toy_pair import Pair, needs_llama, prose, write_pair

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def name_of(module: str) -> str:
    if module == "lm_head":
        return "output.weight"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def squares_in_torch(pair: Pair, chunks: list[list[int]]) -> dict[str, np.ndarray]:
    """The definition, with a hook on every linear layer."""
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], None]:
        def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, torch.zeros(())) + rows.square().sum(0)

        return add

    linear = [(n, m) for n, m in pair.network.named_modules() if isinstance(m, torch.nn.Linear)]
    handles = [module.register_forward_pre_hook(hook(name_of(name))) for name, module in linear]
    with torch.inference_mode():
        for chunk in chunks:
            pair.network(torch.tensor([chunk]))
    for handle in handles:
        handle.remove()
    count = sum(map(len, chunks))
    return {name: (total / count).numpy() for name, total in sums.items()}


@needs_llama
def test_the_matrix_is_what_torch_sees(pair: Pair) -> None:
    texts = [prose(300, seed) for seed in (1, 2)]
    matrix, tokens = importance.collect(pair.gguf, texts, context=200, threads=1)
    reader = CausalReader(pair.hf)
    ids = [token for text in texts for token in reader.encode(text)]
    expected = squares_in_torch(pair, [ids[start : start + 200] for start in range(0, len(ids), 200)])
    assert tokens == len(ids)
    assert set(matrix) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(matrix[name], values, rtol=0.01, atol=1e-4 * values.max(), err_msg=name)


@needs_llama
def test_the_same_texts_give_the_same_matrix(pair: Pair) -> None:
    first, second = (importance.collect(pair.gguf, [prose(200)], threads=1)[0] for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@needs_llama
def test_reading_that_was_interrupted_goes_on_as_if_it_had_not(pair: Pair, tmp_path: Path) -> None:
    """Ctrl-C comes out of the middle of llama.cpp's computation; what was kept before is enough to go on."""
    texts = [prose(150, seed) for seed in range(4)]
    whole = inputs.Sums()
    inputs.read(pair.gguf, texts, whole, context=64, threads=1)

    def interrupt_later(sums: inputs.Sums) -> bool:
        if sums.tokens == 128:  # of some 1,500: in the middle of a text
            sums.save(tmp_path / "begun.npz")
            original = sums.add

            def add(name: str, values: np.ndarray) -> None:
                signal.raise_signal(signal.SIGINT)
                original(name, values)

            monkeypatch.setattr(sums, "add", add)
        return False

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(KeyboardInterrupt):
        inputs.read(pair.gguf, texts, inputs.Sums(), context=64, threads=1, enough=interrupt_later)
    again = inputs.Sums.load(tmp_path / "begun.npz")
    assert (again.tokens, again.texts) == (128, 1)
    inputs.read(pair.gguf, texts, again, context=64, threads=1)
    assert (again.tokens, again.texts) == (whole.tokens, 4)
    for name, means in whole.means().items():
        np.testing.assert_array_equal(again.means()[name], means)
    (tmp_path / "begun.npz").write_bytes(b"PK damaged")
    assert inputs.Sums.load(tmp_path / "begun.npz").tokens == 0


@needs_llama
def test_too_little_text_is_refused(pair: Pair) -> None:
    with pytest.raises(BadData, match="give more text"):
        importance.collect(pair.gguf, ["x"], threads=1)


@needs_llama
def test_a_damaged_model_is_refused_and_does_not_end_the_process(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(pair.gguf.read_bytes()[:-5000])
    with pytest.raises(UnsupportedModel):
        importance.collect(path, [prose(100)])


@settings(max_examples=25)
@given(
    columns=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    tokens=st.integers(1, 10**6),
    seed=st.integers(0, 99),
    source=st.text(max_size=10),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, columns: list[int], tokens: int, seed: int, source: str
) -> None:
    coin = np.random.default_rng(seed)
    matrix = {f"blk.{i}.x.weight": coin.gamma(0.1, 1, n).astype(np.float32) for i, n in enumerate(columns)}
    path = tmp_path_factory.mktemp("m") / "imatrix.gguf"
    importance.save(path, matrix, tokens, source.encode("utf-8", "replace").decode())
    loaded = importance.load(path)
    assert set(loaded) == set(matrix)
    for name, values in matrix.items():
        np.testing.assert_allclose(loaded[name], values, rtol=3e-7)


def test_the_file_is_that_of_llama_imatrix(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: no foreign reader to compare with")
    importance.save(tmp_path / "m.gguf", {"blk.0.attn_q.weight": np.array([0.5, 2.0], np.float32)}, 1000, "a.txt")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    np.testing.assert_allclose(tensors["blk.0.attn_q.weight.in_sum2"].data, [[500, 2000]])
    assert tensors["blk.0.attn_q.weight.counts"].data.tolist() == [[1000]]
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.chunk_count").contents() == 2
    assert reader.get_field("imatrix.datasets").contents() == ["a.txt"]


def test_bad_files_are_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        importance.load(tmp_path / "missing.gguf")
    with pytest.raises(UnsupportedModel, match="no importance matrix"):
        importance.load(pair.gguf)
    importance.save(tmp_path / "a.gguf", {"x.weight": np.array([-1.0, 2.0], np.float32)}, 9)
    with pytest.raises(UnsupportedModel, match=r"cannot be"):
        importance.load(tmp_path / "a.gguf")
    Layout((entry("general.type", "imatrix", "str"),), ()).write(tmp_path / "b.gguf", lambda _: [])
    with pytest.raises(UnsupportedModel, match="no importance of any tensor"):
        importance.load(tmp_path / "b.gguf")
    (tmp_path / "c.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:-40])
    with pytest.raises(UnsupportedModel):
        importance.load(tmp_path / "c.gguf")


@pytest.mark.parametrize("name", ["old.dat", "my model.imatrix"])
def test_the_older_format_is_refused_with_the_command_that_converts_it(name: str, tmp_path: Path) -> None:
    tensor = b"blk.0.attn_q.weight"
    numbers = struct.pack("<i", 1), struct.pack("<i", len(tensor)), tensor, struct.pack("<ii4f", 7, 4, 1, 2, 3, 4)
    (tmp_path / name).write_bytes(b"".join(numbers))
    with pytest.raises(UnsupportedModel) as raised:
        importance.load(tmp_path / name)
    command = str(raised.value).rpartition(": ")[2]
    assert shlex.split(command) == [
        "llama-imatrix", "--in-file", str(tmp_path / name), "-o", str((tmp_path / name).with_suffix(".gguf")),
    ]  # fmt: skip
