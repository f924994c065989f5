"""A head fitted to features with what is reported of it: its epochs, its answers on validation, its learning curve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import classification_report, confusion_matrix
from ..progress import Progress
from .head import Head, HeadSettings
from .head_data import HeadData, Labels
from .learning_curve import learning_curve


def fit_and_report(
    data: HeadData, settings: HeadSettings, labels: tuple[str, ...], seed: int, progress: Progress
) -> tuple[Head, dict[str, Any]]:
    """The head, and the report of its training."""
    classes, expected = len(labels), data.held_out_labels

    def right(rows: Labels) -> NDArray[np.bool_]:
        linear = replace(settings, hidden=0, dropout=0.0)  # an mlp takes ten times as long
        answers: NDArray[np.bool_] = data.fit(classes, linear, seed, rows).logits(data.held_out).argmax(1) == expected
        return answers

    head = data.fit(classes, settings, seed)
    curve = learning_curve(right, data.labels, seed)
    report = answers_report(head.logits(data.held_out), expected, classes)
    progress.detail(f"finetune  validation accuracy {report['accuracy']:.3f}, f1 {report['f1']:.3f}; {curve}")
    return head, {"epochs": head.history, "validation": report, "learning_curve": curve.as_dict()}


def answers_report(logits: NDArray[Any], targets: Labels, classes: int) -> dict[str, Any]:
    """Accuracy, macro precision, recall, f1, and the confusion matrix. logits: (examples, classes)."""
    answers = logits.argmax(1)
    confusion = confusion_matrix(answers, targets, classes)
    return {**classification_report(answers, targets, classes), "confusion": confusion.tolist()}
