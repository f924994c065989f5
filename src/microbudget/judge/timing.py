"""Timing in blocks: of one model alone, or of two whose blocks are interleaved, each in a process of its own.

The two blocks of a pair run in random order, so that both meet the same background load; the interval of the ratio
comes from the pairs. Blocks are timed until the interval is narrow enough or the time is up. What a process keeps for
life (the addresses of its pages) shows only when the two are opened again: so they are, where that does not take too
long.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import Failed
from ..machine.processor import load_average
from ..machine.stopwatch import Block
from ..task import Inputs
from . import busy, intervals
from .worker import Worker

SpeedVerdict = Literal["faster", "slower", "no difference shown"]
Reopen = Callable[[], AbstractContextManager[tuple[Worker, Worker]]]  # the same two models in fresh processes

BLOCK_S = 0.03  # a few time slices of a scheduler; short enough that both models meet the same background load
FEWEST_CALLS = 3
WARM_S, WARM_CALLS = 0.003, 3  # the first calls of a block find cold caches: this time or number is not counted
FIRST_LOOK = 24  # blocks, before the interval may end the timing
OPENINGS, FEWEST_OPENINGS = 8, 5  # of the two processes; below 5 Student's quantile makes the interval useless
OPENING_PAIRS = 3  # of blocks, of each opening
OPENING_SD = (
    0.009  # of the log of a ratio, from one opening to the next: .8 % in float32, .4 % in int8 (docs/measuring.md)
)
SLOW_CALL_S = 1.0  # a call this long is a block of its own
PRECISION = 0.01  # half-width of the interval, relative, at which the timing ends
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
    dropped: dict[str, int] = field(default_factory=dict)  # unreliable and disturbed blocks, by reason
    load_average: float | None = None
    waited: float | None = None  # for a processor: share of the time, of all threads
    busy: str = ""  # why this is the time on a busy machine

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def scaled(self, factor: float, low: float, high: float) -> Timing:
        """All times multiplied by a factor, the interval by one for each of its ends."""
        return replace(
            self,
            median_s=self.median_s * factor,
            low_s=self.median_s * low,
            high_s=self.median_s * high,
            p90_s=self.p90_s * factor,
            throughput_per_s=self.throughput_per_s / factor,
            processor_s=self.processor_s * factor,
        )


@dataclass(frozen=True)
class PairTiming:
    """Two models, interleaved. `ratio` is reference over candidate: above 1 the candidate is faster.

    The candidate's times are the reference's over the ratio and its interval, so that all of them agree.
    """

    ratio: float
    low: float
    high: float
    reference: Timing
    candidate: Timing
    pairs: int
    settled: bool  # the interval became narrow enough
    openings: int = 1  # of the two processes; the interval of one holds what openings usually vary by
    dropped: dict[str, int] = field(default_factory=dict)
    load_average: float | None = None
    waited: float | None = None  # for a processor: share of the time, of all threads of both
    busy: str = ""  # why this is the ratio on a busy machine

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
    call_s = float(worker.time_block(FEWEST_CALLS, 1).durations_ns.min()) * 1e-9  # the least disturbed
    dropped = min(WARM_CALLS, max(1, math.ceil(WARM_S / call_s)))
    calls = max(FEWEST_CALLS, min(1000, math.ceil(block_s / call_s)))
    return Plan(calls, dropped, (calls + dropped) * call_s)


def summary(blocks: list[Block], batch: int = 1, dropped: Counter[str] | None = None) -> Timing:
    """The Timing of reliable blocks."""
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
        waited=busy.waited(blocks),
        busy=busy.mark(blocks),
    )


def log_ratios(pairs: list[tuple[Block, Block]]) -> intervals.Floats:
    """log(reference / candidate) of each pair of blocks, (pairs,)."""
    return np.array([math.log(a.median_s / b.median_s) for a, b in pairs])


class _Sampling:
    """Counts blocks, or pairs of them, until their interval is settled or the time is up, and at least `fewest`.

    kept: the undisturbed ones, which decide when it is settled; disturbed: the others, where other programs had the
    processor meanwhile.
    """

    def __init__(self, seconds: float, fewest: int = intervals.FEWEST, first_look: int = FIRST_LOOK) -> None:
        self._deadline = time.monotonic() + seconds
        self._fewest, self._next_look = fewest, first_look
        self.kept = self.disturbed = 0
        self.dropped = Counter[str]()
        self.settled = False

    def goes_on(self) -> bool:
        """Whether to time another one. Raises Failed when none is reliable."""
        if self.settled:
            return False
        late, found = time.monotonic() >= self._deadline, self.kept + self.disturbed
        if late and found < self._fewest and self.dropped.total() > 3 * intervals.FEWEST:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())
            raise Failed(f"no timing is reliable: {reasons}. Try again when the machine is steady")
        return not late or found < self._fewest

    def count(self, trouble: str | None, quiet: bool) -> bool:
        """Count a block, or drop it for its trouble. quiet: whether it was undisturbed."""
        if trouble:
            self.dropped[trouble] += 1
        elif quiet:
            self.kept += 1
        else:
            self.disturbed += 1
        return not trouble

    def due(self) -> bool:
        """Whether to look at the interval: from the first look on, at every sixth more, since looking costs time."""
        if self.kept < self._next_look:
            return False
        self._next_look = self.kept + max(6, self.kept // 6)
        return True


def time_one(worker: Worker, inputs: Inputs, *, seconds: float = 3.0) -> Timing:
    """Time one open model with these inputs, a batch.

    Until the half-width of the median's interval is below 1 % of it, or the time is up. Raises Failed when the clocks
    are so unsteady that no block is reliable.
    """
    worker.prepare(inputs)
    chosen, blocks, so_far = plan(worker), list[Block](), _Sampling(seconds)
    while so_far.goes_on():
        block = worker.time_block(chosen.calls, chosen.dropped)
        if so_far.count(block.trouble, block.quiet):
            blocks.append(block)
            so_far.settled = so_far.due() and _narrow_median([each for each in blocks if each.quiet])
    quiet = [block for block in blocks if block.quiet]
    if len(quiet) < len(blocks) and busy.enough(len(quiet), len(blocks)):
        so_far.dropped[busy.REASON] += len(blocks) - len(quiet)
        blocks = quiet
    return summary(blocks, batch_size(inputs), so_far.dropped)


def _narrow_median(blocks: list[Block]) -> bool:
    middle, low, high = intervals.median(np.array([block.median_s for block in blocks]))
    return high - low <= 2 * PRECISION * middle


def batch_size(inputs: Inputs) -> int:
    """Examples in a batch of inputs."""
    return len(next(iter(inputs.values())))


@dataclass
class BlockPairs:
    """The reliable pairs of blocks (reference, candidate) in the order of time, and why the others were dropped."""

    pairs: list[tuple[Block, Block]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    settled: bool = False
    openings: list[int] = field(default_factory=list)  # of each pair: which opening of the processes it is from

    def shift(self) -> tuple[float, float, float]:
        """The log of the ratio with its interval."""
        return intervals.shift(log_ratios(self.pairs), openings=np.array(self.openings, int))

    def narrow(self) -> bool:
        """Whether the interval is narrow enough."""
        _, low, high = self.shift()
        return high - low <= 2 * PRECISION

    def undisturbed(self) -> BlockPairs:
        """These pairs without those that other programs disturbed, or all where too few are left."""
        quiet = [place for place, pair in enumerate(self.pairs) if _quiet(pair)]
        if len(quiet) == len(self.pairs) or not busy.enough(len(quiet), len(self.pairs)):
            return self
        dropped = self.dropped + Counter({busy.REASON: len(self.pairs) - len(quiet)})
        openings = [self.openings[place] for place in quiet]
        return BlockPairs([self.pairs[place] for place in quiet], dropped, self.settled, openings)


def _quiet(pair: tuple[Block, Block]) -> bool:
    return pair[0].quiet and pair[1].quiet


class _Interleaving:
    """Times two models, interleaved, in one opening of their processes after the other."""

    def __init__(self, inputs: tuple[Inputs, Inputs], seed: int) -> None:
        self._inputs, self._coin = inputs, np.random.default_rng(seed)
        self._open: list[tuple[Worker, Plan]] = []
        self._opening = -1
        self.found = BlockPairs()

    def use(self, *workers: Worker) -> None:
        """The next opening: two open models."""
        for worker, inputs in zip(workers, self._inputs, strict=True):
            worker.prepare(inputs)
        self._open = [(worker, plan(worker)) for worker in workers]
        self._opening += 1

    def openings(self, seconds: float) -> int:
        """Among how many openings `seconds` of blocks are divided: opening may take as long again."""
        open_s = sum(worker.open_s for worker, _ in self._open)
        pair_s = sum(chosen.block_s for _, chosen in self._open)
        count = min(OPENINGS, 1 + seconds / max(open_s, 1e-9), seconds / (OPENING_PAIRS * pair_s))
        return int(count) if count >= FEWEST_OPENINGS else 1

    def time(self, so_far: _Sampling, precision: float) -> None:
        """Pairs of blocks of this opening, until its own interval is narrow enough or its time is up."""
        first = len(self.found.pairs)
        while so_far.goes_on():
            blocks: dict[int, Block] = {}
            place = int(self._coin.integers(2**32))
            for side in self._coin.permutation(2).tolist():
                worker, chosen = self._open[side]
                blocks[side] = worker.time_block(chosen.calls, chosen.dropped, place)
            pair = (blocks[0], blocks[1])
            if so_far.count(pair_trouble(*pair), _quiet(pair)):
                self.found.pairs.append(pair)
                self.found.openings.append(self._opening)
                so_far.settled = so_far.due() and _half_width(self.found.pairs[first:]) <= precision
        self.found.dropped += so_far.dropped
        self.found.settled = so_far.settled


def interleave(
    workers: tuple[Worker, Worker],
    inputs: tuple[Inputs, Inputs],
    *,
    seconds: float = 10.0,
    seed: int = 0,
    again: Reopen | None = None,
) -> BlockPairs:
    """Time two open models, interleaved, until the ratio is known to 1 %, or the time is up. Raises Failed.

    again: opens the two again, for as many openings as take no longer than the blocks; None: they are opened once.
    """
    interleaving = _Interleaving(inputs, seed)
    interleaving.use(*workers)
    count = interleaving.openings(seconds) if again else 1
    if again is None or count == 1:
        interleaving.time(_Sampling(seconds), PRECISION)
        return interleaving.found
    found = interleaving.found
    own = PRECISION * math.sqrt(count) / 2  # half of the variance is left for what openings differ by
    interleaving.time(_Sampling(seconds / count, OPENING_PAIRS, intervals.FEWEST), own)
    for number in range(2, count + 1):
        with again() as fresh:
            interleaving.use(*fresh)
            interleaving.time(_Sampling(seconds / count, OPENING_PAIRS, intervals.FEWEST), own)
        found.settled = number >= FEWEST_OPENINGS and found.undisturbed().narrow()
        if found.settled:
            break
    return found


def time_pair(
    reference: Worker,
    candidate: Worker,
    inputs: Inputs,
    candidate_inputs: Inputs | None = None,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    again: Reopen | None = None,
) -> PairTiming:
    """Time two open models, interleaved, until the half-width of the ratio's interval is below 1 %, or the time is up.

    candidate_inputs: where the candidate takes another input (a smaller image). again: opens the two again; with it the
    interval holds what varies from one opening of the processes to the next, and the time may double. The model that
    waits is blocked on a pipe and uses no processor time. Raises Failed when no pair of blocks is reliable.
    """
    other = inputs if candidate_inputs is None else candidate_inputs
    found = interleave((reference, candidate), (inputs, other), seconds=seconds, seed=seed, again=again)
    return pair_timing(found, batch_size(inputs))


def pair_trouble(a: Block, b: Block) -> str | None:
    """Why a pair of blocks is unreliable, or None."""
    if a.trouble or b.trouble:
        return a.trouble or b.trouble
    return None if a.cores == b.cores else f"the cores changed from {a.cores} to {b.cores}"


def _half_width(pairs: list[tuple[Block, Block]]) -> float:
    _, low, high = intervals.shift(log_ratios([pair for pair in pairs if _quiet(pair)]))
    return (high - low) / 2


def pair_timing(found: BlockPairs, batch: int = 1) -> PairTiming:
    """The ratio of the medians with its interval, and the time of each of the two, which have this ratio."""
    found = found.undisturbed()
    middle, lowest, highest = found.shift()
    if len(set(found.openings)) == 1:
        lowest, highest = intervals.widened(middle, lowest, highest, OPENING_SD)
    ratio, low, high = (math.exp(bound) for bound in (middle, lowest, highest))
    reference, candidate = (summary([pair[side] for pair in found.pairs], batch) for side in (0, 1))
    blocks = [block for pair in found.pairs for block in pair]
    agreed = reference.median_s / candidate.median_s
    return PairTiming(
        ratio=ratio,
        low=low,
        high=high,
        reference=reference,
        candidate=candidate.scaled(agreed / ratio, agreed / high, agreed / low),
        pairs=len(found.pairs),
        settled=found.settled,
        openings=len(set(found.openings)),
        dropped=dict(found.dropped),
        load_average=load_average(),
        waited=busy.waited(blocks),
        busy=reference.busy or candidate.busy,
    )
