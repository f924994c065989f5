"""Language models as people have them: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microbudget.errors import UnsupportedModel, what_it_said
from microbudget.kinds.language_modelling import agreement, go_template, ollama
from microbudget.runtimes.gguf import convert, importance, vocabulary
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.hf.checkpoint import Checkpoint
from microbudget.runtimes.language.chat import ChatTemplate
from microbudget.runtimes.loading import load
from toy_language_models import TEXT, train_byte_level, write_network
from toy_pair import needs_llama


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose config.json says tied, beside a head of its own."""
    folder = tmp_path_factory.mktemp("models") / "tied"
    train_byte_level(folder)
    write_network(folder, "llama")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_file_decides_whether_the_head_is_the_embedding(tied: Path, tmp_path: Path) -> None:
    convert.plan(tied).write(tmp_path / "own.gguf")
    with GgufFile(tmp_path / "own.gguf") as file:
        assert "output.weight" in file.tensors


def test_a_copy_of_the_embedding_is_no_head_of_its_own(tied: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tied / name).read_bytes())
    weights = load_file(tied / "model.safetensors")
    save_file({**weights, convert.HEAD: weights["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    conversion = convert.plan(tmp_path)
    assert conversion.config.tied
    conversion.check(Checkpoint(tmp_path))


@needs_llama
def test_an_export_is_compared_with_its_source(tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    conversion = convert.plan(tied)
    conversion.write(tmp_path / "good.gguf")
    found = agreement.check(tied, tmp_path / "good.gguf", TEXT[:2], "float16")
    assert found is not None
    assert found < 1e-3
    first = agreement.check(tied, tmp_path / "good.gguf", TEXT[:1], "float16")
    monkeypatch.setattr(agreement, "LARGE_BYTES", 0)  # layer by layer from the disk, and only the first text
    assert agreement.check(tied, tmp_path / "good.gguf", TEXT[:2], "float16") == pytest.approx(first, rel=1e-3)
    monkeypatch.undo()

    class Swapped(convert.Conversion):
        def _data(self, tensor: Any, checkpoint: Any) -> Any:
            for piece in super()._data(tensor, checkpoint):
                yield piece[::-1].copy() if tensor.name == "blk.1.ffn_up.weight" else piece

    Swapped(tied, conversion.config, conversion.vocabulary, "F16").write(tmp_path / "bad.gguf")
    with pytest.raises(UnsupportedModel, match=r"blk\.1 is the first layer that differs"):
        agreement.check(tied, tmp_path / "bad.gguf", TEXT[:2], "float16")


def test_weights_beyond_float16_are_written_wider(tied: Path, tmp_path: Path) -> None:
    tensor = convert.plan(tied).layout.tensors[0]
    with pytest.raises(convert.BeyondFloat16):
        convert.as_type(np.full((1, 2), 90112, np.float32), convert.TensorInfo("x", (1, 2), tensor.type))
    assert convert.wider(convert.plan(tied)).dtype == "F32"  # in bfloat16 llama.cpp rounds the inputs, too


def test_a_token_without_a_row_is_named(tied: Path) -> None:
    size = len(json.loads((tied / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    with pytest.raises(UnsupportedModel, match=r"the model only \d+: .*'<tool>' has no row"):
        vocabulary.read_vocabulary(tied, size + 2)


def test_an_old_importance_matrix_is_refused_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(b"\x01\0\0\0\x03\0\0\0abc")
    with pytest.raises(UnsupportedModel, match="llama-imatrix --in-file"):
        importance.load(path)


def test_an_importance_of_zeros_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    importance.save(path, {"blk.0.attn_q.weight": np.zeros(4, np.float32)}, 100)
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.attn_q\.weight is zero in all columns"):
        importance.load(path)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8 + b"{}", bytes(8), b"no weights at all", b"\x02" + bytes(7) + b"[]" + b"x"]
)
def test_damaged_weights_are_named_at_loading(tied: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes((tied / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantized_checkpoints_are_named(tied: Path, tmp_path: Path, method: str) -> None:
    config = json.loads((tied / "config.json").read_text(encoding="utf-8-sig"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    (tmp_path / "model.safetensors").write_bytes((tied / "model.safetensors").read_bytes())
    with pytest.raises(UnsupportedModel, match=rf"quantized already \({method}\).*original float model"):
        load(tmp_path)


def test_a_byte_order_mark_that_transformers_refuses_is_named(tied: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + (tied / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((tied / "model.safetensors").read_bytes())
    with pytest.raises(UnsupportedModel, match="begins with a byte order mark"):
        load(tmp_path)


def test_a_reason_on_the_second_line_is_passed_on() -> None:
    error = ValueError("look at the above report!\n  /opt/lib/core/graph.cc:42 the size is 3")
    assert what_it_said(error) == "look at the above report! the size is 3"
    assert what_it_said(ValueError()) == "ValueError"


@pytest.mark.parametrize("name", ["a$b", "a`b", 'a"b', "a'b", "a b", "plain"])
def test_paths_in_commands_are_quoted(name: str) -> None:
    create, _ = ollama.commands("lm", Path(name))
    assert shlex.split(create)[-1] == str(Path(name) / "Modelfile")


def test_a_brace_before_an_action_is_escaped() -> None:
    assert go_template._go("a {") == 'a {{ "{" }}'
    assert go_template._go("{{") == '{{ "{{" }}'


def test_a_bos_that_the_runtime_does_not_add_is_kept() -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    form = go_template.derive(ChatTemplate(chatml, "<|im_start|>", "<|im_end|>"), adds_bos=False)
    assert form.before_prompt == "<|im_start|>user\n"
    assert form.before_system == "<|im_start|>system\n"
