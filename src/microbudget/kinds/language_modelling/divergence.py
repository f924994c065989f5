"""The divergence of a language model's predictions from another's, token by token, on the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...judge.judging import Block
from ...judge.worker import Worker
from ...progress import SILENT, Progress
from ...task import Example, Task
from .predictions import Ids, Logits, Prediction, Predictions, compared_passages, judge, judge_exactly
from .task import LanguageTask


@dataclass(frozen=True)
class Divergence:
    """Of the candidate from the reference, over all judged tokens; intervals at 95 %."""

    kl: float  # mean, nats per token (Kullback & Leibler 1951)
    kl_low: float
    kl_high: float
    same_top1: float  # fraction of the tokens before which both rank the same token first
    same_top1_low: float
    same_top1_high: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same passages: costs (examples, 2), nats and tokens, and the sums over each passage."""

    reference: NDArray[np.float64]
    candidate: NDArray[np.float64]
    kl: NDArray[np.float64]  # (examples,), summed over the passage's tokens
    same: NDArray[np.float64]  # (examples,), number of tokens

    def divergence(self) -> Divergence | None:
        """The means with their intervals; None when their tokens differ."""
        return divergence(self.reference[:, 1], self.kl, self.same)


def divergence(counts: NDArray[np.float64], kl: NDArray[np.float64], same: NDArray[np.float64]) -> Divergence | None:
    """The means over all tokens, from the sums over each passage, (examples,); None where a sum is NaN."""
    total = float(counts.sum())
    if not total or not np.isfinite(kl).all():
        return None
    low, high = _interval(kl, counts)
    share_low, share_high = _interval(same, counts)
    return Divergence(float(kl.sum()) / total, low, high, float(same.sum()) / total, share_low, share_high, int(total))


def compare_both(
    reference: Worker, candidate: Worker, task: Task, examples: Sequence[Example], progress: Progress = SILENT
) -> Comparison:
    """Two open language models on the same passages, one passage at a time.

    A candidate whose tokens are not the reference's has costs, but no divergence (NaN).
    """
    rows = [passage_divergence(*both) for both in _logits(reference, candidate, task, examples, progress)]
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Comparison(table[:, 0:2], table[:, 2:4], table[:, 4], table[:, 5])


def keep_predictions(
    reference: Worker, task: LanguageTask, block: Block, kept: Predictions, progress: Progress = SILENT
) -> NDArray[np.float64]:
    """The reference's costs (examples, 2) of a block; its predictions for those that are compared are kept."""
    chosen = _compared(reference, task, block)
    costs = []
    for example, answered in _read(reference, task, block.examples, chosen, progress):
        if isinstance(answered, tuple):
            ids, logits = answered
            kept.keep(example, Prediction.of(ids, logits))
            answered = np.array([[judge(ids, logits).cost, len(ids)]])
        costs.append(answered[0])
    return np.array(costs, np.float64)


def compare_with_kept(
    workers: tuple[Callable[[], Worker], Worker],
    task: LanguageTask,
    block: Block,
    kept: Predictions,
    progress: Progress = SILENT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A candidate on a block, against the kept predictions of the reference: costs (examples, 2), sums (examples, 3).

    sums: tokens, divergence and equal first ranks, which `divergence` takes; zeros where a passage is not compared.
    workers: what opens the reference, called only for passages whose prediction was not kept; and the candidate.
    """
    reference, candidate = workers
    chosen = _compared(candidate, task, block)
    costs, rows = [], []
    for example, answered in _read(candidate, task, block.examples, chosen, progress):
        row = (0.0, 0.0, 0.0)
        if isinstance(answered, tuple):
            ids, logits = answered
            prediction = kept.get(example) or _predict(reference(), task, example, kept)
            found = prediction.judge(ids, logits)
            row = (len(ids), found.lost, found.same)
            answered = np.array([[found.cost, len(ids)]])
        costs.append(answered[0])
        rows.append(row)
    return np.array(costs, np.float64), np.array(rows, np.float64).reshape(-1, 3)


def _compared(worker: Worker, task: LanguageTask, block: Block) -> frozenset[str]:
    """The names of those passages of a block that are compared: the same for every model with one vocabulary."""
    vocabulary = int(worker.ask("call", method="about", arguments={})["vocabulary"])
    left = compared_passages(vocabulary, task.stride) - block.start
    return frozenset(example.name for example in block.examples[: max(0, left)])


def _predict(reference: Worker, task: LanguageTask, example: Example, kept: Predictions) -> Prediction:
    inputs = task.collate([example], {})
    prediction = Prediction.of(*reference.ask("call", method="logits", arguments={"inputs": inputs}))
    kept.keep(example, prediction)
    return prediction


def _read(
    worker: Worker, task: LanguageTask, examples: Sequence[Example], chosen: frozenset[str], progress: Progress
) -> Iterator[tuple[Example, Any]]:
    """Each passage with its logits, (ids, logits), where it is chosen, else with its costs, (1, 2).

    The worker reads the next one while the caller evaluates this one.
    """

    def ask(example: Example) -> None:
        inputs = task.collate([example], {})
        if example.name in chosen:
            worker.send("call", method="logits", arguments={"inputs": inputs})
        else:
            worker.send("answer", inputs=inputs)

    ask(examples[0])
    for example, following in progress.track(list(zip(examples, [*examples[1:], None], strict=True)), "passages read"):
        answered = worker.receive()
        if following is not None:
            ask(following)
        yield example, answered


def _logits(
    reference: Worker, candidate: Worker, task: Task, examples: Sequence[Example], progress: Progress
) -> Iterator[tuple[Any, Any]]:
    for example in progress.track(examples, "passages read by both"):
        inputs = task.collate([example], {})
        for worker in (reference, candidate):  # in parallel: each has its own process
            worker.send("call", method="logits", arguments={"inputs": inputs})
        yield reference.receive(), candidate.receive()


def passage_divergence(reference: tuple[Ids, Logits], candidate: tuple[Ids, Logits]) -> tuple[float, ...]:
    """Nats and tokens of each, the sum of the divergence, and the number of equal first ranks."""
    cost, found = judge(*reference).cost, judge_exactly(reference, candidate)
    return (cost, float(len(reference[0])), found.cost, float(len(candidate[0])), found.lost, found.same)


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of a mean over tokens, by a Bayesian bootstrap over passages (Rubin 1981)."""
    weights = np.random.default_rng(0).standard_exponential((draws, len(sums)))
    low, high = np.quantile((weights @ sums) / (weights @ counts), (0.025, 0.975))
    return float(low), float(high)
