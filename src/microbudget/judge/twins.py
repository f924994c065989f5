"""Timing in blocks: one model alone, or two that take turns in processes of their own.

Each pair of blocks is in random order, so whatever comes and goes on the machine hits both alike, and the interval of
the ratio comes from the pairs. Blocks go on until the interval is narrow enough or the time is up.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import Failed
from ..machine import load_average
from ..stopwatch import Block
from ..tasks import Inputs
from . import intervals
from .worker import Worker

SpeedVerdict = Literal["faster", "slower", "no difference shown"]

BLOCK_S = 0.03  # long enough for a few time slices of a scheduler, short enough that both twins meet the same weather
FEWEST_CALLS = 3
WARM_S, WARM_CALLS = 0.003, 3  # the first calls of a block find cold caches: so much time or so many are not counted
FIRST_LOOK = 24  # blocks, before the interval may end the timing
SLOW_CALL_S = 1.0  # a call this long is a block of its own
RESOLUTION = 0.01  # differences below this come and go with the memory layout of a process (Mytkowicz et al. 2009)


@dataclass(frozen=True)
class Timing:
    """The time of one model's calls; `low_s` and `high_s` bound the median at 95 %."""

    median_s: float
    low_s: float
    high_s: float
    p90_s: float
    throughput_per_s: float  # examples per second
    processor_s: float  # of all threads, per call
    blocks: int
    batch: int = 1
    dropped: dict[str, int] = field(default_factory=dict)  # blocks that cannot be believed, by reason
    load_average: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class PairTiming:
    """Two models in turns. `ratio` is reference over candidate: above 1 the candidate is faster."""

    ratio: float
    low: float
    high: float
    reference: Timing
    candidate: Timing
    pairs: int
    settled: bool  # the interval became as narrow as was asked for
    dropped: dict[str, int] = field(default_factory=dict)
    load_average: float | None = None

    @property
    def verdict(self) -> SpeedVerdict:
        """What the interval shows; a difference below the resolution of 1 % is never called."""
        if self.low > 1 + RESOLUTION:
            return "faster"
        return "slower" if self.high < 1 / (1 + RESOLUTION) else "no difference shown"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Plan:
    """How many calls make a block of one model."""

    calls: int
    dropped: int


def plan(worker: Worker, block_s: float = BLOCK_S) -> Plan:
    """A block of about `block_s`, from a first short block that is not counted."""
    first_s = worker.time_block(1, 0).median_s
    if first_s > SLOW_CALL_S:
        return Plan(1, 0)
    call_s = worker.time_block(FEWEST_CALLS, 1).median_s
    dropped = min(WARM_CALLS, max(1, math.ceil(WARM_S / call_s)))
    return Plan(max(FEWEST_CALLS, min(1000, math.ceil(block_s / call_s))), dropped)


def summary(blocks: list[Block], batch: int = 1, dropped: Counter[str] | None = None) -> Timing:
    """The Timing of believable blocks."""
    middle, low, high = intervals.median(np.array([block.median_s for block in blocks]))
    durations = np.concatenate([block.durations_ns for block in blocks])
    return Timing(
        median_s=middle,
        low_s=low,
        high_s=high,
        p90_s=float(np.quantile(durations, 0.9)) * 1e-9,
        throughput_per_s=batch * len(durations) / (float(durations.sum()) * 1e-9),
        processor_s=float(np.median([block.processor_s for block in blocks])),
        blocks=len(blocks),
        batch=batch,
        dropped=dict(dropped or {}),
        load_average=load_average(),
    )


def log_ratios(pairs: list[tuple[Block, Block]]) -> intervals.Floats:
    """log(reference / candidate) of each pair of blocks, (pairs,)."""
    return np.array([math.log(a.median_s / b.median_s) for a, b in pairs])


class _Round:
    """Blocks, or pairs of them, are taken until they are settled or the time is up."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.kept = 0
        self.dropped = Counter[str]()
        self.settled = False
        self._next_look = FIRST_LOOK

    def goes_on(self) -> bool:
        """Whether to take another one. Raises Failed when none can be believed."""
        if self.settled:
            return False
        late = time.monotonic() >= self._deadline
        if late and self.kept < intervals.FEWEST and self.dropped.total() > 3 * intervals.FEWEST:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())
            raise Failed(f"no timing can be believed: {reasons}. Try again when the machine is steady")
        return not late or self.kept < intervals.FEWEST

    def believe(self, trouble: str | None) -> bool:
        """Count a block, or drop it for its trouble."""
        if trouble:
            self.dropped[trouble] += 1
        else:
            self.kept += 1
        return not trouble

    def due(self) -> bool:
        """Whether to look at the interval: from the 24th on, at every sixth more, since looking costs time too."""
        if self.kept < self._next_look:
            return False
        self._next_look = self.kept + max(6, self.kept // 6)
        return True


def time_one(worker: Worker, inputs: Inputs, *, seconds: float = 3.0, precision: float = 0.01) -> Timing:
    """Time one open model with these inputs, a batch.

    Until the half-width of the median's interval is below `precision` of it, or the time is up. Raises Failed when
    the clocks are so unsteady that no block can be believed.
    """
    worker.prepare(inputs)
    chosen, blocks, so_far = plan(worker), list[Block](), _Round(seconds)
    while so_far.goes_on():
        block = worker.time_block(chosen.calls, chosen.dropped)
        if so_far.believe(block.trouble):
            blocks.append(block)
            so_far.settled = so_far.due() and _narrow_median(blocks, precision)
    return summary(blocks, batch_size(inputs), so_far.dropped)


def _narrow_median(blocks: list[Block], precision: float) -> bool:
    middle, low, high = intervals.median(np.array([block.median_s for block in blocks]))
    return high - low <= 2 * precision * middle


def batch_size(inputs: Inputs) -> int:
    """Examples in a batch of inputs."""
    return len(next(iter(inputs.values())))


@dataclass(frozen=True)
class Turns:
    """The believable pairs of blocks (reference, candidate) in time order, and why the others were dropped."""

    pairs: list[tuple[Block, Block]]
    dropped: Counter[str]
    settled: bool


def take_turns(
    reference: Worker,
    candidate: Worker,
    inputs: Inputs,
    candidate_inputs: Inputs,
    *,
    seconds: float = 10.0,
    precision: float = 0.01,
    seed: int = 0,
) -> Turns:
    """Run two open models in turns until the ratio is known to `precision`, or the time is up. Raises Failed."""
    reference.prepare(inputs)
    candidate.prepare(candidate_inputs)
    twins = ((reference, plan(reference)), (candidate, plan(candidate)))
    coin, pairs, so_far = np.random.default_rng(seed), list[tuple[Block, Block]](), _Round(seconds)
    while so_far.goes_on():
        blocks: dict[int, Block] = {}
        for side in coin.permutation(2).tolist():
            worker, chosen = twins[side]
            blocks[side] = worker.time_block(chosen.calls, chosen.dropped)
        if so_far.believe(pair_trouble(blocks[0], blocks[1])):
            pairs.append((blocks[0], blocks[1]))
            so_far.settled = so_far.due() and _narrow(pairs, precision)
    return Turns(pairs, so_far.dropped, so_far.settled)


def time_pair(
    reference: Worker,
    candidate: Worker,
    inputs: Inputs,
    candidate_inputs: Inputs | None = None,
    *,
    seconds: float = 10.0,
    precision: float = 0.01,
    seed: int = 0,
) -> PairTiming:
    """Time two open models in turns until the half-width of the ratio's interval is below `precision`.

    candidate_inputs: where the candidate takes another input (a smaller image). The twin that waits is blocked on a
    pipe and uses no processor time. Raises Failed when no pair of blocks can be believed.
    """
    other = inputs if candidate_inputs is None else candidate_inputs
    turns = take_turns(reference, candidate, inputs, other, seconds=seconds, precision=precision, seed=seed)
    return judge_pairs(turns, batch_size(inputs))


def pair_trouble(a: Block, b: Block) -> str | None:
    """Why a pair of blocks cannot be believed, or None."""
    if a.trouble or b.trouble:
        return a.trouble or b.trouble
    return None if a.cores == b.cores else f"the cores changed from {a.cores} to {b.cores}"


def _narrow(pairs: list[tuple[Block, Block]], precision: float) -> bool:
    _, low, high = intervals.shift(log_ratios(pairs))
    return high - low <= 2 * precision


def judge_pairs(turns: Turns, batch: int = 1) -> PairTiming:
    """The ratio of the medians with its interval, and what each of the two takes."""
    ratio, low, high = (math.exp(bound) for bound in intervals.shift(log_ratios(turns.pairs)))
    return PairTiming(
        ratio=ratio,
        low=low,
        high=high,
        reference=summary([a for a, _ in turns.pairs], batch),
        candidate=summary([b for _, b in turns.pairs], batch),
        pairs=len(turns.pairs),
        settled=turns.settled,
        dropped=dict(turns.dropped),
        load_average=load_average(),
    )
