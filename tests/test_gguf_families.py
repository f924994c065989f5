"""Families that are not built like Llama: Gemma 2 and 3, GPT-2, Falcon; their logits: test_convert_gguf.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microbudget.errors import UnsupportedModel
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf.session import GgufReader
from microbudget.runtimes.gguf.write import entry
from microbudget.runtimes.hf.causal import CausalReader
from test_convert_gguf import copy, give_tokenizer, read
from toy_language_models import COMMON, train_byte_level, write_network


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_byte_level(folder)
    return folder


def test_a_base_model_saved_alone_is_complete(tokenizer: Path, tmp_path: Path) -> None:
    """GPT-2's file on the hub has no `transformer.` before its names, and masks that follow from the config."""
    from safetensors.numpy import load_file, save_file

    files = []
    for name in ("whole", "alone"):
        folder = give_tokenizer(tokenizer, tmp_path / name / "model")
        write_network(folder, "gpt2")
        path = folder / "model.safetensors"
        if name == "alone":
            tensors = {key.removeprefix("transformer."): value for key, value in load_file(str(path)).items()}
            save_file({**tensors, "h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}, str(path))
        convert_gguf.plan(folder).write(folder / "model.gguf")
        files.append((folder / "model.gguf").read_bytes())
    assert files[0] == files[1]
    matrix = read(folder / "model.gguf")["blk.1.ffn_up.weight"]
    np.testing.assert_array_equal(matrix.reshape(256, 64), tensors["h.1.mlp.c_fc.weight"].T.astype(np.float16))


@pytest.mark.parametrize("shape", ["gemma2-scaled", "gemma3", "gpt2", "falcon-40b"])
def test_bfloat16_is_changed_as_float32_is(shape: str, tokenizer: Path, tmp_path: Path) -> None:
    """Most checkpoints are stored so: the norms, the order of rows and the transposed matrices are the same."""
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        folder = give_tokenizer(tokenizer, tmp_path / str(dtype) / "model")
        network = write_network(folder, shape).to(torch.bfloat16).to(dtype)
        network.save_pretrained(str(folder))
        convert_gguf.plan(folder, "bfloat16").write(folder / "model.gguf")
        made.append((folder / "model.gguf").read_bytes())
    assert made[0] == made[1]


def test_old_and_new_settings_of_gemma_3_mean_the_same(tokenizer: Path, tmp_path: Path) -> None:
    """The hub's config.json has rope_theta and sliding_window_pattern, which transformers 5 writes in another way."""
    folder = give_tokenizer(tokenizer, tmp_path / "model")
    write_network(folder, "gemma3", sliding_window_pattern=3)
    new = convert_gguf.plan(folder).layout
    settings = {
        "rope_parameters": None, "layer_types": None, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 3, "rope_scaling": None, "attn_logit_softcapping": None,
    }  # fmt: skip
    old = convert_gguf.plan(copy(folder, tmp_path / "old" / "model", **settings)).layout
    assert old.entries == new.entries
    assert entry("gemma3.attention.sliding_window_pattern", 3, "u32") in old.entries
    longer = {**settings, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    scaled = convert_gguf.plan(copy(folder, tmp_path / "scaled", **longer)).layout
    assert entry("gemma3.rope.scaling.factor", 8.0, "f32") in scaled.entries


def test_a_null_limit_of_gemma_2_is_none(tokenizer: Path, tmp_path: Path) -> None:
    folder = give_tokenizer(tokenizer, tmp_path / "model")
    settings = {**COMMON, "model_type": "gemma2"}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert entry("gemma2.final_logit_softcapping", 30.0, "f32") in convert_gguf.plan(folder).layout.entries
    (folder / "config.json").write_text(json.dumps({**settings, "final_logit_softcapping": None}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"final_logit_softcapping is null, and .* always caps"):
        convert_gguf.plan(folder)


@pytest.mark.parametrize("runtime", ["hf", "gguf"])
def test_a_window_can_be_rewound(runtime: str, tokenizer: Path, tmp_path: Path) -> None:
    """Beyond its 24 tokens, back to before it, and on: the same as reading anew."""
    folder = give_tokenizer(tokenizer, tmp_path / "model")
    write_network(folder, "gemma2")
    convert_gguf.plan(folder, "float32").write(tmp_path / "model.gguf")
    reader: Any = CausalReader(folder, 1) if runtime == "hf" else GgufReader(tmp_path / "model.gguf", 1, cache="F32")
    first, other = (np.random.default_rng(seed).integers(10, 500, 60).tolist() for seed in (0, 1))

    def read(*parts: list[int]) -> np.ndarray:
        reader.reserve(128, 128)
        return [reader.process(part, len(part)).copy() for part in parts][-1]

    expected = read(first[:40] + other)[40:]
    read(first)
    reader.rewind(40)
    again = reader.process(other, len(other)).copy()
    reader.rewind(10)
    reader.process(first[10:40], 1)
    np.testing.assert_allclose(again, expected, atol=1e-4)
    np.testing.assert_allclose(reader.process(other, len(other)), expected, atol=1e-4)
    for branch, found in zip((other[:5], first[:9]), reader.branch(first[:40], (other[:5], first[:9])), strict=True):
        np.testing.assert_allclose(found, read(first[:40] + branch)[39:-1], atol=1e-4)
    reader.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "gemma2", "rope_parameters": {"rope_type": "llama3"}}, "'llama3', which is not .* for gemma2;"),
        ({"model_type": "gemma2", "hidden_activation": "silu"}, "hidden_activation 'gelu_pytorch_tanh', not 'silu'"),
        ({"model_type": "gemma2", "attention_bias": True}, "attention_bias is on, and llama.cpp has no"),
        ({"model_type": "gemma2", "tie_word_embeddings": False}, "no place for a head of its own"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, not a number above zero"),
        ({"model_type": "gemma2", "sliding_window": "long"}, "sliding_window must be a whole number"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 2}, "needs layers with a window"),
        ({"model_type": "gemma2", "layer_types": 3}, "needs layers with a window"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 10**30}, "needs layers with a window"),
        ({"model_type": "smollm3", "num_hidden_layers": 10**30}, "num_hidden_layers must be a whole number"),
        ({"model_type": "stablelm", "partial_rotary_factor": 2}, "more than a whole head cannot rotate"),
        ({"model_type": "gemma2", "final_logit_softcapping": 1e300}, r"final_logit_softcapping is 1e\+300, not"),
        ({"model_type": "olmo", "clip_qkv": "x"}, "clip_qkv is 'x', not a number above zero"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "and llama.cpp's Gemma 3 has none"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "lets a token look back only"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
            "with a win",
        ),
        (
            {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}},
            "is a Gemma3ForConditionalGeneration, which sees or hears besides reading: .* convert_hf_to_gguf.py",
        ),
        ({"model_type": "gpt2", "activation_function": "relu"}, "activation_function 'gelu_pytorch_tanh', not 'relu'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is on"),
        ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights is off"),
        ({"model_type": "gpt2", "n_inner": "wide"}, "intermediate_size must be a whole number"),
        ({"model_type": "falcon", "alibi": True}, r"alibi is on, .* \(such as Falcon-RW\) runs in torch only"),
        ({"model_type": "falcon", "bias": True}, "bias is on, and llama.cpp's Falcon has no biases"),
        ({"model_type": "falcon", "parallel_attn": False}, "parallel_attn is off"),
        ({"model_type": "falcon", "num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 2"),
        ({"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 3}, "4 heads cannot share 3"),
    ],
)
def test_settings_that_cannot_be_converted(
    settings: dict[str, object], reason: str, tokenizer: Path, tmp_path: Path
) -> None:
    folder = give_tokenizer(tokenizer, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({**COMMON, **settings}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=reason):
        convert_gguf.plan(folder)
