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
from ...machine.stopwatch import Block, time_calls
from ...machine.waiting import WAITED, waiting_share
from ...runtimes.onnx.session import OnnxSession

ROUNDS, CALLS = 9, 5  # undisturbed ones, each of so many calls
FEWEST_ROUNDS, MOST_ROUNDS = 5, 27  # undisturbed ones that suffice, and all
TRIES = 6


@dataclass(frozen=True)
class Ratio:
    """How long a network takes in units of another. waited: for a processor, as a share of the time; 0: unknown."""

    times: float
    waited: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether other programs had the processor meanwhile."""
        return self.waited >= WAITED


def time_ratio(before: bytes, after: bytes, inputs: Mapping[str, NDArray[Any]], threads: int) -> Ratio:
    """How long `after` takes in ONNX Runtime in units of `before`: the median over interleaved blocks.

    Rounds in which other programs have the processor are left out, up to a number. before, after: ONNX files; inputs:
    of one example, by name, each (1, ...).
    """
    sessions = [OnnxSession(source, threads) for source in (before, after)]
    calls: list[Callable[[], object]] = [lambda s=session: s.answer(dict(inputs)) for session in sessions]  # type: ignore[misc]
    rounds: list[tuple[Block, Block]] = []
    while sum(_quiet(each) for each in rounds) < ROUNDS and len(rounds) < MOST_ROUNDS:
        order = (0, 1) if len(rounds) % 2 else (1, 0)
        blocks = {index: time_calls(calls[index], CALLS) for index in order}
        rounds.append((blocks[0], blocks[1]))
    quiet = [each for each in rounds if _quiet(each)]
    chosen = quiet if len(quiet) >= FEWEST_ROUNDS else rounds
    ratio = np.median([second.median_s / first.median_s for first, second in chosen])
    return Ratio(float(ratio), float(np.mean([block.waited or 0.0 for pair in chosen for block in pair])))


def _quiet(pair: tuple[Block, Block]) -> bool:
    return pair[0].quiet and pair[1].quiet


@dataclass(frozen=True)
class Decision:
    """Channels to remove from each layer, and the time that was measured with them, as a fraction of the original's.

    waited: see Ratio.
    """

    counts: tuple[int, ...]
    measured: float
    waited: float = 0.0

    def save(self, path: Path) -> None:
        """So that a step that is made again, after a kill, does not depend on another measurement."""
        files.write_text(path, json.dumps({"counts": self.counts, "measured": self.measured, "waited": self.waited}))

    @classmethod
    def read(cls, path: Path, waiting: Callable[[], float | None] = waiting_share) -> Decision | None:
        """What was decided, or None: also for what was measured on a busy machine, where it is quiet now.

        waiting: for what share of the time a thread waits for a processor now.
        """
        try:
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = cls(tuple(row["counts"]), float(row["measured"]), float(row.get("waited", 0.0)))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None if found.waited >= WAITED and (waiting() or 0.0) < WAITED else found


def reach(
    target: float, counts_for: Callable[[float], Sequence[int]], measure: Callable[[Sequence[int]], Ratio]
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
            fastest = min(fastest, found.times)
            if found.times <= target:
                best, low = Decision(counts, found.times, found.waited), fraction
            else:
                high = fraction
        fraction = (low + high) / 2
    if best is None:
        reason = f"{fastest:.2f}x was the fastest" if np.isfinite(fastest) else "too few channels would be left"
        raise InvalidOption(f"prune: latency='{target:g}x' cannot be reached by removing channels: {reason}")
    return best
