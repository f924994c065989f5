"""Secondary data: what a task brings besides (`task.secondary`), on which its models are judged too.

Such as questions with a text: the limit of the budget is on one metric, by which the best is chosen; the secondary one
is judged against LOSS, and nothing is chosen by it.
"""

from __future__ import annotations

from typing import Any

from ..task import Scores, Task
from ..units import Drop
from .evidence import is_unbounded
from .judging import Judging, judging_of
from .quality import Quality
from .sequential import look
from .verdict import judge_pair

SECONDARY = "secondary"  # in `extra` of a Measurement and of a Comparison
LOSS = 0.01  # that is allowed: 1 point, 1 % of bits per byte


def secondary_judging(task: Task) -> Judging | None:
    """How the other data of a task are judged; None where it has none."""
    other: Task | None = getattr(task, "secondary", None)
    return None if other is None else judging_of(other)


def limit_of(scores: Scores) -> Drop:
    """The limit on the loss, as the metric can have it."""
    return Drop(LOSS, relative=is_unbounded(scores))


def about(quality: Quality) -> dict[str, Any]:
    """What a Measurement reports of the other data, JSON-ready."""
    return {
        "metric": quality.scores.metric,
        "examples": len(quality.scores.numerator),
        "quality": quality.scores.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        **quality.extra,
    }


def compared(quality: Quality, reference: Quality, *, seed: int = 0) -> dict[str, Any]:
    """As `about`, with the change from the reference on the same examples, whose number was fixed before, and verdict.

    The change is above 0 where the model is better, and relative for bits per byte, as in a Verdict.
    """
    limit = limit_of(quality.scores)
    verdict = judge_pair(reference.scores, quality.scores, limit, seed=seed)
    change = (verdict.change, verdict.change_low, verdict.change_high)
    return {**_against(quality, reference, limit, change), "verdict": verdict.decision}


def compared_so_far(quality: Quality, reference: Quality) -> tuple[dict[str, Any], bool]:
    """As `compared`, however often one looks; and whether it is decided (`judge.sequential`)."""
    limit = limit_of(quality.scores)
    found = look(reference.scores, quality.scores, limit)
    row = _against(quality, reference, limit, (found.change, found.low, found.high))
    return {**row, "verdict": found.decision or "not shown"}, found.decision is not None


def _against(quality: Quality, reference: Quality, limit: Drop, change: tuple[float, float, float]) -> dict[str, Any]:
    """change: the estimate with its interval."""
    named = dict(zip(("change", "change_low", "change_high"), change, strict=True))
    return {**about(quality), **named, "reference": reference.scores.value, "limit": str(limit)}
