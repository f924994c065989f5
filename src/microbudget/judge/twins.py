"""Timing in blocks: one model alone, or two that take turns in processes of their own.

Each pair of blocks is in random order, so whatever comes and goes on the machine hits both alike, and the interval of
the ratio comes from the pairs. Blocks go on until the interval is narrow enough or the time is up. What a process keeps
for life (where its pages lie) only shows when the two are opened anew: so they are, where that does not take too long.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import Failed
from ..machine.processor import load_average
from ..machine.stopwatch import Block
from ..task import Inputs
from . import intervals
from .worker import Worker

SpeedVerdict = Literal["faster", "slower", "no difference shown"]
Again = Callable[[], AbstractContextManager[tuple[Worker, Worker]]]  # opens the same two models in fresh processes

BLOCK_S = 0.03  # long enough for a few time slices of a scheduler, short enough that both twins meet the same weather
FEWEST_CALLS = 3
WARM_S, WARM_CALLS = 0.003, 3  # the first calls of a block find cold caches: so much time or so many are not counted
FIRST_LOOK = 24  # blocks, before the interval may end the timing
OPENINGS, FEWEST_OPENINGS = 8, 5  # of the two processes; below 5 Student's quantile makes the interval useless
OPENING_PAIRS = 3  # of blocks, of each opening
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
    openings: int = 1  # of the two processes; the interval of one does not hold what another one would bring
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
    block_s: float  # about, the dropped calls included


def plan(worker: Worker, block_s: float = BLOCK_S) -> Plan:
    """A block of about `block_s`, from a first short block that is not counted."""
    first_s = worker.time_block(1, 0).median_s
    if first_s > SLOW_CALL_S:
        return Plan(1, 0, first_s)
    call_s = worker.time_block(FEWEST_CALLS, 1).median_s
    dropped = min(WARM_CALLS, max(1, math.ceil(WARM_S / call_s)))
    calls = max(FEWEST_CALLS, min(1000, math.ceil(block_s / call_s)))
    return Plan(calls, dropped, (calls + dropped) * call_s)


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
    """Blocks, or pairs of them, are taken until they are settled or the time is up, and at least `fewest`."""

    def __init__(self, seconds: float, fewest: int = intervals.FEWEST, first_look: int = FIRST_LOOK) -> None:
        self._deadline = time.monotonic() + seconds
        self._fewest, self._next_look = fewest, first_look
        self.kept = 0
        self.dropped = Counter[str]()
        self.settled = False

    def goes_on(self) -> bool:
        """Whether to take another one. Raises Failed when none can be believed."""
        if self.settled:
            return False
        late = time.monotonic() >= self._deadline
        if late and self.kept < self._fewest and self.dropped.total() > 3 * intervals.FEWEST:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())
            raise Failed(f"no timing can be believed: {reasons}. Try again when the machine is steady")
        return not late or self.kept < self._fewest

    def believe(self, trouble: str | None) -> bool:
        """Count a block, or drop it for its trouble."""
        if trouble:
            self.dropped[trouble] += 1
        else:
            self.kept += 1
        return not trouble

    def due(self) -> bool:
        """Whether to look at the interval: from the first look on, at every sixth more, since looking costs time."""
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


@dataclass
class Turns:
    """The believable pairs of blocks (reference, candidate) in time order, and why the others were dropped."""

    pairs: list[tuple[Block, Block]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    settled: bool = False
    openings: list[int] = field(default_factory=list)  # of each pair of blocks: the how many-th of the processes

    def shift(self) -> tuple[float, float, float]:
        """The log of the ratio with its interval."""
        return intervals.shift(log_ratios(self.pairs), openings=np.array(self.openings, int))

    def narrow(self, precision: float) -> bool:
        """Whether the half-width of the interval is below `precision`."""
        _, low, high = self.shift()
        return high - low <= 2 * precision


class _Match:
    """Two models that take turns, in one opening of their processes after the other."""

    def __init__(self, inputs: tuple[Inputs, Inputs], seed: int) -> None:
        self._inputs, self._coin = inputs, np.random.default_rng(seed)
        self._twins: list[tuple[Worker, Plan]] = []
        self._opening = -1
        self.turns = Turns()

    def bring(self, *workers: Worker) -> None:
        """The next opening: two open models."""
        for worker, inputs in zip(workers, self._inputs, strict=True):
            worker.prepare(inputs)
        self._twins = [(worker, plan(worker)) for worker in workers]
        self._opening += 1

    def openings(self, seconds: float) -> int:
        """How many openings `seconds` of blocks are shared among: they may take as long again, and not hold too few."""
        open_s = sum(worker.open_s for worker, _ in self._twins)
        turn_s = sum(chosen.block_s for _, chosen in self._twins)
        count = min(OPENINGS, 1 + seconds / max(open_s, 1e-9), seconds / (OPENING_PAIRS * turn_s))
        return int(count) if count >= FEWEST_OPENINGS else 1

    def take(self, so_far: _Round, precision: float) -> None:
        """Pairs of blocks of this opening, until its own interval is narrow enough or its time is up."""
        first = len(self.turns.pairs)
        while so_far.goes_on():
            blocks: dict[int, Block] = {}
            place = int(self._coin.integers(2**32))
            for side in self._coin.permutation(2).tolist():
                worker, chosen = self._twins[side]
                blocks[side] = worker.time_block(chosen.calls, chosen.dropped, place)
            if so_far.believe(pair_trouble(blocks[0], blocks[1])):
                self.turns.pairs.append((blocks[0], blocks[1]))
                self.turns.openings.append(self._opening)
                so_far.settled = so_far.due() and _half_width(self.turns.pairs[first:]) <= precision
        self.turns.dropped += so_far.dropped
        self.turns.settled = so_far.settled


def take_turns(
    reference: Worker,
    candidate: Worker,
    inputs: Inputs,
    candidate_inputs: Inputs,
    *,
    seconds: float = 10.0,
    precision: float = 0.01,
    seed: int = 0,
    again: Again | None = None,
) -> Turns:
    """Run two open models in turns until the ratio is known to `precision`, or the time is up. Raises Failed.

    again: opens the two anew, for as many openings as take no longer than the blocks. Without it the first is all.
    """
    match = _Match((inputs, candidate_inputs), seed)
    match.bring(reference, candidate)
    count = match.openings(seconds) if again else 1
    if again is None or count == 1:
        match.take(_Round(seconds), precision)
        return match.turns
    turns = match.turns
    own = precision * math.sqrt(count) / 2  # half of the variance is left for what openings differ by
    match.take(_Round(seconds / count, OPENING_PAIRS, intervals.FEWEST), own)
    for number in range(2, count + 1):
        with again() as twins:
            match.bring(*twins)
            match.take(_Round(seconds / count, OPENING_PAIRS, intervals.FEWEST), own)
        turns.settled = number >= FEWEST_OPENINGS and turns.narrow(precision)
        if turns.settled:
            break
    return turns


def time_pair(
    reference: Worker,
    candidate: Worker,
    inputs: Inputs,
    candidate_inputs: Inputs | None = None,
    *,
    seconds: float = 10.0,
    precision: float = 0.01,
    seed: int = 0,
    again: Again | None = None,
) -> PairTiming:
    """Time two open models in turns until the half-width of the ratio's interval is below `precision`.

    candidate_inputs: where the candidate takes another input (a smaller image). again: opens the two anew; with it the
    interval holds what differs from one opening of the processes to the next, and the time may double. The twin that
    waits is blocked on a pipe and uses no processor time. Raises Failed when no pair of blocks can be believed.
    """
    other = inputs if candidate_inputs is None else candidate_inputs
    turns = take_turns(
        reference, candidate, inputs, other, seconds=seconds, precision=precision, seed=seed, again=again
    )
    return judge_pairs(turns, batch_size(inputs))


def pair_trouble(a: Block, b: Block) -> str | None:
    """Why a pair of blocks cannot be believed, or None."""
    if a.trouble or b.trouble:
        return a.trouble or b.trouble
    return None if a.cores == b.cores else f"the cores changed from {a.cores} to {b.cores}"


def _half_width(pairs: list[tuple[Block, Block]]) -> float:
    _, low, high = intervals.shift(log_ratios(pairs))
    return (high - low) / 2


def judge_pairs(turns: Turns, batch: int = 1) -> PairTiming:
    """The ratio of the medians with its interval, and what each of the two takes."""
    ratio, low, high = (math.exp(bound) for bound in turns.shift())
    return PairTiming(
        ratio=ratio,
        low=low,
        high=high,
        reference=summary([a for a, _ in turns.pairs], batch),
        candidate=summary([b for _, b in turns.pairs], batch),
        pairs=len(turns.pairs),
        settled=turns.settled,
        openings=len(set(turns.openings)),
        dropped=dict(turns.dropped),
        load_average=load_average(),
    )
