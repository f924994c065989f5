"""Tokens of Whisper folders as people have them: words that fine-tuning added, and tokenizers in the older files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microbudget.errors import UnsupportedModel
from microbudget.kinds.transcription.network import open_speech
from microbudget.methods.trim.tokenizer import FolderTokenizer
from microbudget.model import Model, Record
from microbudget.runtimes.loading import load
from microbudget.runtimes.speech.tokenizer import description
from microbudget.runtimes.speech.whisper import Prompt, Vocabulary
from toy_seq2seq import TEXT, write_whisper

torch = pytest.importorskip("torch")
pytest.importorskip("ctranslate2")
WORDS = ("Łódź", "Köln", "Bydgoszcz")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("tokens") / "toy", older=True)


@pytest.fixture(scope="session")
def with_words(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `add_tokens` and `resize_token_embeddings` leave it: words behind the timestamps. It only writes "Köln"."""
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

    out = shutil.copytree(folder, tmp_path_factory.mktemp("words") / "toy")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.add_tokens(list(WORDS))
    tokenizer.save(str(out / "tokenizer.json"))
    network = WhisperForConditionalGeneration.from_pretrained(str(out))
    network.resize_token_embeddings(tokenizer.get_vocab_size(with_added_tokens=True))
    direction = torch.full((32,), 4.0)
    with torch.no_grad():
        network.model.decoder.layer_norm.bias.copy_(direction)
        network.model.decoder.embed_tokens.weight[tokenizer.token_to_id("Köln")] = direction
    settings = (out / "generation_config.json").read_text(encoding="utf-8")
    network.save_pretrained(str(out))
    (out / "generation_config.json").write_text(settings, encoding="utf-8")
    return out


def noise(seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def spoken(model: Model) -> str:
    session = open_speech(model, threads=1, language="en")
    try:
        return session.text(noise())
    finally:
        session.close()


def test_words_after_the_timestamps_are_words_in_both_runtimes(with_words: Path, tmp_path: Path) -> None:
    """They were suppressed with the timestamps, or cut out as such."""
    from microbudget.runtimes.ct2.convert import convert

    given = load(with_words)
    assert spoken(given) == "Köln"
    out = tmp_path / "ct2"
    out.mkdir()
    convert(with_words, out, "float32")
    assert spoken(Model(out, "ct2", Record(task="transcription"))) == "Köln"


def test_a_teacher_writes_them_too(with_words: Path) -> None:
    from microbudget.kinds.transcription.decoding import Rules, decode
    from microbudget.runtimes.hf.whisper import TorchWhisper
    from microbudget.runtimes.speech.whisper import front_end

    whisper, vocabulary = TorchWhisper(with_words, threads=1), Vocabulary(with_words)
    prompt = Prompt.of(with_words, vocabulary, whisper.multilingual, "en")
    states = whisper.network.model.encoder(torch.from_numpy(front_end(with_words)(noise()))[None]).last_hidden_state
    (label,) = decode(whisper.network, states, prompt, Rules.of(whisper.network, prompt), top=2)
    assert set(label.tokens.tolist()) == {next(at for at, name in vocabulary.named.items() if name == "Köln")}


def test_timestamps_are_suppressed_with_and_without_names(with_words: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary(with_words)
    prompt = Prompt.of(with_words, vocabulary, True, "en")
    rows = len(vocabulary.named) + 3  # padded to a rounder number: rows that no tokenizer names
    allowed = set(range(prompt.no_timestamps, rows)) - set(prompt.suppressed(rows))
    assert {vocabulary.named[token] for token in allowed} == set(WORDS)
    unnamed = tmp_path / "a"
    shutil.copytree(with_words, unnamed)
    found = json.loads((unnamed / "tokenizer.json").read_text(encoding="utf-8"))
    found["added_tokens"] = [row for row in found["added_tokens"] if "." not in row["content"]][:-3]
    (unnamed / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    assert Prompt.of(unnamed, Vocabulary(unnamed), True, "en").suppressed(rows) == [*range(prompt.no_timestamps, rows)]


def test_letters_of_an_added_word_are_no_bytes(with_words: Path) -> None:
    """A byte-level decoder reads the ö of "Köln" as the byte 0xF6."""
    vocabulary = Vocabulary(with_words)
    ids = {name: at for at, name in vocabulary.named.items()}
    assert vocabulary.text([ids[word] for word in WORDS]) == "ŁódźKölnBydgoszcz"


@pytest.mark.parametrize("parts", [False, True])
def test_trim_keeps_added_words_and_timestamps(with_words: Path, tmp_path: Path, parts: bool) -> None:
    given = shutil.copytree(with_words, tmp_path / "given")
    if parts:
        found = json.loads((given / "tokenizer.json").read_text(encoding="utf-8"))
        added = {row["content"]: row["id"] for row in found["added_tokens"]}
        (given / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
        (given / "tokenizer.json").unlink()
    tokenizer, rows = FolderTokenizer(given), len(Vocabulary(given).named)
    kept = tokenizer.kept(set(tokenizer.tokens(TEXT[0])), rows, set())
    assert len(kept) < rows
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.write({int(old): new for new, old in enumerate(kept)}, out)
    after = Vocabulary(out)
    stamps = after.special("<|notimestamps|>")
    assert {after.named[token] for token in after.words_after(stamps)} == set(WORDS)
    assert sum(name.endswith("0|>") or name.endswith("2|>") for name in after.named.values()) > 2
    assert after.text([at for at, name in after.named.items() if name == "Köln"]) == "Köln"


def older(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    (out / "tokenizer.json").unlink()
    return out


def test_a_tokenizer_of_vocab_and_merges(folder: Path, tmp_path: Path) -> None:
    """The same ids, the same texts and the same answers as with tokenizer.json; trim takes it too."""
    plain = older(folder, tmp_path / "older")
    one, other = FolderTokenizer(folder), FolderTokenizer(plain)
    for text in (*TEXT, "Üben, 12 three  \n"):
        ids = one.encoder.encode(text, add_special_tokens=False).ids
        assert other.encoder.encode(text, add_special_tokens=False).ids == ids
        assert Vocabulary(plain).text(ids) == Vocabulary(folder).text(ids)
    assert Vocabulary(plain).named == Vocabulary(folder).named
    assert spoken(load(plain)) == spoken(load(folder))


def test_added_tokens_of_the_settings(folder: Path, tmp_path: Path) -> None:
    """Newer scripts leave no added_tokens.json, and have the tokens in tokenizer_config.json."""
    plain = older(folder, tmp_path / "older")
    added = json.loads((plain / "added_tokens.json").read_text(encoding="utf-8"))
    (plain / "added_tokens.json").unlink()
    settings = {"added_tokens_decoder": {str(at): {"content": name} for name, at in added.items()}}
    (plain / "tokenizer_config.json").write_text("\ufeff" + json.dumps(settings), encoding="utf-8")
    assert Vocabulary(plain).named == Vocabulary(folder).named


def test_ids_after_a_hole_stay(folder: Path, tmp_path: Path) -> None:
    plain = older(folder, tmp_path / "older")
    added = json.loads((plain / "added_tokens.json").read_text(encoding="utf-8"))
    (plain / "added_tokens.json").write_text(json.dumps({**added, "Köln": 9_000}), encoding="utf-8")
    assert Vocabulary(plain).text([9_000]) == "Köln"


def damaged_merges(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\na b c\n", encoding="utf-8")


def damaged_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damaged_merges, r"merges\.txt has a line that is no pair"), (damaged_vocabulary, r"vocab\.json cannot be read")],
)
def test_damaged_parts_are_named(folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    plain = older(folder, tmp_path / "older")
    damage(plain)
    with pytest.raises(UnsupportedModel, match=message):
        description(plain)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "generation_config.json", "tokenizer.json"])
def test_a_byte_order_mark_in_a_configuration(folder: Path, tmp_path: Path, name: str) -> None:
    marked = shutil.copytree(folder, tmp_path / "a")
    (marked / name).write_bytes(b"\xef\xbb\xbf" + (marked / name).read_bytes())
    assert spoken(load(marked)) == spoken(load(folder))
