"""How far a language model's predictions are from another's, token by token: both read the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..progress import SILENT, Progress
from ..tasks import Example, Task
from .worker import Worker

ROWS = 64  # tokens compared at once: float64 copies of the logits of more would fill the memory


@dataclass(frozen=True)
class Divergence:
    """The candidate from the reference, over all judged tokens; intervals at 95 %."""

    kl: float  # mean, nats per token (Kullback & Leibler 1951)
    kl_low: float
    kl_high: float
    same_top1: float  # share of the tokens before which both rank the same token first
    same_top1_low: float
    same_top1_high: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Sides:
    """What reading the same passages gave: costs (examples, 2), nats and tokens, and the sums of each passage."""

    reference: NDArray[np.float64]
    candidate: NDArray[np.float64]
    kl: NDArray[np.float64]  # (examples,), summed over the passage's tokens
    same: NDArray[np.float64]  # (examples,), how many tokens

    def divergence(self) -> Divergence | None:
        """The means with their intervals; None when the two have other tokens."""
        if not np.isfinite(self.kl).all():
            return None
        counts = self.reference[:, 1]
        total = float(counts.sum())
        low, high = _interval(self.kl, counts)
        share_low, share_high = _interval(self.same, counts)
        return Divergence(
            float(self.kl.sum()) / total, low, high, float(self.same.sum()) / total, share_low, share_high, int(total)
        )


def read_both(
    reference: Worker, candidate: Worker, task: Task, examples: Sequence[Example], progress: Progress = SILENT
) -> Sides:
    """Let two open language models read the same passages, one passage at a time.

    With other tokens than the reference's the candidate has costs, but no divergence (NaN).
    """
    rows = [_passage(*both) for both in _logits(reference, candidate, task, examples, progress)]
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Sides(table[:, 0:2], table[:, 2:4], table[:, 4], table[:, 5])


def _logits(
    reference: Worker, candidate: Worker, task: Task, examples: Sequence[Example], progress: Progress
) -> Iterator[tuple[Any, Any]]:
    for example in progress.track(examples, "passages read by both"):
        inputs = task.collate([example], {})
        for worker in (reference, candidate):  # at once: each has its own process
            worker.send("call", method="logits", arguments={"inputs": inputs})
        yield reference.receive(), candidate.receive()


def _passage(
    reference: tuple[NDArray[np.int64], NDArray[np.float32]], candidate: tuple[NDArray[np.int64], NDArray[np.float32]]
) -> tuple[float, ...]:
    """Nats and tokens of each, and the sums of the divergence and of the equal first ranks."""
    (ids, logits), (other_ids, other) = reference, candidate
    costs = (_nats(ids, logits), float(len(ids)), _nats(other_ids, other), float(len(other_ids)))
    if logits.shape != other.shape or not np.array_equal(ids, other_ids):
        return (*costs, float("nan"), float("nan"))
    parts = [slice(start, start + ROWS) for start in range(0, len(ids), ROWS)]
    kl = sum(float(metrics.kl_divergence(logits[part], other[part]).sum()) for part in parts)
    return (*costs, kl, float(metrics.same_top1(logits, other).sum()))


def _nats(ids: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    parts = [slice(start, start + ROWS) for start in range(0, len(ids), ROWS)]
    return sum(float(metrics.cross_entropy(logits[part], ids[part]).sum()) for part in parts)


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of a mean over tokens, by a Bayesian bootstrap over passages (Rubin 1981)."""
    weights = np.random.default_rng(0).standard_exponential((draws, len(sums)))
    low, high = np.quantile((weights @ sums) / (weights @ counts), (0.025, 0.975))
    return float(low), float(high)
