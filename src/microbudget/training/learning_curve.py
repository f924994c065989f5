"""The learning curve: how accuracy grows with the number of labelled examples, and what more of them would buy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.processor import cores

Bools = NDArray[np.bool_]
FRACTIONS = (0.25, 0.4, 0.6)
DRAWS = 2
RESAMPLES = 1000


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy on validation at several sizes of the train split, and what `more_per_class` examples would add."""

    examples: list[int]  # size of the train split of each point
    accuracy: list[float]  # mean over the draws of that size
    more_per_class: int
    gain: float  # in accuracy, at the extrapolated size against all that there is
    gain_low: float  # 95 % interval
    gain_high: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.gain_low * 100, self.gain_high * 100
        gain = f"{self.gain * 100:+.1f} pt ({low:.1f}..{high:.1f})"
        return f"another {self.more_per_class} examples per class would buy {gain}"


def learning_curve(
    fit: Callable[[NDArray[np.intp]], Bools],
    labels: NDArray[np.integer[Any]],
    seed: int,
    more_per_class: int = 40,
) -> LearningCurve:
    """Fit on parts of the train split and extrapolate with a power law (Hestness et al. 2017: error = a * n ** -b).

    fit: row numbers of the train split -> which validation examples are answered correctly, (validation,).
    labels: the train split's classes, (train,).
    The interval comes from resampling the validation examples, the same for all sizes, since they are shared.
    """
    draws = [
        stratified(labels, fraction, np.random.default_rng([seed, draw]))
        for fraction in FRACTIONS
        for draw in range(DRAWS)
    ]
    parts = [np.arange(len(labels)), *(rows for rows in draws if len(rows) < len(labels))]
    with ThreadPoolExecutor(cores()) as pool:
        answers = np.array(list(pool.map(fit, parts)))
    n = np.array([len(rows) for rows in parts])
    more = len(labels) + more_per_class * len(np.unique(labels))
    rng = np.random.default_rng(seed)
    resampled = rng.integers(answers.shape[1], size=(RESAMPLES, answers.shape[1]))
    gains = _gain(n, np.stack([(~row)[resampled].mean(axis=1) for row in answers]), answers.shape[1], more)
    estimate = _gain(n, (~answers).mean(axis=1)[:, None], answers.shape[1], more)
    low, high = np.quantile(gains, [0.025, 0.975])
    points = np.unique(n)
    accuracy = [float(answers[n == size].mean()) for size in points]
    return within_room(
        LearningCurve([int(size) for size in points], accuracy, more_per_class, float(estimate[0]), low, high)
    )


def within_room(curve: LearningCurve) -> LearningCurve:
    """The curve without the gains beyond 100 %: the fit smooths its errors, and would promise more than is missing."""
    room = max(0.0, 1 - curve.accuracy[-1])
    return replace(curve, **{name: min(getattr(curve, name), room) for name in ("gain", "gain_low", "gain_high")})


def stratified(labels: NDArray[np.integer[Any]], fraction: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Row numbers of that fraction of each class, at least one."""
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(rows)[: max(1, round(len(rows) * fraction))])
    return np.sort(np.concatenate(chosen))


def _gain(n: NDArray[np.intp], error: NDArray[np.float64], held_out: int, more: int) -> NDArray[np.float64]:
    """What `more` examples add to the accuracy: error (sizes, resamples) -> (resamples,), never below zero."""
    smoothed = np.log((error * held_out + 0.5) / (held_out + 1))  # no logarithm of zero errors
    x = np.log(n)[:, None] - np.log(n).mean()
    slope = np.minimum((x * smoothed).sum(axis=0) / max(float((x * x).sum()), 1e-12), 0.0)
    now = np.exp(smoothed.mean(axis=0) + slope * (np.log(n.max()) - np.log(n).mean()))
    then = np.exp(smoothed.mean(axis=0) + slope * (np.log(more) - np.log(n).mean()))
    gain: NDArray[np.float64] = now - then
    return gain
