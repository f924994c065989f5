"""A language model as a text classifier: the naive likelihood of each label after the prompt is the oracle."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from microbudget import cli
from microbudget.errors import BadData, InvalidOption, UnsupportedModel
from microbudget.judge import measure
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.prompt import with_prompt, words_of
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.methods.lora import Lora
from microbudget.methods.prompt import Prompt as PromptStep
from microbudget.methods.tfidf import Tfidf
from microbudget.model import Record
from microbudget.runtimes import open_session
from microbudget.runtimes.hf.causal import CausalReader
from microbudget.runtimes.language.reader import Reader
from microbudget.runtimes.loading import load
from microbudget.runtimes.text import prompted
from microbudget.runtimes.text.encoding import TEXT
from microbudget.runtimes.text.prompt import CONTENT_FREE, PAIR, SINGLE, Prompt
from microbudget.runtimes.text.prompted import PromptedSession
from quick import QUICK
from test_questions import naive
from toy_pair import Pair, needs_llama, write_pair
from toy_texts import rows, write_encoder, write_table

TEMPLATE = "the text {text}, and it is:{label}"
TEXTS = ["fox jumps", "return 42 # lost, isn't it?", "", "Größe {label} {text}", "fox"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(TextTask.open(write_table(tmp_path / "texts.csv")), tmp_path / "cache", threads=1)


def expected(reader: Reader, network: object, prompt: Prompt, text: str) -> np.ndarray:
    """log p of each word after the prompt, every sequence read alone; minus that of texts without content."""

    def answered(shown: str) -> np.ndarray:
        asked = prompt.before + TEMPLATE.removesuffix("{label}").replace("{text}", shown, 1)
        return log_softmax([naive(reader, network, asked, word) for word in prompt.words])

    prior = np.log(np.mean([np.exp(answered(each)) for each in CONTENT_FREE], axis=0))
    return answered(text) - (prior if prompt.calibrated else 0)


@pytest.mark.parametrize("words", [("a", "b", "c"), ("a", "return 42", "lazy fox")], ids=["one token", "several"])
@pytest.mark.parametrize(("calibrated", "call"), [(True, 0), (False, 8), (True, 1000)])
def test_answers_are_the_likelihoods_of_the_labels(
    pair: Pair, words: tuple[str, ...], calibrated: bool, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where texts that share a beginning come one after the other, and in any order."""
    reader = CausalReader(pair.hf, threads=1)
    prompt = Prompt.of(TEMPLATE, words, [(("good fox",), 0), (("42",), 1)], calibrated=calibrated)
    session = PromptedSession(reader, prompt, 100)
    monkeypatch.setattr(prompted, "CALL", call)  # how the labels are read: one by one, or in one batch
    found = session.answer({TEXT: np.array(TEXTS)})
    assert found == pytest.approx(np.array([expected(reader, pair.network, prompt, each) for each in TEXTS]), abs=1e-4)
    assert session.answer({TEXT: np.array(TEXTS[::-1])})[::-1] == pytest.approx(found, abs=1e-4)


@needs_llama
@pytest.mark.parametrize("words", [("a", "b", "c"), ("a", "return 42", "lazy fox")], ids=["one token", "several"])
def test_llama_answers_the_same(pair: Pair, context: Context, words: tuple[str, ...]) -> None:
    """The float16 cache of llama.cpp is what differs."""
    labels = {"hf": pair.hf, "gguf": pair.gguf}
    found = []
    for path in labels.values():
        step = PromptStep(model=str(path), text=TEMPLATE, words=f"neg={words[1]}, pos={words[2]}", shots=3)
        session = open_session(with_prompt(step, context), threads=1)
        found.append(session.answer({TEXT: np.array(TEXTS)}))
        session.close()
    assert found[0] == pytest.approx(found[1], abs=0.03)


def test_a_long_text_is_cut_where_the_model_reads_no_further(pair: Pair) -> None:
    session = PromptedSession(CausalReader(pair.hf, threads=1), Prompt.of(TEMPLATE, ("a", "b")), 10)
    texts = np.array(["x " * 10, "x " * 100_000])
    assert session.answer({TEXT: texts})[0] == pytest.approx(session.answer({TEXT: texts[::-1]})[0], abs=1e-4)


def test_examples_are_before_the_text() -> None:
    prompt = Prompt.of("Review: {text}\\nIt is", ("bad", "good"), [(("dull",), 0), (("fine",), 1)])
    assert prompt.context(("a {label}",)) == (
        "Review: dull\nIt is bad\n\nReview: fine\nIt is good\n\nReview: a {label}\nIt is "
    )
    both = Prompt.of("", ("no", "yes"), parts=2)
    assert (both.template, both.parts) == (PAIR, 2)
    assert both.context(("a", "{text_1}")) == "Text 1: a\nText 2: {text_1}\nLabel: "
    assert Prompt.of("", ("no", "yes")).template == SINGLE
    assert Prompt.read(json.loads(json.dumps(prompt.as_dict()))) == prompt


BAD_TEMPLATES = [
    ("Review: \nSentiment:", 1, "has no {text}"),
    ("{text} and {text}", 1, "has 2 times {text}"),
    ("{label} is what {text} is", 1, "must end with its one {label}"),
    ("{text} {label} {label}", 1, "must end with its one {label}"),
    ("{text} {text_1}", 1, "has {text_1}, and the data are single texts"),
    ("{text}", 2, "has no {text_1}"),
    ("{text_1} {text_1} {text_2}", 2, "has 2 times {text_1}"),
    ("{text_1} {text_2} {text}", 2, "has {text}, and the data are pairs"),
]


@pytest.mark.parametrize(("template", "parts", "message"), BAD_TEMPLATES)
def test_templates_without_their_places(template: str, parts: int, message: str) -> None:
    with pytest.raises(InvalidOption, match=message.replace("{", r"\{")):
        Prompt.of(template, ("a", "b"), parts=parts)


def test_words_for_labels() -> None:
    assert words_of("", ("card_arrival", "other")) == ("card arrival", "other")
    assert words_of("1 = very good", ("0", "1")) == ("0", "very good")
    for given, message in [("1", "write label=word"), ("1=", "write label=word"), ("2=a", "'2' is no label"),
                           ("0=a, 1=a", "stands for two labels")]:  # fmt: skip
        with pytest.raises(InvalidOption, match=message):
            words_of(given, ("0", "1"))


def test_examples_come_from_the_train_split_and_are_not_judged(pair: Pair, context: Context) -> None:
    train = {example.key: example.label for example in context.task.examples("train")}
    step = PromptStep(model=str(pair.hf), text="{text}:", shots=4)
    model = with_prompt(step, context)
    assert Counter(train[key] for key in model.record.seen) == {0: 2, 1: 2}
    assert with_prompt(step, context).record == model.record
    with pytest.raises(BadData, match=f"has {len(train)} labelled texts: take fewer"):
        with_prompt(PromptStep(model=str(pair.hf), shots=1000), context)


def test_what_cannot_be_with_prompt(pair: Pair, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="name a language model"):
        with_prompt(PromptStep(), context)
    long = with_prompt(PromptStep(model=str(pair.hf), text="words " * 300 + "{text}"), context)
    with pytest.raises(UnsupportedModel, match="take fewer examples"):
        open_session(long, threads=1)
    words = Tfidf()
    out = tmp_path / "words"
    out.mkdir()
    model = load(pair.hf)
    words.apply(model.with_record(task="text-classification"), context, out).save(out)
    with pytest.raises(InvalidOption, match="is no language model but one for text-classification"):
        with_prompt(PromptStep(model=str(out)), context)


@needs_llama
def test_the_verb_makes_a_classifier_that_is_measured(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = write_table(tmp_path / "texts.csv", 40), tmp_path / "classifier"
    asked = ["prompt", str(pair.gguf), "--data", str(table), "--out", str(out), "--shots", "2"]
    assert cli.main([*asked, "--text", "it is: {label}", "--quiet"]) == 2
    assert "has no {text}" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*asked, "--words", "pos=good, neg=bad", "--json", "--quiet"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["words"] == ["bad", "good"]
    assert sum(made["prior"].values()) == pytest.approx(1)
    record = Record.read(out)
    assert record is not None
    found = measure(out, table, seconds=QUICK.verb_s, threads=1).as_dict()
    assert (found["metric"], found["examples"]) == ("accuracy", 40 - len(record.seen))
    assert cli.main([*asked, "--quiet"]) == 0  # again
    (tmp_path / "mine").mkdir()
    assert cli.main([*asked[:-3], str(tmp_path / "mine"), "--quiet"]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_a_language_model_teaches_vectors_of_tokens(
    pair: Pair, tmp_path: Path, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> None:
    """It labels the unlabelled texts too; what the student has from it is reported against the labels alone."""
    data = tmp_path / "data"
    write_table(data / "train.csv", 60)
    (data / "unlabelled.csv").write_text("text\n" + "".join(f"{text}\n" for text, _ in rows(20, seed=5)), "utf-8")
    given = Context(TextTask.open(data), tmp_path / "cache", threads=1)
    encoder = load(made_once("text-encoder", write_encoder))
    step = Distill(student="static", teacher=str(pair.hf), prompt="{text} is{label}", epochs=2, dimensions=4)
    assert step.extra_inputs(given) != {}
    found = step.apply(encoder, given, tmp_path)
    report = found.history["distill"]
    texts = len(given.task.examples("train"))
    assert (report["unlabelled"], report["teacher_answers"]) == (20, texts + 20)
    assert 0 <= report["agreement_with_teacher"] <= 1
    assert 0 <= report["accuracy_from_labels_alone"] <= 1
    with pytest.raises(InvalidOption, match="name one with teacher="):
        Distill(student="static", prompt="{text}").apply(encoder, given, tmp_path)


def test_adapters_learn_the_labels_after_the_prompt(pair: Pair, context: Context, tmp_path: Path) -> None:
    step = PromptStep(model=str(pair.hf), text="{text}:{label}", words="neg=a, pos=b")
    model = with_prompt(step, context)
    out = tmp_path / "adapted"
    out.mkdir()
    lora = Lora(rank=4, epochs=6, patience=6, learning_rate=1e-2, length=64)
    record = lora.apply(model, context, out)
    losses = [epoch["validation_loss"] for epoch in record.history["lora"]["epochs"]]
    assert min(losses) < 0.6 * record.history["lora"]["before"]["loss"]
    assert record.preprocessing is not None
    assert not record.preprocessing["prompt"]["calibrated"]
    record.save(out)
    session = open_session(load(out), threads=1)
    examples = context.task.examples("validation")
    answers = session.answer(context.task.collate(examples, record.preprocessing))
    nats = -answers[np.arange(len(examples)), [example.label for example in examples]].mean()
    # Over both labels it is at most what it is over the whole vocabulary.
    assert nats <= min(losses) + 1e-3
