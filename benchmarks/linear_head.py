"""A linear head by SciPy's L-BFGS-B against the AdamW of `training/head.py`: is it as good and as fast?

    python benchmarks/linear_head.py            prints a table (some minutes, most of them for features)

Features of MobileNetV2 on photos of flowers, with 1 and 4 views, and the pixels of scikit-learn's digits. Both ways are
fitted on train and stopped early on validation; every seed cuts new splits, and the test split is never read. L-BFGS-B
minimizes the mean cross entropy plus an L2 penalty, of which three strengths are tried.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from markdown import ROOT, table
from microbudget.kinds.image_classification.backbone import open_backbone
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.metrics import cross_entropy, softmax
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from microbudget.training.features import FeatureStore
from microbudget.training.head import Head, HeadSettings, fit_head

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
SETTINGS = HeadSettings()
PENALTIES = (1e-2, 1e-3, 1e-4)
Split = tuple[Any, Any]  # features (examples, inputs), classes (examples,)


def by_lbfgs(train: Split, validation: Split, classes: int, penalty: float) -> Head:
    """The iterate with the lowest validation loss, stopped by the patience of the AdamW head; standardized as there."""
    mean, deviation = train[0].mean(axis=0), np.maximum(train[0].std(axis=0), 1e-2 * train[0].std(axis=0).mean())
    X, held_out = ((part[0] - mean) / deviation for part in (train, validation))
    width, target = X.shape[1], np.eye(classes)[train[1]]
    losses, iterates = [], []

    def layer(flat: Any) -> tuple[Any, Any]:
        return flat[: classes * width].reshape(classes, width), flat[classes * width :]

    def objective(flat: Any) -> tuple[float, Any]:
        W, b = layer(flat)
        logits = X @ W.T + b
        delta = (softmax(logits) - target) / len(X)
        loss = cross_entropy(logits, train[1]).mean() + penalty / 2 * np.square(W).sum()
        return float(loss), np.concatenate([(delta.T @ X + penalty * W).ravel(), delta.sum(axis=0)])

    def watch(flat: Any) -> None:
        W, b = layer(flat)
        losses.append(float(cross_entropy(held_out @ W.T + b, validation[1]).mean()))
        iterates.append(flat.copy())
        if len(losses) - 1 - int(np.argmin(losses)) >= SETTINGS.patience:
            raise StopIteration

    start = np.zeros(classes * (width + 1))
    minimize(objective, start, jac=True, method="L-BFGS-B", callback=watch, options={"maxiter": 200})
    W, b = layer(iterates[int(np.argmin(losses))])
    W = W / deviation
    return Head(((W, b - W @ mean),), [])


def photos(seed: int, views: int, cache: Path) -> tuple[Split, Split, int]:
    """Features of the flowers of one split."""
    model, task = load(MODEL), ImageTask.open(PHOTOS, DataOptions(seed=seed, cache=cache))
    store = FeatureStore(open_backbone(model).graph, model.record.preprocessing or {}, cache / "features")
    train, validation = task.examples("train"), task.examples("validation")
    labels = np.array([example.label for example in train])
    rows = np.concatenate([store.rows(task, train, view, seed) for view in range(views)])
    held_out = np.array([example.label for example in validation])
    return (rows, np.tile(labels, views)), (store.rows(task, validation, 0, seed), held_out), len(task.labels)


def digits(seed: int) -> tuple[Split, Split, int]:
    """60 % of the scans to train on and 20 % for validation; the rest stays unseen."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    train, validation = order[: len(X) * 6 // 10], order[len(X) * 6 // 10 : len(X) * 8 // 10]
    X = (X / 16).astype(np.float32)
    return (X[train], y[train]), (X[validation], y[validation]), 10


def rows(name: str, data: list[tuple[Split, Split, int]]) -> Iterator[list[str]]:
    """A row of the table for each way: the mean over the seeds."""
    ways: dict[str, Any] = {"AdamW": lambda seed, *split: fit_head(*split, SETTINGS, seed)}
    for penalty in PENALTIES:
        ways[f"L-BFGS-B, penalty {penalty:g}"] = lambda _, *split, penalty=penalty: by_lbfgs(*split, penalty)
    for way, fit in ways.items():
        found = []
        for seed, (train, validation, classes) in enumerate(data):
            started = time.process_time()
            head = fit(seed, train, validation, classes)
            seconds = time.process_time() - started
            logits = head.logits(validation[0])
            right = (logits.argmax(1) == validation[1]).mean()
            found.append((right, cross_entropy(logits, validation[1]).mean(), seconds))
        accuracy, loss, seconds = np.mean(found, axis=0)
        spread = np.std([row[1] for row in found])
        yield [f"{name}: {way}", f"{accuracy:.2%}", f"{loss:.4f} ({spread:.4f})", f"{seconds:.2f} s"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        parts = [("digits", [digits(seed) for seed in seeds])]
        for views in (1, 4):
            parts.append((f"flowers, {views} views", [photos(seed, views, Path(folder)) for seed in seeds]))
        head = ("data: fitted by", "validation accuracy", "validation loss (deviation)", "processor time")
        print(table(head, [row for name, data in parts for row in rows(name, data)]))
