"""hf -> gguf: the same logits in llama.cpp as in transformers, the same tokens, and errors that help."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from microbudget.errors import DiskFull, InvalidOption, ModelNotFound, UnsupportedModel
from microbudget.machine import files
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf import token_check
from microbudget.runtimes.gguf.file import GgufFile
from microbudget.runtimes.gguf.llama.network import Network
from microbudget.runtimes.gguf.write import entry
from microbudget.runtimes.hf.checkpoint import Checkpoint
from toy_language_models import SHAPES, train_byte_level, write_network


def logits_of(path: Path, tokens: list[int]) -> np.ndarray:
    network = Network(path)
    context = network.context(len(tokens), threads=1, rows=len(tokens), cache="F32")
    try:
        return context.process(tokens, len(tokens))
    finally:
        context.close()
        network.close()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_byte_level(folder)
    return folder


def give_tokenizer(tokenizer: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
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
    # llama.cpp has GELU in a table of float16 values: its steps made 3e-4 to 8e-4 of the largest logit here. Without
    # the window, the limit on logits, the 1 of Gemma's norms or the order of Falcon's heads it is 0.3 and more.
    gelu = conversion.config.family.activation[0] != "hidden_act"
    np.testing.assert_allclose(answered, expected, atol=(2e-3 if gelu else 2e-4) * np.abs(expected).max())


@pytest.fixture(scope="session")
def llama(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer. Do not write into it."""
    folder = give_tokenizer(tokenizer, tmp_path_factory.mktemp("llama") / "model")
    write_network(folder)
    return folder


def copy(folder: Path, target: Path, **settings: object) -> Path:
    """The folder anew, with some settings of config.json changed; None takes one away."""
    give_tokenizer(folder, target)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in {**config, **settings}.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return target


def read(path: Path) -> dict[str, np.ndarray]:
    with GgufFile(path) as file:
        return {
            tensor.name: file.read(tensor).view({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.type.name])
            for tensor in file.tensors.values()
        }


def test_shards_give_the_same_file(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(str(llama), dtype=torch.float32)
    sharded = copy(llama, tmp_path / llama.name)  # the folder's name is the model's
    (sharded / "model.safetensors").unlink()
    network.save_pretrained(str(sharded), max_shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    for folder, name in ((llama, "one"), (sharded, "many")):
        convert_gguf.plan(folder).write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_precision_into_every_other(stored: torch.dtype, dtype: str, llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(str(llama), dtype=stored)
    folder = copy(llama, tmp_path / "model")
    network.save_pretrained(str(folder))
    convert_gguf.plan(folder, dtype).write(tmp_path / "model.gguf")
    found = read(tmp_path / "model.gguf")
    wanted = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    expected = network.model.layers[1].mlp.down_proj.weight.detach().to(wanted)
    bits = expected.view(torch.int16 if wanted.itemsize == 2 else torch.int32).numpy().reshape(-1)
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight"].view(bits.dtype), bits)
    norm = network.model.layers[1].input_layernorm.weight.detach().float().numpy()
    np.testing.assert_array_equal(found["blk.1.attn_norm.weight"], norm)  # vectors stay float32


def test_rows_are_paired_as_the_equation_says() -> None:
    heads, half = 2, 3
    rows = np.arange(heads * 2 * half * 5).reshape(heads * 2 * half, 5)
    paired = convert_gguf.pair_rows(rows, heads)
    for head in range(heads):
        for index in range(half):
            for part in range(2):
                source = head * 2 * half + part * half + index
                np.testing.assert_array_equal(paired[head * 2 * half + 2 * index + part], rows[source])


def test_memory_stays_at_a_tensor(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by tracemalloc: the largest tensor is the vocabulary's, everything together several times that."""
    import tracemalloc

    folder = copy(llama, tmp_path / "model", vocab_size=20_000, num_hidden_layers=30)
    write_network(folder, vocab_size=20_000, num_hidden_layers=30)
    conversion = convert_gguf.plan(folder)
    _ = conversion.layout.header
    largest = 20_000 * 64 * 4
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 2.5 * largest
    monkeypatch.setattr(convert_gguf, "CHUNK_VALUES", 2**16)
    tracemalloc.start()
    conversion.write(tmp_path / "model.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.4 * largest


def test_a_value_beyond_float16_is_refused(llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy(llama, tmp_path / "model")
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 70_000
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_up\.weight has values beyond float16's range"):
        convert_gguf.plan(folder).write(tmp_path / "model.gguf")
    convert_gguf.plan(folder, "bfloat16").write(tmp_path / "model.gguf")


def test_weights_that_are_missing_left_over_or_of_another_shape(llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(str(llama / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj.weight"
    folder = copy(llama, tmp_path / "model")

    def refused(changed: dict[str, np.ndarray], reason: str) -> None:
        save_file(changed, str(folder / "model.safetensors"))
        with pytest.raises(UnsupportedModel, match=reason):
            convert_gguf.plan(folder).write(tmp_path / "model.gguf")
        assert not (tmp_path / "model.gguf").exists()

    refused({key: value for key, value in tensors.items() if key != name}, f"lacks 1 weights .* such as '{name}'")
    refused({**tensors, "model.layers.0.adapter.weight": np.ones(3, np.float32)}, "has 1 weights that llama does not")
    refused({**tensors, name: tensors[name][:-1].copy()}, r"has shape \(95, 64\), config.json says \(96, 64\)")
    refused({**tensors, name: tensors[name].astype(np.int8)}, "is of type I8, not of F32")
    ignored = {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    save_file(ignored, str(folder / "model.safetensors"))
    convert_gguf.plan(folder).write(tmp_path / "model.gguf")


def test_an_untied_model_without_its_head_lacks_a_weight(llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(str(llama / "model.safetensors"))
    head = tensors.pop("lm_head.weight")
    folder = copy(llama, tmp_path / "model")
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(UnsupportedModel, match=r"such as 'lm_head\.weight'"):
        convert_gguf.plan(folder).write(tmp_path / "model.gguf")
    tied = copy(folder, tmp_path / "tied", tie_word_embeddings=True)
    save_file({**tensors, "lm_head.weight": head}, str(tied / "model.safetensors"))  # the file decides, not the flag
    convert_gguf.plan(tied).write(tmp_path / "tied.gguf")
    assert "output.weight" in read(tmp_path / "tied.gguf")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "gpt_neox"}, r"architecture 'gpt_neox', .* known are llama, mistral, qwen2, qwen3, smollm3"),
        ({"model_type": None}, "architecture None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "writes no text"),
        ({"hidden_act": "gelu"}, "hidden_act 'silu', not 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized already \(gptq\)"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "rope_parameters": None}, "scaled by 'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "rope_theta is -1.0, not a number"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor of rope_scaling is None"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": True}}, "factor of rope_scaling is True"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4, "mscale": 0.7}}, "mscale .* not supported"),
        ({"rope_parameters": [1]}, "hold settings by name"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 4096, not 1000000000"),
        ({"vocab_size": 10**9}, "vocab_size must be a whole number from 1 to 2097152, not 1000000000"),
        ({"hidden_size": None}, "hidden_size must be a whole number from 1 to 2147483647, not None"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole number"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"model_type": "olmo2", "attention_bias": True}, "no attention_bias for olmo2"),
        ({"model_type": "smollm3", "no_rope_layer_interval": 3}, "in every fourth layer, and only there"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "in every fourth layer, and only there"),
        ({"model_type": "phi3", "rope_parameters": {"rope_type": "longrope"}}, "scaled by 'longrope'"),
        ({"hidden_size": 66, "head_dim": None}, "4 heads cannot divide 66 values"),
    ],
)
def test_settings_that_cannot_be_converted(
    settings: dict[str, object], reason: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        convert_gguf.plan(copy(llama, tmp_path / "model", **settings))


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral", "sliding_window": None}, 256),
        ({"model_type": "mistral", "max_position_embeddings": 8192}, 4096),  # the family's own where none is given
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 64),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, 256),
    ],
)
def test_a_sliding_window_bounds_the_context(
    settings: dict[str, object], context: int, llama: Path, tmp_path: Path
) -> None:
    """Within one window llama.cpp computes the same; beyond it would look back further than the model did."""
    folder = copy(llama, tmp_path / "model", **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = convert_gguf.plan(folder)
    windows = [one for one in said if "look back over" in str(one.message)]
    assert bool(windows) == (context != 256)
    key = f"{made.config.family.architecture}.context_length"
    assert entry(key, context, "u32") in made.layout.entries


def test_folders_that_are_not_whole(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"has no \*\.safetensors"):
        convert_gguf.plan(folder).write(tmp_path / "model.gguf")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelNotFound, match=r"lacks 2 of 2 files of weights, such as model-00001-of-00002"):
        Checkpoint(folder)
    for bad, reason in (({"weight_map": {"a": "../x.safetensors"}}, "outside its folder"), ([], "cannot be read")):
        (folder / "model.safetensors.index.json").write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(UnsupportedModel, match=reason):
            Checkpoint(folder)
    (folder / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="holds no settings"):
        convert_gguf.plan(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        convert_gguf.plan(folder)
    with pytest.raises(InvalidOption, match="dtype must be one of float32, float16, bfloat16, not 'int8'"):
        convert_gguf.plan(llama, "int8")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff" * 8, b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x10\0\0\0\0\0\0\0" + b'{"a":{"shape":1}',
     b"\x3f\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999999999]}} ',
     b"\x38\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}} ' + bytes(12)],
    ids=["empty", "huge", "long", "list", "cut", "outside", "shape"],
)  # fmt: skip
def test_damaged_safetensors(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors is damaged"):
        Checkpoint(tmp_path)


def test_the_disk_is_checked_before_the_start(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFull, match="the model takes"):
        convert_gguf.plan(llama).write(tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_the_method_writes_a_model(llama: Path, tmp_path: Path) -> None:
    from microbudget.methods import Context
    from microbudget.methods.export import Export
    from microbudget.runtimes.loading import load

    context = Context(SimpleNamespace(kind="language-modelling"), tmp_path)  # type: ignore[arg-type] # no data is read
    step = Export(format="gguf", dtype="float32")
    assert step.output_format("hf") == "gguf"
    record = step.apply(load(llama), context, tmp_path)
    report = record.history["export"]
    assert (report["pre_tokenizer"], report["same_tokens"]) == ("gpt-2", True)
    model = load(tmp_path)
    assert (model.format, model.size_bytes) == ("gguf", report["size_bytes"])
    with pytest.raises(InvalidOption, match="dtype is for format='gguf'"):
        Export(dtype="float16").apply(load(llama), context, tmp_path)


def test_lm_python_is_converted(assets: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = assets / "models" / "lm-python"
    conversion, check = token_check.settle(convert_gguf.plan(folder, "float32"))
    assert check.same
    conversion.write(tmp_path / "model.gguf")
    tokens = np.random.default_rng(0).integers(0, 4096, 64)
    network = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "model.gguf", tokens.tolist()), expected, atol=2e-3)
