"""Tiny random language models with tokenizers trained on the spot, as transformers saves them."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from microbudget.kinds.language_modelling.text import TextTask
from microbudget.methods import Context

TEXT = [
    "def answer(question):\n    return 42  # the question is lost, isn't it?\n",
    "The quick brown fox jumps over the lazy dog. Don't panic, we've been here before, they'll say!\n",
    "Größe, naïve, Żółć, привет мир, 你好世界, こんにちは, 🙂🚀 and  double  spaces\tand tabs\n\n",
    "1234567890 3.14159 0xff 1e-9 100,000 2026-11-22\n" * 3,
    "<div class='a'>x &lt; y</div> {'key': [1, 2, 3]} a != b && c || d;\n",
] * 4  # fmt: skip

VARIED = [
    "Hello world", " leading space", "trailing space ", "  two  spaces  ", "\n\nnew\n\n\nlines\r\n", "\t\ttabs",
    "I'm sure you'll've DON'T don't", "x=1;y+=2 //comment", "3.14159 and 1000000 or 007", "naïve Größe Żółć",
    "привет, мир! 你好，世界。こんにちは 한국어", "🙂🚀👩‍👩‍👧 emoji", "a\u0301 combining is é", "zero\u200bwidth", "",
    "def f(x):\n    if x:\n        return [i for i in range(10)]\n", "https://example.org/a?b=c&d=%20#e", "!!!???...",
]  # fmt: skip

ENDS = {"bos_token_id": 500, "eos_token_id": 500}  # GPT-2's own lie beyond a small vocabulary
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "llama-biased": {"model_type": "llama", "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "llama-tied": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 32},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-3.1": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2-yarn": {
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5, "num_key_value_heads": 2, "pad_token_id": None},
    "olmo": {"model_type": "olmo", "num_key_value_heads": 2, "pad_token_id": None, "clip_qkv": 0.7},
    "olmo2": {"model_type": "olmo2", "num_key_value_heads": 2, "pad_token_id": None},
    "phi3": {"model_type": "phi3", "num_key_value_heads": 2, "pad_token_id": None},
    "stablelm": {"model_type": "stablelm", "num_key_value_heads": 4, "use_qkv_bias": True},
    "stablelm-parallel": {
        "model_type": "stablelm", "num_key_value_heads": 2, "use_parallel_residual": True, "qk_layernorm": True,
        "partial_rotary_factor": 0.5,
    },
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 32},
    # Windows shorter than the tests' texts; query_pre_attn_scalar as published (a head's width), and another one.
    "gemma2": {
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16,
        "num_hidden_layers": 3, "sliding_window": 24,
    },
    "gemma2-scaled": {
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 256,
        "sliding_window": 64, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0,
    },
    "gemma3": {
        "model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32,
        "num_hidden_layers": 7, "sliding_window": 24,
    },
    "gemma3-other": {  # as 4B and larger for long texts, in another pattern
        "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 4,
        "sliding_window": 24, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 64,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    },
    "gpt2": {"model_type": "gpt2", **ENDS},
    "gpt2-untied": {"model_type": "gpt2", "tie_word_embeddings": False, "n_inner": 160, **ENDS},
    "falcon-7b": {"model_type": "falcon"},
    "falcon-heads": {"model_type": "falcon", "multi_query": False, "ffn_hidden_size": 96},
    "falcon-40b": {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-11b": {
        "model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False, "rope_theta": 500042.0,
    },
}  # fmt: skip
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 512,
}


def train_byte_level(folder: Path, kind: str = "gpt-2", size: int = 500) -> None:
    """A byte-level BPE with the pre-tokenizer of a known family."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    from microbudget.runtimes.gguf import pretokenizer

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ("llama-bpe", "tekken")))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif kind == "falcon":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        )
    else:
        ((pattern,),) = (cuts for (cuts, _), name in pretokenizer._NAMES.items() if name == kind)
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    _save(tokenizer, folder, ["<|begin|>", "<|end|>"], ["<tool>"])


def train_sentencepiece(folder: Path, size: int = 500, *, first: bool = False) -> None:
    """SentencePiece's BPE as transformers keeps it: byte fallback, spaces as a character of their own."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if first:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator([line.replace("\n", " ") for line in TEXT], trainer)
    _complete(tokenizer, folder)


def train_gemma(folder: Path, size: int = 700) -> None:
    """SentencePiece's BPE as Gemma has it: no space before a text, runs of spaces and lines as tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    runs = [character * count for character in ("\n", "\u2581") for count in range(2, 32)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *runs, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator([f"\u2581{word}" for line in TEXT for word in line.split()], trainer)
    _complete(tokenizer, folder, ends=("<bos>", "<eos>"), users=("<table>", "<start_of_turn>", *runs))


def _complete(
    tokenizer: Any, folder: Path, ends: tuple[str, str] = ("<s>", "</s>"), users: tuple[str, ...] = ()
) -> None:
    """All splits of every token become merges, by the order of tokens: what SentencePiece's conversion does."""
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    ranked = sorted((token for token in vocab if not token.startswith("<")), key=lambda token: vocab[token])
    merges = []
    for token in ranked:
        splits = [(token[:place], token[place:]) for place in range(1, len(token))]
        merges += [list(pair) for pair in splits if pair[0] in vocab and pair[1] in vocab]
    spec["model"]["merges"] = merges
    plain = ("<0x", *users)
    spec["added_tokens"] = [item for item in spec["added_tokens"] if not item["content"].startswith(plain)]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    _save(tokenizer, folder, list(ends), list(users), bos_first=True)


def _save(tokenizer: Any, folder: Path, special: list[str], users: list[str], bos_first: bool = False) -> None:
    from tokenizers import AddedToken, processors

    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in users])
    if bos_first:
        begin = special[0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    settings["chat_template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_network(folder: Path, shape: str = "llama", seed: int = 0, **more: Any) -> Any:
    """A random network of a family, saved as safetensors in float32; the network itself comes back."""
    import torch
    import transformers

    torch.manual_seed(seed)
    settings = {**COMMON, **({} if "model_type" in more else SHAPES[shape]), **more}
    config = transformers.AutoConfig.for_model(**settings)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for _name, parameter in network.named_parameters():  # norms and biases that do something
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            else:
                parameter *= 4
    network.save_pretrained(str(folder), safe_serialization=True)
    return network


def text_context(tmp_path_factory: pytest.TempPathFactory, characters: int = 15_000) -> Context:
    """What a method sees of a text of Python, in splits."""
    path = tmp_path_factory.mktemp("text") / "source.txt"
    path.write_text(inspect.getsource(argparse)[:characters], encoding="utf-8")
    return Context(TextTask.open(path), tmp_path_factory.mktemp("cache"), threads=1)
