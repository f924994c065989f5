"""Beside: a task may bring other data (`task.beside`), on which its models are judged too, without a limit.

Such as questions beside a text: the limit is on one metric, and the other is reported with its paired change.
"""

from __future__ import annotations

from typing import Any

from ..task import Task
from .judging import Judging, judging_of
from .quality import Quality
from .verdict import judge_pair

BESIDE = "beside"  # in `extra` of a Measurement and of a Comparison


def judging_beside(task: Task) -> Judging | None:
    """How the other data of a task are judged; None where it has none."""
    other: Task | None = getattr(task, "beside", None)
    return None if other is None else judging_of(other)


def about(quality: Quality, reference: Quality | None = None, *, seed: int = 0) -> dict[str, Any]:
    """What a Measurement reports of the other data, JSON-ready. reference: on the same examples, for the change.

    The change is above 0 where the model is better, and relative for bits per byte, as in a Verdict.
    """
    found: dict[str, Any] = {
        "metric": quality.scores.metric,
        "examples": len(quality.scores.numerator),
        "quality": quality.scores.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        **quality.extra,
    }
    if reference is not None:
        verdict = judge_pair(reference.scores, quality.scores, None, seed=seed)
        found |= {"change": verdict.change, "change_low": verdict.change_low, "change_high": verdict.change_high}
        found["reference"] = reference.scores.value
    return found
