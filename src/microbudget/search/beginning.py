"""shrink_one_of(): several networks in, one of which is chosen and made smaller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

from ..judge.budget import Budget
from ..model import Model
from ..runs.run import Run, without_trace
from ..task import Data
from .choosing import choose, made_of, opened
from .options import RunKeywords, read_keywords
from .result import Shrunk
from .shrink import shrink


def shrink_one_of(
    models: Sequence[str | Path | Model],
    data: Data,
    budget: Budget | None = None,
    *,
    out: str | Path,
    **options: Unpack[RunKeywords],
) -> Shrunk:
    """As `choose`, then as `shrink` of the network that it says to begin with, in what is left of the minutes.

    The choice is in OUT/choose.json; the same call again goes on with it. Raises what the two raise.
    """
    how, limits = read_keywords(budget, options)
    begun, folder = time.monotonic(), Path(out)
    with without_trace(folder):
        given = opened(models)
        kept = None if how.force else Run(folder).beginning
        if kept is None or kept.get("made_of") != made_of(given, data, limits, how):
            choose(models, data, limits, out=folder, **cast(RunKeywords, how.__dict__))
            kept = Run(folder).beginning
        assert kept is not None
        for line in _about(kept):
            how.progress.say(line)
        chosen = next(model for model in given if str(model.path.resolve()) == kept["path"])
        if limits.minutes is not None:
            left = limits.minutes - (time.monotonic() - begun) / 60
            limits = replace(limits, minutes=max(left, limits.minutes / 2))
        return shrink(chosen, data, limits, out=folder, **cast(RunKeywords, how.__dict__))


def _about(kept: dict[str, Any]) -> list[str]:
    """Which network it begins with, and why."""
    begin = kept["shapes"][kept["begin"]]["network"]
    reasons = [text for text in (kept["why"], kept["advice"]) if text]
    return [f"begins    with {begin}: {'; '.join(reasons)}"]
