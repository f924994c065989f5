"""tfidf of text classification: n-grams are chosen and weighted, scikit-learn fits, and a graph is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ...errors import BadData, MissingExtra
from ...methods import Context
from ...methods.tfidf import Tfidf
from ...metrics import cross_entropy
from ...model import ONNX_NAME, Model, Record
from ...runtimes.onnx.session import write_metadata
from ...runtimes.text.encoding import TOKENIZER, Texts
from ...training.head_data import check_classes, check_validation, labels_of, one_thread
from .ngrams import LONGEST, LinearModel, NGram, graph_of, make_tokenizer, ngrams_of, reading, tokens_of, vocabulary_of
from .teaching import texts_of, validation_report

if TYPE_CHECKING:
    from pathlib import Path

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of C, where it is not given
STEPS = 1000  # of the solver at most
TELLING = 12  # n-grams of each class in the report


def apply(step: Tfidf, model: Model, context: Context, out: Path) -> Record:
    """Fit on the train split, the penalty on validation; write the graph and its tokenizer.

    Of the model nothing is used.
    """
    task = context.task
    check_classes(task)
    check_validation(task)
    train, validation = task.examples("train"), task.examples("validation")
    texts = [texts_of(task, examples, LONGEST[step.unit]) for examples in (train, validation)]
    with one_thread():
        fitted, C = _fit(step, texts, (labels_of(train), labels_of(validation)))
    make_tokenizer(step.unit, vocabulary_of(fitted.ngrams)).save(str(out / TOKENIZER))
    proto = graph_of(fitted)
    write_metadata(proto, task.labels, reading(step.unit))
    onnx.save(proto, str(out / ONNX_NAME))
    report = validation_report(out, reading(step.unit), context)
    context.progress.detail(
        f"tfidf     {len(fitted.ngrams):,} n-grams, C={C:g}: validation accuracy {report['accuracy']:.3f}"
    )
    history = {
        "ngrams": len(fitted.ngrams),
        "C": C,
        "telling": _telling(fitted, task.labels),
        "validation": report,
    }
    record = Record(task.kind, task.labels, reading(step.unit), source=model.record.source)
    return record.with_seen(example.key for example in (*train, *validation)).with_report("tfidf", history)


def _fit(step: Tfidf, texts: Sequence[Sequence[Texts]], labels: Sequence[Any]) -> tuple[LinearModel, float]:
    """The model and the C that it was fitted with. texts, labels: of train and of validation. Raises BadData."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtra("tfidf needs scikit-learn: pip install 'microbudget[text]'") from error
    tokenizer = make_tokenizer(step.unit)

    def analyze(text: Texts) -> list[NGram]:
        return [ngram for part in text for ngram in ngrams_of(tokens_of(tokenizer, part), *step.lengths)]

    vectorizer = TfidfVectorizer(analyzer=analyze, max_features=step.features)
    try:
        known = vectorizer.fit_transform(texts[0])
    except ValueError as error:
        raise BadData(
            f"tfidf: no training text has {step.lengths[0]} {step.unit}s: take smaller n-grams (shortest=1)"
        ) from error
    found = _regression(known, labels[0], vectorizer.transform(texts[1]), labels[1], step.C)
    places: dict[NGram, int] = vectorizer.vocabulary_
    ngrams = sorted(places, key=places.__getitem__)
    weights, bias = found.coef_.T.astype(np.float32), found.intercept_.astype(np.float32)
    return LinearModel(ngrams, vectorizer.idf_.astype(np.float32), weights, bias), float(found.C)


def _regression(known: Any, labels: Any, held_out: Any, held_out_labels: Any, C: float | None) -> Any:
    """scikit-learn's LogisticRegression of the given C, else of the one with the lowest loss on validation.

    The loss has one minimum over C, so the search ends where it rises.
    """
    from sklearn.linear_model import LogisticRegression

    best: tuple[float, Any] = (np.inf, None)
    for strength in STRENGTHS if C is None else (C,):
        fitted = LogisticRegression(C=strength, max_iter=STEPS).fit(known, labels)
        loss = float(cross_entropy(fitted.predict_log_proba(held_out), held_out_labels).mean())
        if best[1] is not None and not loss < best[0]:
            break
        best = loss, fitted
    return best[1]


def _telling(fitted: LinearModel, labels: Sequence[str]) -> list[dict[str, str]]:
    """The n-grams that speak most for each class, a row each."""
    weights = fitted.weights * fitted.idf[:, None]
    if weights.shape[1] == 1:
        weights = np.concatenate([-weights, weights], axis=1)
    between = "" if fitted.ngrams and all(len(token) == 1 for ngram in fitted.ngrams for token in ngram) else " "
    return [
        {
            "label": label,
            "ngrams": ", ".join(
                f"“{between.join(fitted.ngrams[place])}”" for place in np.argsort(-weights[:, column])[:TELLING]
            ),
        }
        for column, label in enumerate(labels)
    ]
