"""trim: what stays writes any text, answers as before, and opens in other runtimes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ASSETS
from microbudget.errors import BadData, InvalidOption, UnsupportedModel
from microbudget.methods import Context
from microbudget.methods.trim import Trim
from microbudget.methods.trim.pieces import FALLBACK, Pieces, byte_symbols
from microbudget.methods.trim.tokenizer import FolderTokenizer
from microbudget.methods.trim.words import count_words, covered, variants
from microbudget.model import Model
from microbudget.runtimes.loading import load
from toy_language_models import VARIED
from toy_seq2seq import TIMESTAMPS, special_tokens, write_whisper

TEXTS = ["The quick brown fox", "seven over eleven, seven times; don't panic!"]


@dataclass
class Texts:
    """As much of a task as trim reads."""

    texts: list[str]
    kind = "transcription"
    labels = ()
    fingerprint = "texts"

    def examples(self, split: str) -> list[str]:
        return self.texts if split == "train" else []

    def text(self, example: str) -> str:
        return example


def trimmed(model: Model, out: Path, texts: list[str] = TEXTS, **options: Any) -> Model:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    record = Trim(**options).apply(model, Context(Texts(texts), out.parent / "cache"), out)  # type: ignore[arg-type]
    return Model(out, "hf", record)


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_whisper(tmp_path_factory.mktemp("whisper") / "toy"))


@pytest.fixture(scope="session")
def small(whisper: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return trimmed(whisper, tmp_path_factory.mktemp("trimmed") / "small")


def naive_bpe(word: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Sennrich et al. 2016, algorithm 1, applied: the first merge of the list that fits anywhere, again and again."""
    while True:
        for left, right in merges:
            places = [i for i in range(len(word) - 1) if word[i] == left and word[i + 1] == right]
            if places:
                word = [*word[: places[0]], left + right, *word[places[0] + 2 :]]
                break
        else:
            return word


letters = st.text("abc", min_size=1, max_size=6)
merge_lists = st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.text("abc", min_size=1, max_size=3)),
                       max_size=15, unique=True)  # fmt: skip


def bpe(merges: list[tuple[str, str]]) -> Pieces:
    tokens = dict.fromkeys([*"abc", *(part for pair in merges for part in (*pair, "".join(pair)))])
    return Pieces({"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}})


@given(merge_lists, st.lists(letters, min_size=1, max_size=4))
def test_a_text_whose_tokens_stay_is_cut_as_before(merges: list[tuple[str, str]], words: list[str]) -> None:
    pieces = bpe(merges)
    before = {word: naive_bpe(list(word), merges) for word in words}
    kept = pieces.closed({token for cut in before.values() for token in cut})
    after = pieces.kept_merges(kept)
    assert {word: naive_bpe(list(word), after) for word in words} == before
    assert all(token in kept for cut in before.values() for token in cut)


@given(merge_lists, st.sets(letters, max_size=4))
def test_merges_that_stay_have_all_their_parts(merges: list[tuple[str, str]], tokens: set[str]) -> None:
    pieces = bpe(merges)
    kept = pieces.closed(tokens) | set("abc")
    for left, right in pieces.kept_merges(kept):
        assert {left, right, left + right} <= kept
    order = [merges.index(pair) for pair in pieces.kept_merges(kept)]
    assert order == sorted(order)


def test_bytes_are_written_as_the_tokenizers_library_writes_them() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_symbols()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(set(byte_symbols())) == 256
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert split.pre_tokenize_str("é ")[0][0] == "".join(byte_symbols()[byte] for byte in "é ".encode())


@settings(max_examples=200)
@given(text=st.text())
def test_any_text_can_be_written(small: Model, text: str) -> None:
    encoder = FolderTokenizer(small.path).encoder
    special = [name for name in (*special_tokens(), "<|0.") if name in text]
    ids = encoder.encode(text, add_special_tokens=False).ids
    assert special or encoder.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", [*VARIED, "\x00\x7f\u0080", "￿\U0010ffff"])
def test_difficult_text_is_written_as_before(small: Model, whisper: Model, text: str) -> None:
    old, new = FolderTokenizer(whisper.path).encoder, FolderTokenizer(small.path).encoder
    ids = new.encode(text, add_special_tokens=False).ids
    assert new.decode(ids) == old.decode(old.encode(text, add_special_tokens=False).ids) == text
    assert max(ids, default=0) < json.loads((small.path / "config.json").read_text())["vocab_size"]


def test_texts_keep_their_tokens(small: Model, whisper: Model) -> None:
    old, new = FolderTokenizer(whisper.path), FolderTokenizer(small.path)
    for text in (*TEXTS, " seven", "Seven", " Panic"):
        assert new.tokens(text) == old.tokens(text)
    report = small.record.history["trim"]
    assert report["pieces_after"] == report["pieces_before"]
    assert report["tokens_after"] < report["tokens_before"]


def test_special_tokens_stay_in_order_contiguous_and_timestamps_last(small: Model, whisper: Model) -> None:
    rows = json.loads((small.path / "config.json").read_text())["vocab_size"]
    encoder = FolderTokenizer(small.path).encoder
    ids = [encoder.token_to_id(name) for name in special_tokens()]
    stamps = [encoder.token_to_id(f"<|{0.02 * step:.2f}|>") for step in range(TIMESTAMPS)]
    assert [*ids, *stamps] == list(range(ids[0], rows))
    settings_ = json.loads((small.path / "tokenizer_config.json").read_text())
    assert {int(key): row["content"] for key, row in settings_["added_tokens_decoder"].items()} == dict(
        zip(ids, special_tokens(), strict=True)
    )


def test_configuration_files_point_to_the_same_tokens(small: Model, whisper: Model) -> None:
    def named(model: Model) -> dict[str, Any]:
        encoder = FolderTokenizer(model.path).encoder
        found = json.loads((model.path / "generation_config.json").read_text())
        name = encoder.id_to_token
        ids = {key: name(value) for key, value in found.items() if key.endswith("token_id")}
        maps = {key: {word: name(token) for word, token in found[key].items()} for key in ("lang_to_id", "task_to_id")}
        forced = [[place, token if token is None else name(token)] for place, token in found["forced_decoder_ids"]]
        suppressed = {name(token) for token in (*found["suppress_tokens"], *found["begin_suppress_tokens"])}
        return {**ids, **maps, "forced": forced, "suppressed": suppressed}

    old, new = named(whisper), named(small)
    kept = set(FolderTokenizer(small.path).encoder.get_vocab())
    assert new.pop("suppressed") == old.pop("suppressed") & kept
    assert new == old
    config = json.loads((small.path / "config.json").read_text())
    assert config["decoder_start_token_id"] == FolderTokenizer(small.path).encoder.token_to_id("<|startoftranscript|>")


def test_logits_of_the_tokens_that_stay_are_equal(small: Model, whisper: Model) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration

    old, new = (WhisperForConditionalGeneration.from_pretrained(str(each.path)).eval() for each in (whisper, small))
    before, after = FolderTokenizer(whisper.path).encoder, FolderTokenizer(small.path).encoder
    kept = [before.token_to_id(after.id_to_token(index)) for index in range(new.config.vocab_size)]
    assert None not in kept
    assert kept == sorted(kept)
    features = torch.randn(2, 80, 3000)
    written = torch.randint(0, new.config.vocab_size, (2, 7))
    with torch.inference_mode():
        a = old(features, decoder_input_ids=torch.tensor(kept)[written]).logits[..., kept]
        b = new(features, decoder_input_ids=written).logits
    assert torch.allclose(a, b, atol=1e-5)
    assert new.proj_out.weight.data_ptr() == new.model.decoder.embed_tokens.weight.data_ptr()


def test_older_files_agree_with_the_new_one(small: Model) -> None:
    description = json.loads((small.path / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads((small.path / "vocab.json").read_text(encoding="utf-8")) == description["model"]["vocab"]
    lines = (small.path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [" ".join(pair) for pair in description["model"]["merges"]]
    added = json.loads((small.path / "added_tokens.json").read_text(encoding="utf-8"))
    assert added == {row["content"]: row["id"] for row in description["added_tokens"]}


def test_transformers_opens_the_tokenizer_and_reads_what_it_wrote(small: Model) -> None:
    from transformers import WhisperTokenizer

    opened = WhisperTokenizer.from_pretrained(str(small.path), language="de", task="transcribe")
    for text in (*TEXTS, *VARIED):
        assert opened.decode(opened(text).input_ids, skip_special_tokens=True) == text
    assert opened.convert_ids_to_tokens(opened("x").input_ids)[:3] == [
        "<|startoftranscript|>",
        "<|de|>",
        "<|transcribe|>",
    ]


def test_more_tokens_are_kept_when_asked(whisper: Model, small: Model, tmp_path: Path) -> None:
    more = trimmed(whisper, tmp_path / "more", keep=20)
    assert more.record.history["trim"]["tokens_after"] >= small.record.history["trim"]["tokens_after"] + 20
    first = next(FolderTokenizer(whisper.path).pieces.frequent())
    assert first in FolderTokenizer(more.path).pieces.vocabulary
    assert more.size_bytes > small.size_bytes


def test_less_coverage_keeps_less_and_still_writes_the_texts(whisper: Model, small: Model, tmp_path: Path) -> None:
    less = trimmed(whisper, tmp_path / "less", coverage=0.3)
    report = less.record.history["trim"]
    assert report["tokens_after"] < small.record.history["trim"]["tokens_after"]
    assert report["pieces_after"] > report["pieces_before"]
    none = trimmed(whisper, tmp_path / "none", coverage=0.0)
    assert none.record.history["trim"]["tokens_after"] <= report["tokens_after"]


def test_a_text_file_adds_its_words(whisper: Model, small: Model, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Größe\n\nrocket question\n", encoding="utf-8")
    method = {"text": str(tmp_path / "more.txt")}
    more = trimmed(whisper, tmp_path / "out", **method)
    old, new = FolderTokenizer(whisper.path), FolderTokenizer(more.path)
    assert new.tokens(" question") == old.tokens(" question")
    assert FolderTokenizer(small.path).tokens(" question") != old.tokens(" question")
    context = Context(Texts(TEXTS), tmp_path)  # type: ignore[arg-type]
    before = Trim(**method).extra_inputs(context)
    (tmp_path / "more.txt").write_text("another text", encoding="utf-8")
    assert Trim(**method).extra_inputs(context) != before


def test_the_input_stays_and_the_result_is_the_same_again(whisper: Model, small: Model, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in whisper.path.iterdir()}
    again = trimmed(whisper, tmp_path / "again")
    assert {file.name: file.read_bytes() for file in whisper.path.iterdir()} == before
    assert {f.name: f.read_bytes() for f in again.path.iterdir()} == {
        f.name: f.read_bytes() for f in small.path.iterdir()
    }


def test_trimming_twice_changes_nothing(small: Model, tmp_path: Path) -> None:
    again = trimmed(small, tmp_path / "twice")
    assert again.record.history["trim"]["saved_bytes"] == 0
    assert (again.path / "tokenizer.json").read_bytes() == (small.path / "tokenizer.json").read_bytes()


def test_a_language_model_is_trimmed_too(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from toy_language_models import train_byte_level, write_network

    folder = tmp_path / "lm"
    folder.mkdir()
    train_byte_level(folder)
    write_network(folder, "llama-tied")
    small = trimmed(load(folder), tmp_path / "out")
    old, new = (AutoModelForCausalLM.from_pretrained(str(path)).eval() for path in (folder, small.path))
    before, after = FolderTokenizer(folder), FolderTokenizer(small.path)
    text = TEXTS[0]
    a, b = (torch.tensor([each.encoder.encode(text, add_special_tokens=False).ids]) for each in (before, after))
    assert before.tokens(text) == after.tokens(text)
    with torch.inference_mode():
        x, y = old(a).logits, new(b).logits
    assert y.shape[-1] < x.shape[-1]
    for token, index in after.encoder.get_vocab().items():
        np.testing.assert_allclose(y[0, :, index], x[0, :, before.encoder.token_to_id(token)], atol=1e-5)


def test_texts_are_needed(whisper: Model, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="needs texts"):
        trimmed(whisper, tmp_path / "none", texts=["", "  "])
    with pytest.raises(BadData, match="cannot be read"):
        trimmed(whisper, tmp_path / "none", text=str(tmp_path / "missing.txt"))


def test_odd_options_are_refused() -> None:
    for options in ({"coverage": 1.5}, {"keep": -1}, {"keep": 2.5}, {"keep": "all"}, {"max_loss": -1}, {"text": 3}):
        with pytest.raises(InvalidOption):
            Trim(**options)  # type: ignore[arg-type]


@pytest.fixture
def copied(whisper: Model, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whisper.path, tmp_path / "copy"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_a_folder_without_tokenizer_or_of_another_kind_is_refused(copied: Path, tmp_path: Path) -> None:
    change(copied / "tokenizer.json", model={"type": "WordLevel", "vocab": {}})
    with pytest.raises(UnsupportedModel, match="of type BPE, WordPiece or Unigram, not 'WordLevel'"):
        trimmed(load(copied), tmp_path / "out")
    (copied / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        trimmed(load(copied), tmp_path / "out")
    (copied / "tokenizer.json").unlink()
    (copied / "merges.txt").unlink(missing_ok=True)
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        trimmed(load(copied), tmp_path / "out")


def test_a_tokenizer_without_bytes_is_refused(copied: Path, tmp_path: Path) -> None:
    change(copied / "tokenizer.json", decoder=None)
    with pytest.raises(UnsupportedModel, match="could not write every text"):
        trimmed(load(copied), tmp_path / "out")


def test_an_embedding_smaller_than_the_tokenizer_is_refused(copied: Path, tmp_path: Path) -> None:
    change(copied / "config.json", vocab_size=100)
    with pytest.raises(UnsupportedModel, match="the embedding has 100 rows"):
        trimmed(load(copied), tmp_path / "out")


def test_sentencepiece_bytes_stay() -> None:
    vocabulary = {token: index for index, token in enumerate((*FALLBACK, "a", "b", "ab"))}
    pieces = Pieces({"model": {"vocab": vocabulary, "merges": ["a b"], "byte_fallback": True}})
    assert pieces.alphabet() == set(FALLBACK)
    assert pieces.closed({"ab"}) == {"a", "b", "ab"}


@given(st.lists(st.sampled_from(["one", " one", "two", "\nthree"]), max_size=20), st.floats(0, 1))
def test_covered_words_are_the_fewest_that_reach_the_fraction(words: list[str], coverage: float) -> None:
    counts = count_words(["".join(words)])
    chosen = covered(counts, coverage)
    assert sum(counts[word] for word in chosen) >= coverage * counts.total()
    assert sum(counts[word] for word in chosen[:-1]) < coverage * counts.total() or not chosen


def test_variants_of_a_word() -> None:
    assert variants(" Don't") >= {" Don't", "Don't", "don't", " don't", "DON'T", " DON'T"}


def test_a_model_of_many_languages_stays_one_when_it_is_trimmed_again(small: Model, tmp_path: Path) -> None:
    """After the first time its tokens are no longer as many as CTranslate2 counts."""
    again = trimmed(small, tmp_path / "again", ["one two three"])
    assert again.record.history["trim"]["runtimes"] == small.record.history["trim"]["runtimes"]
    assert any("multilingual" in line for line in again.record.history["trim"]["runtimes"])


class Multilingual:
    """As docs/whisper.md shows: faster-whisper is told that a trimmed model has languages. Keeps the prompts."""

    is_multilingual = True

    def __init__(self, network: Any) -> None:
        self._network = network
        self.prompts: list[Any] = []

    def generate(self, encoded: Any, prompts: Any, **options: Any) -> Any:
        self.prompts += prompts
        return self._network.generate(encoded, prompts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def test_faster_whisper_takes_a_trimmed_model_of_many_languages(small: Model, tmp_path: Path) -> None:
    faster_whisper = pytest.importorskip("faster_whisper")
    from microbudget.runtimes.ct2 import convert as convert_ct2

    convert_ct2.convert(small.path, tmp_path, "float32")
    whisper = faster_whisper.WhisperModel(str(tmp_path), device="cpu", compute_type="float32")
    whisper.model = Multilingual(whisper.model)
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    segments, _ = whisper.transcribe(
        sound, language="de", beam_size=1, temperature=0.0, max_new_tokens=8, condition_on_previous_text=False
    )
    list(segments)
    named = FolderTokenizer(small.path).encoder.token_to_id
    begin = [named(f"<|{name}|>") for name in ("startoftranscript", "de", "transcribe")]
    assert whisper.model.prompts
    assert all(prompt[:3] == begin for prompt in whisper.model.prompts)


@pytest.mark.skipif(not ASSETS.is_dir(), reason="../shared/assets is not there")
def test_the_real_whisper_is_trimmed_to_its_words(assets: Path, tmp_path: Path) -> None:
    """A real model and a real recording: the same words, with a tenth of the vocabulary."""
    from microbudget.audio import sound
    from microbudget.runtimes import open_session

    model = load(assets / "models" / "whisper-words")
    texts = ["one two three four five six seven eight nine zero", "yes no up down left right on off stop go"]
    small = trimmed(model, tmp_path / "out", texts)
    assert small.size_bytes < model.size_bytes / 3
    waveform = sound.read(assets / "speech" / "words" / "train" / "0001.flac")
    inputs = {"waveform": waveform[None], "length": np.array([len(waveform)])}
    before, after = (open_session(each).answer(inputs) for each in (model, small))
    assert before.tolist() == after.tolist()
    assert str(before[0]).split()
    encoder = FolderTokenizer(small.path).encoder
    rows = json.loads((small.path / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert [encoder.token_to_id(name) for name in ("<|0.00|>", "<|30.00|>")] == [rows - 1501, rows - 1]
