"""Language modelling: passages of text, bits per byte, and the same numbers for hf and gguf."""

from __future__ import annotations

import codecs
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import BadData, InvalidOption
from microbudget.judge.judging import judging_of
from microbudget.judge.verdict import judge_pair
from microbudget.judge.worker import Worker
from microbudget.kinds.language_modelling.passages import TextFile, read
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runtimes.gguf.session import GgufReader
from microbudget.runtimes.hf.causal import CausalReader
from microbudget.runtimes.language.likelihood import nats
from microbudget.runtimes.language.session import LanguageSession, window
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Task, open_data
from microbudget.units import parse_drop
from toy_pair import Pair, needs_llama, prose, write_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Passages


@settings(max_examples=100)
@also(text="000\x80\x80\x80\U00010000\U00010000\U00010000\u0800", stride=16)  # a cut that reaches less than a character
@given(
    text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=600).filter(
        lambda text: bool(text.encode()[:4096].strip()) and not text.startswith("\ufeff")
    ),
    stride=st.integers(16, 200),
)
def test_passages_are_the_file_and_each_is_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, stride: int
) -> None:
    path = write(tmp_path_factory.mktemp("t") / "a.txt", text)
    file = TextFile.open(path, stride)
    passages = [file.passage(index) for index in range(file.count)]
    assert b"".join(read(passage) for passage in passages) == path.read_bytes()
    assert all(passage.length <= 2 * stride + 4 for passage in passages)
    assert all(passage.length > 0 for passage in passages[:-1])
    for passage in passages:
        judged = file.judged(passage)
        assert judged.end == passage.end
        assert passage.start + passage.length // 4 <= judged.start or passage.start == file.start
        assert judged.start <= passage.start + passage.length // 2 + 4
        read(judged)


def test_passages_begin_with_lines_else_with_words_else_with_characters(tmp_path: Path) -> None:
    lines = TextFile.open(write(tmp_path / "lines.txt", "some words in a line\n" * 100), 100)
    assert all(read(lines.passage(index)).startswith(b"some") for index in range(lines.count))
    words = TextFile.open(write(tmp_path / "words.txt", "wording " * 200), 100)
    assert all(read(words.passage(index)).startswith(b"wording") for index in range(words.count))
    letters = TextFile.open(write(tmp_path / "letters.txt", "好" * 500), 100)
    assert all(len(read(letters.passage(index)).decode()) in (33, 34) for index in range(letters.count - 1))


def test_a_change_far_away_moves_no_passage(tmp_path: Path) -> None:
    text = prose(2000)
    before = TextTask.open(write(tmp_path / "a.txt", text), DataOptions(splits=False))
    after = TextTask.open(write(tmp_path / "b.txt", text[:-3000] + text[-3000:].upper()), DataOptions(splits=False))
    same = [a.key == b.key for a, b in zip(before.examples("test"), after.examples("test"), strict=True)]
    assert all(same[:5])
    assert not all(same)


# Texts that cannot serve, and odd ones that can


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"  \n\n \t", "is blank"),
        (codecs.BOM_UTF8, "is empty"),
        (b"abc\0def" * 100, "is binary .a zero byte at 3"),
        (bytes(range(1, 256)) * 20, "no UTF-8 text .byte 127"),
        ("Größe".encode("latin1") * 10, "no UTF-8 text .byte 2"),
        ("text".encode("utf-16"), "is UTF-16"),
    ],
)
def test_bad_texts_are_refused_with_the_reason(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(BadData, match=says):
        TextTask.open(write(tmp_path / "a.txt", content), DataOptions(splits=False))


def test_a_binary_middle_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", prose(3000).encode() + b"\xff\xfe\xfd" + prose(100).encode())
    with pytest.raises(BadData, match=r"no UTF-8 text \(byte \d{5}"):
        TextTask.open(path, DataOptions(splits=False))


def test_where_there_is_no_text_the_error_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no text at"):
        TextTask.open(tmp_path / "missing.txt")
    with pytest.raises(BadData, match=r"holds no \.txt file"):
        TextTask.open(tmp_path)


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_one_line_is_a_text(tmp_path: Path, size: int) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", "x" * size), DataOptions(splits=False))
    assert len(task.examples("test")) == max(1, round(size / 1024))
    assert sum(len(task.text(example)) for example in task.examples("test")) == size


def test_two_gigabytes_are_sampled_and_not_read(tmp_path: Path) -> None:
    path, size = tmp_path / "large.txt", 2 * 10**9
    lines, count = prose(2000).encode(), round(size / 1024)
    with path.open("wb") as stream:  # text where the sampled passages are, holes elsewhere
        stream.write(lines)
        for index in range(1, 16):
            stream.seek(index * count // 16 * 1024 - 4096)
            stream.write(lines)
        stream.truncate(size)
    task = TextTask.open(path, DataOptions(splits=False), most={"test": 16})
    assert len(task.examples("test")) == 16
    (warning,) = task.warnings
    assert "16 passages of it are used" in warning
    assert int(task.examples("test")[-1].name.split(":")[1]) > 1.8e9


def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", codecs.BOM_UTF8 + b"hello\n"), DataOptions(splits=False))
    assert task.text(task.examples("test")[0]) == "hello\n"


def test_a_context_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="8 tokens"):
        TextTask.open(write(tmp_path / "a.txt", "x"), context=4)


# Splits


def test_names_of_files_and_folders_tell_the_split(tmp_path: Path) -> None:
    for index, name in enumerate(("train.txt", "wiki.valid.txt", "test/x.txt")):
        write(tmp_path / name, prose(3000, seed=index))
    task = TextTask.open(tmp_path)
    files = {split: {e.name.split(":")[0] for e in task.examples(split)} for split in ("train", "validation", "test")}
    assert files == {"train": {"train.txt"}, "validation": {"wiki.valid.txt"}, "test": {"test/x.txt"}}
    judged = TextTask.open(tmp_path, DataOptions(splits=False))
    assert [e.key for e in judged.examples("test")] == [e.key for e in task.examples("test")]


@pytest.mark.parametrize("name", ["blood_test.txt", "my-valid.txt", "blood.test.txt", "contest/test_1.txt"])
def test_only_a_whole_name_is_a_split(tmp_path: Path, name: str) -> None:
    """blood_test.txt alone was judged, and the other files were left out."""
    for index, each in enumerate((name, "liver.txt")):
        write(tmp_path / each, prose(3000, seed=index))
    judged = TextTask.open(tmp_path, DataOptions(splits=False))
    assert {e.name.split(":")[0] for e in judged.examples("test")} == {name, "liver.txt"}
    assert judged.warnings == []


def test_what_is_judged_by_its_name_is_reported(tmp_path: Path) -> None:
    for index, name in enumerate(("test.txt", "liver.txt")):
        write(tmp_path / name, prose(3000, seed=index))
    judged = TextTask.open(tmp_path, DataOptions(splits=False))
    assert {e.name.split(":")[0] for e in judged.examples("test")} == {"test.txt"}
    assert judged.warnings == ["judged on test.txt, the test split by its name; 1 other files are not judged"]


def test_missing_splits_are_cut_by_the_seed_and_do_not_overlap(tmp_path: Path) -> None:
    write(tmp_path / "only.txt", prose(60_000))
    tasks = [TextTask.open(tmp_path, DataOptions(seed=seed)) for seed in (0, 0, 1)]
    assert tasks[0].fingerprint == tasks[1].fingerprint != tasks[2].fingerprint
    keys = {split: {e.key for e in tasks[0].examples(split)} for split in ("train", "validation", "test")}
    assert not keys["train"] & (keys["validation"] | keys["test"])
    assert not keys["validation"] & keys["test"]
    total = sum(map(len, keys.values()))
    assert 0.6 < len(keys["train"]) / total < 0.8
    assert len(keys["test"]) > 0.08 * total


def test_a_validation_file_alone_is_text_to_train_on(tmp_path: Path) -> None:
    write(tmp_path / "stories-valid.txt", prose(20_000))
    assert len(TextTask.open(tmp_path).examples("train")) > 50
    assert TextTask.open(tmp_path, DataOptions(splits=False)).examples("test")


def test_a_text_too_short_to_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="too short to cut splits from"):
        TextTask.open(write(tmp_path / "a.txt", prose(300)))


def test_what_the_model_has_seen_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", prose(5000))
    everything = TextTask.open(path, DataOptions(splits=False)).examples("test")
    seen = frozenset(example.key for example in everything[:3])
    task = TextTask.open(path, DataOptions(splits=False, leave_out=seen))
    assert (len(task.examples("test")), task.left_out) == (len(everything) - 3, 3)
    with pytest.raises(BadData, match="made with all"):
        TextTask.open(path, DataOptions(splits=False, leave_out=frozenset(e.key for e in everything)))


def test_the_kind_chooses_the_task(tmp_path: Path) -> None:
    task = open_data(write(tmp_path / "a.txt", prose(500)), "language-modelling", DataOptions(splits=False))
    assert isinstance(task, TextTask)
    assert isinstance(task, Task)


# What a model says of a text


def test_a_window_keeps_what_is_judged_and_the_latest_before() -> None:
    assert window([1, 2, 3], [4, 5], 4, None, False).tokens == (2, 3, 4, 5)
    assert window([1, 2, 3], [4, 5], 4, 9, True).tokens == (9, 3, 4, 5)
    assert window([], [4, 5], 4, 9, False).tokens == (9, 4, 5)


def test_nats_are_the_logarithms_of_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 50), scale=9).astype(np.float32)
    targets = list(range(20))
    expected = -torch.log_softmax(torch.from_numpy(logits).double(), 1)[torch.arange(20), targets].numpy()
    np.testing.assert_allclose(nats(logits, targets), expected, rtol=1e-5, atol=1e-5)


def naive_nats(pair: Pair, history: str, text: str, context: int) -> tuple[float, int]:
    """The definition: one pass over the window, from scratch, in float64."""
    reader = CausalReader(pair.hf)
    before, judged = reader.encode(history), reader.encode(text)
    tokens = (before or [reader.bos]) + judged
    tokens = tokens[-context:]
    with torch.inference_mode():
        logits = pair.network(torch.tensor([tokens])).logits[0].double()
    log_p = torch.log_softmax(logits, 1)
    places = range(len(tokens) - len(judged), len(tokens))
    return -sum(float(log_p[place - 1, tokens[place]]) for place in places), len(judged)


@pytest.mark.parametrize("runtime", ["causal", pytest.param("gguf", marks=needs_llama)])
def test_passages_cost_what_the_definition_says(pair: Pair, tmp_path: Path, runtime: str) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", prose(400)), DataOptions(splits=False), context=128, stride=128)
    examples = [task.examples("test")[index] for index in (0, 1, 4, 9)]
    reader = CausalReader(pair.hf, 1) if runtime == "causal" else GgufReader(pair.gguf, 1, cache="F32")
    answered = LanguageSession(reader).answer(task.collate(examples, {}))
    for example, (cost, tokens) in zip(examples, answered, strict=True):
        judged = int(task.score(np.zeros((1, 2)), [example]).denominator[0])
        whole = task.text(example).encode()
        assert judged == len(whole) if example is examples[0] else len(whole) / 2 < judged <= len(whole) * 3 / 4
        lead, text = whole[: len(whole) - judged].decode(), whole[len(whole) - judged :].decode()
        expected, count = naive_nats(pair, lead, text, 128)
        assert tokens == count
        assert cost == pytest.approx(expected, rel=2e-5)
    reader.close()


@pytest.mark.parametrize("runtime", ["causal", pytest.param("gguf", marks=needs_llama)])
def test_every_token_of_a_text_is_processed_once(
    pair: Pair, tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the logits of a passage are computed in several parts; the text is 1 token after each passage."""
    task = TextTask.open(write(tmp_path / "a.txt", prose(400)), DataOptions(splits=False), context=256, stride=128)
    reader = CausalReader(pair.hf, 1) if runtime == "causal" else GgufReader(pair.gguf, 1, cache="F32")
    session, examples, counts = LanguageSession(reader), task.examples("test"), [0]
    process = reader.process
    monkeypatch.setattr(session, "_rows", 7)
    monkeypatch.setattr(
        reader, "process", lambda tokens, rows=0: (counts.append(counts.pop() + len(tokens)), process(tokens, rows))[1]
    )
    answered = session.answer(task.collate(examples, {}))
    encoded = sum(len(reader.encode(task.text(example))) for example in examples)
    assert abs(counts[0] - encoded) <= 2 * len(examples)  # the cut may divide a token, the last one is not read
    monkeypatch.undo()
    del session._rows
    np.testing.assert_allclose(session.answer(task.collate(examples, {})), answered, rtol=1e-5)
    reader.close()


@needs_llama
def test_hf_and_gguf_give_the_same_numbers(pair: Pair, tmp_path: Path) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", prose(2000)), DataOptions(splits=False), context=64)
    values = []
    for path in (pair.hf, pair.gguf):
        model = load(path)
        with Worker() as worker:
            worker.open(model, threads=1)
            judged = judging_of(task).quality(model, task.examples("test"), worker)
        assert judged.scores.metric == "bits per byte"
        assert judged.low < judged.scores.value < judged.high
        values.append(judged.scores.value)
    assert values[1] == pytest.approx(values[0], rel=1e-3)  # keys and values are float16 in llama.cpp


def test_more_tokens_than_fit_are_judged_in_pieces(pair: Pair) -> None:
    session = LanguageSession(CausalReader(pair.hf, 1))
    text = np.frombuffer(prose(200).encode(), np.uint8)[None]
    inputs = {"text": text, "begin": np.array([0]), "end": np.array([text.size]), "context": np.array([32])}
    ((_, tokens),) = session.answer(inputs)
    assert tokens == len(session.reader.encode(prose(200))) > 64
    targets, logits = session.logits(inputs)
    assert targets.tolist() == session.reader.encode(prose(200))
    assert logits.shape == (tokens, session.reader.vocabulary)


def test_without_a_token_that_begins_texts_the_first_costs_all_alike(pair: Pair) -> None:
    reader = CausalReader(pair.hf, 1)
    reader.bos = None
    inputs = {"text": np.frombuffer(b"d", np.uint8)[None], "begin": np.array([0]), "end": np.array([1])}
    ((cost, tokens),) = LanguageSession(reader).answer({**inputs, "context": np.array([16])})
    assert (tokens, cost) == (1, pytest.approx(math.log(reader.vocabulary)))


@pytest.mark.parametrize("runtime", ["causal", pytest.param("gguf", marks=needs_llama)])
def test_each_timed_token_is_the_same_work(pair: Pair, tmp_path: Path, runtime: str) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", prose(2000)), DataOptions(splits=False))
    reader = CausalReader(pair.hf, 1) if runtime == "causal" else GgufReader(pair.gguf, 1, cache="F32")
    session, examples = LanguageSession(reader), task.examples("test")
    sample = task.sample(examples)
    answers = [session.answer(sample).tolist() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0][1] == 128
    prompt = {"prefill": sample["decode"], "depth": np.array([256])}
    assert session.answer(prompt)[0, 1] == 255  # of 256 that it reads, one is to be written
    assert session.answer(sample).tolist() == answers[0]
    assert session.about()["context_tokens"] == 129
    session.close()


def test_scores_are_bits_and_bytes(tmp_path: Path) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", "0123456789" * 300), DataOptions(splits=False))
    examples = task.examples("test")
    outputs = np.array([[math.log(2) * 100, 50.0]] * len(examples))
    scores = task.score(outputs, examples)
    assert scores.denominator.tolist() == [1024, 1024 * 3 / 4, 952 * 3 / 4]  # nothing is before the first
    assert scores.value == pytest.approx(300 / (1024 + (1024 + 952) * 3 / 4))
    assert not scores.higher_is_better
    assert task.extra(outputs)["perplexity"] == pytest.approx(4.0)
    assert task.extra(outputs)["tokens"] == 50 * len(examples)
    np.testing.assert_allclose(task.loss(outputs, examples), math.log(4))


def test_a_loss_of_bits_is_relative_and_points_are_an_error(tmp_path: Path) -> None:
    task = TextTask.open(write(tmp_path / "a.txt", prose(20_000)), DataOptions(splits=False))
    examples = task.examples("test")
    outputs = np.stack([np.random.default_rng(0).normal(700, 50, len(examples)), np.full(len(examples), 300.0)], 1)
    before, after = task.score(outputs, examples), task.score(outputs * [1.02, 1], examples)
    verdict = judge_pair(before, after, parse_drop("5%"))
    assert verdict.change == pytest.approx(-0.02)
    assert verdict.decision == "within"
    with pytest.raises(InvalidOption, match="give a relative one"):
        judge_pair(before, after, parse_drop("1pt"))


@needs_llama
def test_the_real_model_reads_its_own_language_better(assets: Path) -> None:
    session = LanguageSession(CausalReader(assets / "models" / "lm-python", 1))
    values = []
    for name in ("python/validation.txt", "wikitext-2/valid.txt"):
        task = TextTask.open(assets / "text" / name, DataOptions(splits=False), most={"test": 8})
        examples = task.examples("test")
        values.append(task.score(session.answer(task.collate(examples, {})), examples).value)
    assert values[0] < 2.5 < values[1]
