"""Latency: the search for the cut that reaches a measured speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption
from ...machine import files
from ...machine.stopwatch import time_calls
from ...runtimes.onnx.session import OnnxSession

ROUNDS, CALLS = 9, 5
TRIES = 6


def time_ratio(before: bytes, after: bytes, inputs: Mapping[str, NDArray[Any]], threads: int) -> float:
    """How long `after` takes in ONNX Runtime in units of `before`: the median over interleaved blocks.

    before, after: ONNX files; inputs: of one example, by name, each (1, ...).
    """
    sessions = [OnnxSession(source, threads) for source in (before, after)]
    calls: list[Callable[[], object]] = [lambda s=session: s.answer(dict(inputs)) for session in sessions]  # type: ignore[misc]
    ratios = []
    for turn in range(ROUNDS):
        order = (0, 1) if turn % 2 else (1, 0)
        medians = {index: time_calls(calls[index], CALLS).median_s for index in order}
        ratios.append(medians[1] / medians[0])
    return float(np.median(ratios))


@dataclass(frozen=True)
class Decision:
    """Channels to remove from each layer, and the time that was measured with them, as a fraction of the original's."""

    counts: tuple[int, ...]
    measured: float

    def save(self, path: Path) -> None:
        """So that a step that is made again, after a kill, does not depend on another measurement."""
        files.write_text(path, json.dumps({"counts": self.counts, "measured": self.measured}))

    @classmethod
    def read(cls, path: Path) -> Decision | None:
        """What was decided, or None."""
        try:
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(row["counts"]), float(row["measured"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def reach(
    target: float, counts_for: Callable[[float], Sequence[int]], measure: Callable[[Sequence[int]], float]
) -> Decision:
    """The mildest cut that is measured to take at most `target` of the time, by bisection of the estimated fraction.

    counts_for: estimated fraction of time -> channels to remove; raises InvalidOption where none are left to remove.
    Raises InvalidOption when even the hardest cut is too slow.
    """
    low, high, best, fastest = 0.0, 1.0, None, np.inf
    fraction = target
    for _ in range(TRIES):
        try:
            counts = tuple(counts_for(fraction))
        except InvalidOption:
            low = fraction
        else:
            found = measure(counts)
            fastest = min(fastest, found)
            if found <= target:
                best, low = Decision(counts, found), fraction
            else:
                high = fraction
        fraction = (low + high) / 2
    if best is None:
        reason = f"{fastest:.2f}x was the fastest" if np.isfinite(fastest) else "too few channels would be left"
        raise InvalidOption(f"prune: latency='{target:g}x' cannot be reached by removing channels: {reason}")
    return best
