"""Tokenizers in GGUF: the same tokens in llama.cpp as in the original, for every way of cutting text that is known."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from microbudget.errors import ModelNotFound, UnsupportedModel
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.gguf import pretokenizer, sentencepiece, token_check, vocabulary
from microbudget.runtimes.gguf.llama.network import Network
from microbudget.runtimes.gguf.write import Layout
from toy_language_models import COMMON, SHAPES, VARIED, train_byte_level, train_gemma, train_sentencepiece

BYTE_LEVEL = ["gpt-2", "falcon", "smollm", "qwen2", "llama-bpe", "smaug-bpe", "tekken", "gpt-4o", "qwen35"]
SPECIAL = ["<|begin|>x<|end|> <tool>y", "a<tool>b <tool> c", "<|end|><|end|>\n<|begin|>"]


def with_config(folder: Path, extra: int = 0, **more: Any) -> Path:
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() + extra
    settings = {**COMMON, **SHAPES["llama"], "vocab_size": size, **more}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def open_words(conversion: convert_gguf.Conversion, folder: Path) -> Network:
    path = folder / "words.gguf"
    path.write_bytes(Layout(conversion.layout.entries, ()).header)
    return Network(path, vocabulary_only=True)


def tokens_in_both(folder: Path, texts: list[str]) -> list[tuple[str, list[int], list[int]]]:
    conversion = convert_gguf.plan(folder)
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    network = open_words(conversion, folder)
    words = network.vocabulary
    found = []
    for text in texts:
        ours = ([words.begin] if words.adds_begin else []) + words.encode(text, special=True)
        found.append((text, original.encode(text).ids, ours))
    network.close()
    return found


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_byte_level_tokens_are_the_originals(kind: str, tmp_path: Path) -> None:
    train_byte_level(tmp_path, kind)
    with_config(tmp_path, extra=3)
    assert vocabulary.read_vocabulary(tmp_path, 512).pre == kind
    for text, expected, ours in tokens_in_both(tmp_path, VARIED + SPECIAL):
        if kind == "qwen2" and "\u0301" in text:
            continue  # llama.cpp does not compose characters (NFC) before it cuts
        assert ours == expected, text


@pytest.mark.parametrize("first", [False, True])
def test_sentencepiece_tokens_are_the_originals(first: bool, tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, first=first, size=600)
    with_config(tmp_path, extra=2)
    texts = [text for text in VARIED if text and not (first and text.startswith(" "))]
    for text, expected, ours in tokens_in_both(tmp_path, texts):
        assert ours == expected, text


def test_tokens_of_gemma_are_the_originals(tmp_path: Path) -> None:
    """Runs of spaces are found before any merge, and tags and turns inside a text."""
    train_gemma(tmp_path)
    with_config(tmp_path, extra=2)
    texts = [*VARIED, "a  b   c    d", "    return 1", "<table><start_of_turn>user\nHi\n\n\nthere", "\n\n  \n x", " "]
    for text, expected, ours in tokens_in_both(tmp_path, texts):
        assert ours == expected, text
    words = convert_gguf.plan(tmp_path).vocabulary
    assert (words.model, words.add_bos, words.add_space_prefix) == ("llama", True, False)


def test_a_picture_of_gemma_3_has_no_row(tmp_path: Path) -> None:
    """Its text models come with a tokenizer that has one token more than the table, for pictures."""
    train_gemma(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    size = max(item["id"] for item in spec["added_tokens"]) + 1
    picture = {**spec["added_tokens"][0], "id": size, "content": "<image_soft_token>"}
    spec["added_tokens"].append(picture)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    gemma = {**COMMON, "model_type": "gemma3_text", "vocab_size": size}
    (tmp_path / "config.json").write_text(json.dumps(gemma), encoding="utf-8")
    assert len(convert_gguf.plan(tmp_path).vocabulary.tokens) == size
    with pytest.raises(UnsupportedModel, match="'<image_soft_token>' has no row in the embedding"):
        vocabulary.read_vocabulary(tmp_path, size)


def test_sentencepiece_model_is_read(tmp_path: Path) -> None:
    """The pieces of tokenizer.model, written here by hand, give the tokens of tokenizer.json."""
    train_sentencepiece(tmp_path, size=600)
    with_config(tmp_path)
    expected = vocabulary.read_vocabulary(tmp_path, 600)
    (tmp_path / "tokenizer.model").write_bytes(protobuf(expected))
    (tmp_path / "tokenizer.json").rename(tmp_path / "kept.json")
    found = vocabulary.read_vocabulary(tmp_path, len(expected.tokens))
    assert (found.tokens, found.types, found.model) == (expected.tokens, expected.types, "llama")
    np.testing.assert_allclose(found.scores, expected.scores)
    assert (found.add_bos, found.add_space_prefix) == (True, True)


def test_added_tokens_of_old_folders_are_read(tmp_path: Path) -> None:
    """added_tokens.json beside tokenizer.model, special where another file names them so."""
    train_sentencepiece(tmp_path, size=600)
    with_config(tmp_path)
    words = vocabulary.read_vocabulary(tmp_path, 600)
    (tmp_path / "tokenizer.model").write_bytes(protobuf(words))
    (tmp_path / "tokenizer.json").unlink()
    size = len(words.tokens)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<user>": size + 1, "<|im_end|>": size}), encoding="utf-8")
    special = {"additional_special_tokens": ["<|im_end|>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    found = vocabulary.read_vocabulary(tmp_path, size + 2)
    assert found.tokens[size:] == ("<|im_end|>", "<user>")
    assert found.types[size:] == (vocabulary.CONTROL, vocabulary.USER_DEFINED)
    (tmp_path / "added_tokens.json").write_text('{"<user>": "7"}', encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="gives the token '<user>' the id '7'"):
        vocabulary.read_vocabulary(tmp_path, size + 2)


def protobuf(words: vocabulary.Vocabulary, model_type: int = 2) -> bytes:
    def field(number: int, raw: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(raw)) + raw

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    pieces = b""
    for token, score, kind in zip(words.tokens, words.scores, words.types, strict=True):
        body = field(1, token.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + varint(kind)
        pieces += field(1, body)
    return pieces + field(2, varint(3 << 3) + varint(model_type))


def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, size=600)
    words = vocabulary.read_vocabulary(tmp_path, 600)
    path = tmp_path / "tokenizer.model"
    raw = protobuf(words)
    for damaged in (b"", raw[:-3], b"\xff" * 20, b"\x0b" + raw, b"\x0a\xff\xff\xff\xff\x0f" + raw):
        path.write_bytes(damaged)
        with pytest.raises(UnsupportedModel, match=r"tokenizer\.model is no SentencePiece model"):
            sentencepiece.read(path)
    path.write_bytes(protobuf(words, model_type=1))
    with pytest.raises(UnsupportedModel, match="unigram"):
        sentencepiece.read(path)


def test_special_tokens_and_chat_template_are_kept(tmp_path: Path) -> None:
    train_byte_level(tmp_path)
    with_config(tmp_path, extra=5)
    conversion = convert_gguf.plan(tmp_path)
    words = conversion.vocabulary
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    added = {item["content"]: item["id"] for item in spec["added_tokens"]}
    assert words.special == {"bos": added["<|begin|>"], "eos": added["<|end|>"]}
    assert words.types[added["<|end|>"]] == vocabulary.CONTROL
    assert words.types[added["<tool>"]] == vocabulary.USER_DEFINED
    assert words.tokens[-1] == f"[PAD{len(words.tokens) - 1}]"
    assert words.types[-5:] == (vocabulary.UNUSED,) * 5
    network = open_words(conversion, tmp_path)
    assert network.chat_template == "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert (network.vocabulary.begin, network.vocabulary.end) == (added["<|begin|>"], added["<|end|>"])
    network.close()


def test_chat_templates_have_three_homes(tmp_path: Path) -> None:
    assert vocabulary.read_chat_template(tmp_path) is None
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert vocabulary.read_chat_template(tmp_path) == "D"
    (tmp_path / "chat_template.jinja").write_text("J", encoding="utf-8")
    assert vocabulary.read_chat_template(tmp_path) == "J"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bos_token": {"content": "b"}}, {"bos": 1}),
        ({"bos_token": "missing", "bos_token_id": 2}, {"bos": 2}),
        ({"eos_token_id": 99}, {}),
        ({"pad_token": "c", "unk_token": "a"}, {"unknown": 0, "padding": 2}),
    ],
)
def test_special_ids(settings: dict[str, Any], expected: dict[str, int]) -> None:
    assert vocabulary.special_token_ids(settings, ("a", "b", "c")) == expected


def test_llama_classes_go_by_their_settings(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, size=600)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True, "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    found = vocabulary.read_vocabulary(tmp_path, 600)
    assert (found.add_bos, found.add_eos) == (False, True)


def test_vocab_and_merges_files(tmp_path: Path) -> None:
    train_byte_level(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    expected = vocabulary.read_vocabulary(tmp_path, 500)
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) for pair in spec["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    added = {str(item["id"]): item for item in spec["added_tokens"]}
    settings = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added, "bos_token": "<|begin|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "tokenizer.json").unlink()
    found = vocabulary.read_vocabulary(tmp_path, 500)
    assert (found.tokens, found.types, found.merges) == (expected.tokens, expected.types, expected.merges)
    assert found.pre == "gpt-2"


def test_an_unknown_structure_is_found_by_what_it_does(tmp_path: Path) -> None:
    """The same cuts, written another way: no table knows them, the comparison of tokens does."""
    train_byte_level(tmp_path, "llama-bpe")
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    split = spec["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = "(?:" + split["pattern"]["Regex"] + ")"
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with_config(tmp_path)
    conversion = convert_gguf.plan(tmp_path)
    assert conversion.vocabulary.pre is None
    settled, check = token_check.settle(conversion)
    assert check.same
    original = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    network = open_words(settled, tmp_path)
    for text in VARIED:
        assert network.vocabulary.encode(text) == original.encode(text).ids, text
    network.close()


def test_a_way_of_cutting_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    train_byte_level(tmp_path, "gpt-2")
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    strange = {"type": "Split", "pattern": {"Regex": "[aeiou]"}, "behavior": "Isolated", "invert": False}
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [strange, {**spec["pre_tokenizer"], "use_regex": False}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with_config(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"no pre-tokenizer of llama\.cpp cuts text .* tried gpt-2, qwen2"):
        token_check.settle(convert_gguf.plan(tmp_path))


def test_differences_of_sentencepiece_are_reported(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, size=600)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with_config(tmp_path)
    _, check = token_check.settle(convert_gguf.plan(tmp_path))
    assert check.checked
    assert check.example == token_check.PROBES[0]


def test_names_by_structure() -> None:
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    assert pretokenizer.name({"pre_tokenizer": gpt2, "model": {}}) == "gpt-2"
    assert pretokenizer.name({"pre_tokenizer": {**gpt2, "add_prefix_space": True}, "model": {}}) is None
    assert pretokenizer.name({"pre_tokenizer": {"type": "Whitespace"}, "model": {}}) is None
    assert pretokenizer.name({"pre_tokenizer": None, "model": {}}) is None
    assert pretokenizer.name({"pre_tokenizer": gpt2, "model": {"ignore_merges": True}}) is None


def test_folders_without_a_tokenizer_and_with_a_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no tokenizer: tokenizer\.json, tokenizer\.model, or vocab\.json"):
        vocabulary.read_vocabulary(tmp_path, 100)
    train_byte_level(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"has \d+ tokens, the model only 100: they do not belong together"):
        vocabulary.read_vocabulary(tmp_path, 100)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "a Unigram tokenizer cannot be written"),
        ({"model": {"type": "BPE", "merges": []}}, "is damaged: KeyError"),
        ({"model": None}, "is damaged"),
        ({"model": {"type": "BPE", "vocab": {"a": 10**12}, "merges": []}}, "is damaged: ValueError"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "is damaged"),
        ({"added_tokens": [{"content": "x"}]}, "is damaged"),
    ],
)
def test_damaged_tokenizers_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    train_byte_level(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**spec, **change}), encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=reason):
        vocabulary.read_vocabulary(tmp_path, 1000)


@pytest.mark.parametrize("raw", ["", "[1, 2]", "{", "[" * 100_000])
def test_tokenizer_files_that_are_no_settings(raw: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(raw, encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json (cannot be read|holds no settings)"):
        vocabulary.read_vocabulary(tmp_path, 1000)
