"""Metrics of classifiers, example by example, and the divergence of two models' answers. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Classes = NDArray[np.integer[Any]]
Logits = NDArray[np.floating[Any]]


def accuracy_scores(predictions: Classes, labels: Classes) -> Floats:
    """1 where the prediction is the label, else 0: (examples,)."""
    return np.asarray(np.asarray(predictions) == np.asarray(labels), np.float64)


def confusion_matrix(predictions: Classes, labels: Classes, classes: int) -> NDArray[np.int64]:
    """Counts of examples by true class (rows) and predicted class (columns): (classes, classes).

    Where a prediction is none of these classes there is one more column, for all of those.
    """
    columns = classes + bool((np.asarray(predictions) >= classes).any())
    within = np.minimum(np.asarray(predictions), classes)
    counts = np.bincount(np.asarray(labels) * columns + within, minlength=classes * columns)
    return counts.astype(np.int64).reshape(classes, columns)


def macro(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Precision, recall and F1, each the mean over the classes that occur as label or prediction.

    confusion: (true class, predicted class), of `confusion_matrix`. A class that is never predicted has precision 0,
    one without examples recall 0. Without any example all are NaN.
    """
    classes = len(confusion)
    hits, predicted, true = np.diag(confusion), confusion.sum(axis=0)[:classes], confusion.sum(axis=1)
    occurs = (predicted + true) > 0
    if not occurs.any():
        return dict.fromkeys(("precision", "recall", "f1"), float("nan"))
    shares = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(predicted + true, 1),
    }
    return {name: float(share[occurs].mean()) for name, share in shares.items()}


def matthews(confusion: NDArray[np.int64]) -> float:
    """Matthews's correlation of predictions and labels, in [-1, 1] (Gorodkin 2004, eq. 8); 0 where either is constant.

    confusion: (true class, predicted class), of `confusion_matrix`.
    """
    counts = confusion.astype(np.float64)
    square = np.zeros((max(counts.shape),) * 2)
    square[: counts.shape[0], : counts.shape[1]] = counts
    total, right = square.sum(), np.trace(square)
    true, predicted = square.sum(axis=1), square.sum(axis=0)
    spread = (total**2 - (true**2).sum()) * (total**2 - (predicted**2).sum())
    return float((right * total - (true * predicted).sum()) / np.sqrt(spread)) if spread > 0 else 0.0


def classification_report(predictions: Classes, labels: Classes, classes: int) -> dict[str, float]:
    """Accuracy, and macro precision, recall and f1. predictions, labels: (examples,) class indices below `classes`."""
    confusion = confusion_matrix(predictions, labels, classes)
    accuracy = float(np.trace(confusion) / confusion.sum()) if confusion.any() else float("nan")
    return {"accuracy": accuracy, **macro(confusion)}


def log_softmax(logits: Logits) -> Floats:
    """Natural logarithm of the classes' probabilities, in float64: (..., classes)."""
    exact = np.asarray(logits, np.float64)
    shifted = exact - exact.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(logits: Logits) -> Floats:
    """Probabilities of the classes, in float64: (..., classes)."""
    return np.exp(log_softmax(logits))


def cross_entropy(logits: Logits, labels: Classes) -> Floats:
    """Nats that the label costs under the model: logits (examples, classes), labels (examples,) -> (examples,)."""
    return -np.take_along_axis(log_softmax(logits), np.asarray(labels)[:, None], axis=-1)[:, 0]


def kl_divergence(reference: Logits, candidate: Logits) -> Floats:
    """Nats lost when the candidate's probabilities replace the reference's: (examples, classes) -> (examples,).

    Kullback & Leibler 1951. A class that the reference gives no probability (logit -inf) adds nothing.
    """
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    p = np.exp(log_p)
    terms = np.multiply(p, np.subtract(log_p, log_q, where=p > 0, out=np.zeros_like(p)))
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))  # rounding can fall below zero


def same_top1(reference: Logits, candidate: Logits) -> NDArray[np.bool_]:
    """Whether both models rank the same class first: (examples, classes) -> (examples,)."""
    return np.asarray(np.argmax(reference, axis=-1) == np.argmax(candidate, axis=-1))
