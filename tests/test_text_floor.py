"""What needs no network: n-grams with logistic regression, one vector for each token, and how a run says so."""

from __future__ import annotations

import builtins
import io
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from microbudget.errors import BadData, InvalidOption, LabelsDisagree, MissingExtra, OutOfTime
from microbudget.judge.budget import Budget, Measurement
from microbudget.judge.verdict import Verdict
from microbudget.kinds.text_classification import distill, ngrams, static, teaching
from microbudget.kinds.text_classification.data import TextTask
from microbudget.kinds.text_classification.floor import VECTORS, WORDS, floor
from microbudget.kinds.text_classification.ngrams import LinearModel
from microbudget.kinds.text_classification.search_space import SearchSpace
from microbudget.kinds.text_classification.shipping import SHIPPING
from microbudget.kinds.text_classification.teacher import Lesson
from microbudget.methods.distill import Distill
from microbudget.methods.quantize.tables import rounded_rows
from microbudget.methods.tfidf import Tfidf
from microbudget.metrics import softmax
from microbudget.progress import Progress
from microbudget.recipes.build import planned
from microbudget.recipes.recipe import Recipe
from microbudget.report import page
from microbudget.report.headline import headline
from microbudget.report.outcome import Outcome
from microbudget.report.part import Part, Section, opening_of
from microbudget.runs.candidates import Candidate
from microbudget.runs.run import Run
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import OnnxSession
from microbudget.runtimes.text.encoding import TextEncoder
from microbudget.search import search
from microbudget.search.shrink import shrink
from microbudget.units import Drop
from quick import QUICK
from toy_texts import answers, built, context, rows, write_classifier, write_encoder, write_table

pytestmark = pytest.mark.usefixtures("without_plots")
TEXTS = [text for text, _ in rows(12, seed=5)] + ["", "Zzz qqq", "GOOD!! good ... good", "good " * 300]


@pytest.fixture
def encoder(made_once) -> Path:
    return made_once("text-encoder", write_encoder)


@pytest.fixture
def classifier(made_once) -> Path:
    return made_once("text-classifier", write_classifier)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "t.csv")


# n-grams


@pytest.mark.parametrize(("unit", "longest"), [("word", 2), ("char", 4)])
def test_the_answers_are_those_of_scikit_learn(
    encoder: Path, table: Path, tmp_path: Path, unit: str, longest: int
) -> None:
    known = context(table, tmp_path)
    model = built(Tfidf(unit=unit, longest=longest, C=3.0), load(encoder), known, tmp_path / "out")
    task = known.task
    assert isinstance(task, TextTask)
    train = task.examples("train")
    how = (
        {"token_pattern": r"\w+|[^\w\s]+", "ngram_range": (1, 2)}
        if unit == "word"
        else {"analyzer": "char", "ngram_range": (3, 4)}
    )
    vectorizer = TfidfVectorizer(lowercase=True, **how)
    matrix = vectorizer.fit_transform([task.text_of(example)[0] for example in train])
    oracle = LogisticRegression(C=3.0, max_iter=1000).fit(matrix, [example.label for example in train])
    expected = oracle.predict_proba(vectorizer.transform(TEXTS))
    np.testing.assert_allclose(softmax(answers(model, TEXTS)), expected, atol=1e-5)
    assert model.record.history["tfidf"]["ngrams"] == len(vectorizer.vocabulary_)


def test_three_classes_answer_as_scikit_learn_does(encoder: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "a", "b", "c", "d", "e", "f", "g"])
    lines = [f"{' '.join(dice.choice(words, 8))},{place % 3}" for place in range(90)]
    table = tmp_path / "three.csv"
    table.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    known = context(table, tmp_path)
    model = built(Tfidf(C=1.0), load(encoder), known, tmp_path / "out")
    task = known.task
    assert isinstance(task, TextTask)
    train = task.examples("train")
    vectorizer = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2))
    matrix = vectorizer.fit_transform([task.text_of(example)[0] for example in train])
    oracle = LogisticRegression(C=1.0, max_iter=1000).fit(matrix, [example.label for example in train])
    texts = ["red red a", "blue g", "nothing"]
    expected = oracle.predict_proba(vectorizer.transform(texts))
    np.testing.assert_allclose(softmax(answers(model, texts)), expected, atol=1e-5)


@settings(max_examples=30)
@given(
    texts=st.lists(st.lists(st.sampled_from("abcde"), max_size=9), min_size=1, max_size=4),
    lengths=st.tuples(st.integers(1, 3), st.integers(0, 2)),
    classes=st.integers(1, 3),
    data=st.data(),
)
def test_a_graph_counts_what_python_counts_and_padding_changes_nothing(
    texts: list[list[str]], lengths: tuple[int, int], classes: int, data: st.DataObject
) -> None:
    shortest, longest = lengths[0], sum(lengths)
    possible = st.lists(st.sampled_from("abcd"), min_size=shortest, max_size=longest).map(tuple)  # e is in none
    pool = data.draw(st.lists(possible, min_size=1, max_size=12, unique=True))
    dice = np.random.default_rng(len(pool))
    model = LinearModel(
        pool,
        dice.uniform(1, 3, len(pool)).astype(np.float32),
        dice.normal(size=(len(pool), classes)).astype(np.float32),
        dice.normal(size=classes).astype(np.float32),
    )
    ids = {token: 3 + place for place, token in enumerate(ngrams.vocabulary_of(pool))}
    width = max(1, *map(len, texts)) + 2
    batch = np.array([[*(ids.get(token, 1) for token in text), *[0] * (width - len(text))] for text in texts], np.int64)
    found = OnnxSession(ngrams.graph_of(model).SerializeToString(), 1).answer({"input_ids": batch})
    for text, row in zip(texts, found, strict=True):
        counts = Counter(ngrams.ngrams_of(text, shortest, longest))
        weighted = np.array([counts[ngram] for ngram in pool]) * model.idf
        logits = weighted / max(float(np.linalg.norm(weighted)), 1e-12) @ model.weights + model.bias
        expected = [-logits[0] / 2, logits[0] / 2] if classes == 1 else logits
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_the_penalty_is_chosen_by_the_loss_on_validation(encoder: Path, table: Path, tmp_path: Path) -> None:
    known = context(table, tmp_path)
    chosen = built(Tfidf(), load(encoder), known, tmp_path / "chosen")
    loss = {}
    for C in sorted({0.3, 1.0, 100.0, chosen.record.history["tfidf"]["C"]}):
        model = built(Tfidf(C=C), load(encoder), known, tmp_path / f"C{C:g}")
        examples = known.task.examples("validation")
        texts = [known.task.text_of(example)[0] for example in examples]  # type: ignore[attr-defined]
        loss[C] = float(known.task.loss(answers(model, texts), examples).mean())
    assert min(loss, key=loss.__getitem__) == chosen.record.history["tfidf"]["C"]


def test_what_is_kept_is_what_is_most_frequent_and_small(encoder: Path, table: Path, tmp_path: Path) -> None:
    model = built(Tfidf(features=20), load(encoder), context(table, tmp_path), tmp_path / "out")
    assert model.record.history["tfidf"]["ngrams"] == 20
    assert model.size_bytes < 20_000
    telling = {row["label"]: row["ngrams"] for row in model.record.history["tfidf"]["telling"]}
    assert set(telling) == {"neg", "pos"}
    vocabulary = Tokenizer.from_file(str(model.path / "tokenizer.json")).get_vocab()
    assert len(vocabulary) <= 3 + 20


def test_pairs_have_no_ngram_over_both_texts(encoder: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    lines = [f"good film {place},bad plot,{'yes' if place % 2 else 'no'}" for place in range(60)]
    table.write_text("text1,text2,label\n" + "\n".join(lines), encoding="utf-8")
    model = built(Tfidf(), load(encoder), context(table, tmp_path), tmp_path / "out")
    vocabulary = Tokenizer.from_file(str(model.path / "tokenizer.json")).get_vocab()
    assert {"good", "film", "bad", "plot"} <= set(vocabulary)
    joined = answers(model, [["good film 3", "bad plot"]]) - answers(model, [["good film 3", ""]])
    assert np.abs(joined).max() > 0  # the second text counts
    pairs = answers(model, [["film", "bad"], ["bad", "film"]])
    np.testing.assert_allclose(pairs[0], pairs[1], atol=1e-6)


def test_bad_options_and_data(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="shortest=3 is longer than longest=2"):
        _ = Tfidf(shortest=3, longest=2).lengths
    assert Tfidf(unit="char", longest=2).lengths == (2, 2)
    assert Tfidf(shortest=4).lengths == (4, 4)
    table = tmp_path / "short.csv"
    table.write_text("text,label\n" + "\n".join(f"w{place},{place % 2}" for place in range(40)), encoding="utf-8")
    with pytest.raises(BadData, match="no training text has 9 words"):
        Tfidf(shortest=9).apply(load(encoder), context(table, tmp_path), tmp_path)


def test_without_scikit_learn_the_extra_is_named(
    encoder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return imported(name, *rest, **named)

    known = context(table, tmp_path)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"scikit-learn: pip install 'microbudget\[text\]'"):
        Tfidf().apply(load(encoder), known, tmp_path)


# Vectors of tokens


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) @ np.diag([5, 3, 2, 1, 0.5, 0.1])
    ours, theirs = static.components(features.astype(np.float32), 3), PCA(3).fit_transform(features)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


def test_vectors_are_the_encoders_of_each_token_alone(encoder: Path, table: Path, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    found = static.vectors_of(load(encoder), 16, context(table, tmp_path))
    network = BertModel.from_pretrained(str(encoder)).eval()
    with torch.no_grad():
        ids = torch.tensor([[2, token, 3] for token in (7, 8, 900)])
        states = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1).numpy()
    # A rotation and one scale: distances between tokens stay, but for the weight of each one's rank.
    unweighted = found[[7, 8, 900]] / np.log1p(np.array([8, 9, 901]))[:, None]
    ours = np.linalg.norm(unweighted[:, None] - unweighted[None], axis=2)
    theirs = np.linalg.norm(states[:, None] - states[None], axis=2)
    np.testing.assert_allclose(ours / ours[0, 1], theirs / theirs[0, 1], rtol=1e-4)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=20)
@given(
    texts=st.lists(st.lists(st.integers(0, 1099), max_size=7), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    classes=st.integers(2, 4),
)
def test_a_graph_answers_the_mean_of_its_rounded_rows(texts: list[list[int]], seed: int, classes: int) -> None:
    import torch

    dice = np.random.default_rng(seed)
    table = (dice.normal(size=(1100, 16)) * dice.uniform(0.1, 9, (1100, 1))).astype(np.float32)
    head = torch.nn.Linear(16, classes)
    special = frozenset({0, 2, 3})
    proto = static.graph_of(table, head, special)
    q, S = rounded_rows(table)
    rounded = q * S
    width = max(1, *map(len, texts)) + 1
    batch = np.array([[*text, *[0] * (width - len(text))] for text in texts], np.int64)
    found = OnnxSession(proto.SerializeToString(), 1).answer({"input_ids": batch})
    for text, row in zip(texts, found, strict=True):
        kept = [token for token in text if token not in special]
        mean = rounded[kept].mean(0) if kept else np.zeros(16)
        expected = mean @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)
    assert proto.ByteSize() < 1100 * (16 + 4 + 1) + 4000  # 8 bits, a scale a row, and whether it counts


def test_vectors_learn_what_the_encoder_does_not_know(encoder: Path, tmp_path: Path) -> None:
    known = context(write_table(tmp_path / "more.csv", 240), tmp_path)
    step = Distill(student="static", dimensions=16, epochs=12, learning_rate=0.1)
    model = built(step, load(encoder), known, tmp_path / "out")
    assert model.format == "onnx"
    assert step.output_format("hf") == "onnx"
    history = model.record.history["distill"]
    assert history["teacher"] is None
    assert history["validation"]["accuracy"] > 0.85
    assert history["before"]["accuracy"] < 0.8
    held_out = [text for text, _ in rows(60, seed=9)]
    truth = np.array([label == "pos" for _, label in rows(60, seed=9)])
    assert (answers(model, held_out).argmax(1) == truth).mean() > 0.85
    again = built(step, load(encoder), known, tmp_path / "again")
    assert (again.path / "model.onnx").read_bytes() == (model.path / "model.onnx").read_bytes()


def test_a_teacher_answers_unlabelled_texts_first(classifier: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "data"
    write_table(folder / "train.csv", 60)
    lines = "\n".join(text for text, _ in rows(50, seed=3))
    (folder / "unlabelled.csv").write_text(f"text,other\n{lines.replace(chr(10), ',' + chr(10))},\n", encoding="utf-8")
    known = replace(context(folder, tmp_path), reference=load(classifier))
    train, unlabelled = known.task.examples("train"), known.task.examples("unlabelled")
    assert len(unlabelled) > 30
    monkeypatch.setattr(distill, "ASKED", len(unlabelled) + 5)
    soft = Lesson.of(load(classifier), known, len(unlabelled) + 5).answers
    assert soft is not None
    asked = np.isfinite(soft).all(axis=1)
    assert asked.sum() == len(unlabelled) + 5
    assert asked[len(train) :].all()
    texts = [known.task.text_of(example)[0] for example in unlabelled]  # type: ignore[attr-defined]
    np.testing.assert_allclose(soft[len(train) :], answers(load(classifier), texts), atol=1e-5)
    step = Distill(student="static", dimensions=8, epochs=2)
    model = built(step, load(classifier), known, tmp_path / "out")
    history = model.record.history["distill"]
    assert (history["unlabelled"], history["teacher_answers"]) == (len(unlabelled), len(unlabelled) + 5)
    assert {example.key for example in unlabelled} <= set(model.record.seen)
    assert step.extra_inputs(known) == {"teacher": load(classifier).fingerprint}


def test_a_student_that_follows_its_teacher_agrees_with_it(classifier: Path, table: Path, tmp_path: Path) -> None:
    known = replace(context(table, tmp_path), reference=load(classifier))
    step = Distill(student="static", dimensions=16, epochs=20, learning_rate=0.02, hard=0.0)
    lesson = Lesson.of(load(classifier), known)
    data, soft = distill._bags(load(classifier), lesson, known), lesson.answers
    assert soft is not None
    spread = soft - soft.mean(axis=0)  # a random head answers nearly the same to every text
    data = replace(data, teacher=(spread / np.abs(spread).max() * 4).astype(np.float32))
    network, _, _ = static.fit(step, static.vectors_of(load(classifier), 16, known), data, known)
    places = np.unique(np.concatenate([*data.bags, *data.held_out, np.zeros(1, np.int64)]))
    tensors = static._tensors([np.searchsorted(places, bag) for bag in data.bags])
    logits = network(tensors["tokens"], tensors["starts"]).logits.detach().numpy()
    assert data.teacher is not None
    assert (logits.argmax(1) == data.teacher.argmax(1)).mean() > 0.7


def test_what_static_refuses(encoder: Path, classifier: Path, table: Path, tmp_path: Path) -> None:
    known = context(table, tmp_path)
    with pytest.raises(InvalidOption, match="has no blocks: leave depth and width out"):
        Distill(student="static", depth=0.5).apply(load(encoder), known, tmp_path)
    other = load(classifier).with_record(labels=("x", "y"))
    with pytest.raises(LabelsDisagree, match="the teacher cannot teach these classes"):
        Distill(student="static").apply(load(encoder), replace(known, reference=other), tmp_path)


def test_what_does_not_fit_into_the_time_is_given_up(
    classifier: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = replace(context(table, tmp_path), deadline=-1.0)
    monkeypatch.setattr(teaching, "ANSWERED_AT_ONCE", 8)
    with pytest.raises(OutOfTime, match="asking the teacher"):
        Lesson.of(load(classifier), late)
    with pytest.raises(OutOfTime, match="a pass over the vocabulary"):
        static.vectors_of(load(classifier), 8, late)


def test_special_tokens_and_what_is_put_around_a_text(encoder: Path) -> None:
    found = TextEncoder.of(load(encoder))
    assert found.around == ((2,), (3,))
    assert found.ids == 1100
    assert 0 in found.special


# Runs


def row(recipe: str, fingerprint: str, quality: float, verdict: Verdict | None = None) -> Candidate:
    measured = Measurement(
        "m", "onnx", "r", "text-classification", 99, "accuracy", quality, quality - 0.1, quality + 0.1, 1000
    )
    return Candidate(recipe, fingerprint, f"models/{fingerprint}", replace(measured, latency_s=1e-4), verdict)


def outcome(folder: Path, best: str, decision: str = "within", unmet: tuple[str, ...] = ()) -> Outcome:
    """A run whose reference is an encoder and whose `best` ships."""
    verdict = Verdict(decision, "1pt", -0.004, -0.02, 0.01, 99, None, "a reason")  # type: ignore[arg-type]
    words = row("tfidf(unit='word')", "words", 0.8, verdict)
    vectors = row("finetune() > distill(student='static')", "vectors", 0.81, verdict)
    network = row("finetune() > export() > quantize()", "network", 0.82, verdict)
    failed = Candidate("tfidf(unit='char')", "char", "", failure="no <text> has 3 chars")
    rows = {each.fingerprint: each for each in (words, vectors, network, failed)}
    reference = row("finetune()", "reference", 0.82)
    settings = {"model": "somewhere/minilm-l6", "data": "sst2"}
    return Outcome(
        Run(folder),
        settings,
        reference,
        tuple(rows.values()),
        rows[best],
        Budget(),
        unmet,
        interrupted=False,
        ended=True,
    )


def test_what_is_said_first(tmp_path: Path) -> None:
    first = "No network is needed: words with logistic regression are within 1 pt of minilm-l6."
    assert opening_of(outcome(tmp_path, "words")) == first
    assert headline(outcome(tmp_path, "words")).sentence.startswith(f"{first} 1.00 kB instead of")
    by_estimate = opening_of(outcome(tmp_path, "vectors", "not shown"))
    assert by_estimate.endswith("(static embeddings) is within 1 pt of minilm-l6 by the estimate.")
    assert opening_of(outcome(tmp_path, "network")) == ""
    assert opening_of(outcome(tmp_path, "words", unmet=("the loss is too large",))) == ""


def test_the_table_of_what_needs_no_network(table: Path, tmp_path: Path) -> None:
    task = TextTask.open(table)
    found = floor(outcome(tmp_path, "network"), task)
    assert found is not None
    names = [each.name for each in found.rows]
    assert names[0].startswith("the most frequent class (")
    assert names[1:4] == [WORDS["word"], VECTORS, WORDS["char"]]
    assert names[4:] == ["the reference, a network"]
    label = names[0].split("(")[1].split(")")[0]
    held_out = task.examples("validation")
    share = np.mean([task.labels[each.label or 0] == label for each in held_out])
    assert found.rows[0].quality == f"{100 * share:.1f} %"
    package = "microbudget.kinds.text_classification"
    drawn = page._sections(page._environment(), package, Part((Section("floor", "", "", found),)))[0][1]
    assert "None of these ships" in drawn
    assert "no &lt;text&gt; has 3 chars" in drawn
    assert floor(replace(outcome(tmp_path, "network"), candidates=()), task) is None
    unmet = floor(outcome(tmp_path, "words", unmet=("the loss is too large",)), task)
    assert unmet is not None
    assert unmet.conclusion == "What ships is one of these: words with logistic regression."


def test_what_is_delivered_runs_alone(encoder: Path, table: Path, tmp_path: Path) -> None:
    known = context(table, tmp_path)
    model = built(Tfidf(), load(encoder), known, tmp_path / "out")
    before = answers(model, TEXTS)
    SHIPPING.add_files(model.path, model, known.task)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.onnx", "tokenizer.json", "predict.py"):
        (alone / name).write_bytes((model.path / name).read_bytes())
    command = [sys.executable, "-I", str(alone / "predict.py"), *TEXTS]
    said = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert model.labels is not None
    expected = [model.labels[place] for place in before.argmax(1)]
    assert [line.split("\t")[0] for line in said.rstrip("\n").split("\n")] == expected


def test_the_search_begins_with_what_needs_no_network(encoder: Path, classifier: Path, table: Path) -> None:
    task = TextTask.open(table)
    space = SearchSpace(load(encoder), task)
    first = space.teaching()
    names = [recipe.steps[-1].short() for recipe in space.recipes(first)]
    assert names[:2] == ["tfidf(unit='word')", "tfidf(unit='char')"]
    assert names[2].startswith("quantize")
    assert "distill(student='static')" in names
    assert all(recipe.formats("hf") for recipe in space.recipes(first))


def test_words_are_delivered_before_the_encoder_is_trained(
    encoder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the training: what needs no network is there, and its card does not claim to be compared."""
    seen: list[Any] = []

    def stopped(run: Any, job: Any, context: Any, schedule: Any) -> Any:
        seen.extend([run, job, context])
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "taught", stopped)
    said, limit = io.StringIO(), Budget(max_drop=Drop(0.01))
    for _ in range(2):  # what is there is not made again
        with pytest.raises(KeyboardInterrupt):
            shrink(encoder, table, limit, out=tmp_path / "run", threads=1, durations=QUICK, progress=Progress(said))
    assert 1 <= said.getvalue().count("as long as there is nothing better") <= 2, "the second where it is better"
    assert said.getvalue().count("has what was delivered so far") == 2
    run, job, context = seen[:3]
    made = load(tmp_path / "run" / "best")
    rows = [
        planned(job.given, recipe, context, run.models) for recipe in map(Recipe.parse, ("tfidf", "tfidf(unit='char')"))
    ]
    assert made.fingerprint in {row.fingerprint for row in rows}, "the candidate of later is built already"
    card = (tmp_path / "run" / "best" / "README.md").read_text(encoding="utf-8")
    assert "**not compared**" in card
    assert "The test split was not read." in card
    assert "(unit='word'" in card or "(unit='char'" in card
    assert not run.candidates(), "a row has a speed and a verdict"
