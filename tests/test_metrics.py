"""Metrics against scikit-learn, SciPy and plain equations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax

from microbudget import metrics

finite = st.floats(-30, 30, width=16)


def answers(seed, examples=200, classes=5):
    coin = np.random.default_rng(seed)
    labels = coin.integers(0, classes, examples)
    return np.where(coin.random(examples) < 0.7, labels, coin.integers(0, classes, examples)), labels


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_report_agrees_with_scikit_learn(classes):
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predictions, labels = answers(classes, classes=classes)
    report = metrics.classification_report(predictions, labels, classes)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average="macro")
    assert report == pytest.approx(
        {"accuracy": np.mean(predictions == labels), "precision": precision, "recall": recall, "f1": f1}
    )
    assert (metrics.confusion_matrix(predictions, labels, classes) == confusion_matrix(labels, predictions)).all()


def test_classes_without_examples_and_classes_never_predicted():
    from sklearn.metrics import precision_recall_fscore_support

    predictions, labels = np.array([0, 0, 1, 3]), np.array([0, 1, 1, 1])  # 2 never occurs, 3 is never true
    report = metrics.classification_report(predictions, labels, 5)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)
    assert (report["precision"], report["recall"], report["f1"]) == pytest.approx((precision, recall, f1))


def test_nothing_to_report_on_is_nan():
    none = np.array([], int)
    assert all(np.isnan(value) for value in metrics.classification_report(none, none, 3).values())


def test_accuracy_scores_are_one_where_right():
    scores = metrics.accuracy_scores(np.array([1, 2, 0]), np.array([1, 0, 0]))
    assert scores.tolist() == [1.0, 0.0, 1.0]
    assert scores.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cross_entropy_agrees_with_scikit_learn(dtype):
    from sklearn.metrics import log_loss

    logits = np.random.default_rng(1).normal(size=(50, 4)).astype(dtype)
    labels = np.arange(50) % 4
    expected = log_loss(labels, scipy_softmax(logits.astype(float), axis=1))
    assert metrics.cross_entropy(logits, labels).mean() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_large_logits_neither_overflow_nor_vanish(dtype):
    logits = np.array([[60000, 0], [0, -60000]], dtype)
    assert metrics.cross_entropy(logits, np.array([1, 1])).tolist() == [60000, 60000]
    assert metrics.softmax(logits).tolist() == [[1, 0], [1, 0]]
    assert metrics.kl_divergence(logits, -logits).tolist() == [60000, 60000]


@settings(max_examples=60, deadline=None)
@given(arrays(np.float16, (3, 4), elements=finite), arrays(np.float16, (3, 4), elements=finite))
def test_kl_is_the_sum_over_classes(reference, candidate):
    p, q = scipy_softmax(reference.astype(float), axis=1), scipy_softmax(candidate.astype(float), axis=1)
    divergence = metrics.kl_divergence(reference, candidate)
    np.testing.assert_allclose(divergence, rel_entr(p, q).sum(axis=1), rtol=1e-9, atol=1e-12)
    assert (divergence >= 0).all()
    assert metrics.kl_divergence(reference, reference).tolist() == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 5), elements=finite), finite)
def test_softmax_sums_to_one_and_ignores_a_shift(logits, shift):
    np.testing.assert_allclose(metrics.softmax(logits).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(metrics.softmax(logits.astype(float) + shift), metrics.softmax(logits), rtol=1e-9)


def test_a_class_that_the_reference_rules_out_adds_nothing():
    reference = np.array([[0.0, 0.0, -np.inf]])
    assert metrics.kl_divergence(reference, np.zeros((1, 3)))[0] == pytest.approx(np.log(3 / 2))


def test_same_top1_compares_the_first_ranks():
    reference, candidate = np.array([[1, 2], [3, 0]], np.float32), np.array([[0, 9], [1, 2]], np.float16)
    assert metrics.same_top1(reference, candidate).tolist() == [True, False]
