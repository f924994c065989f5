"""The costs of shapes: each is weighed, and timed in turns with the first one, which stays open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..judge import memory, time_one, time_pair
from ..judge.judging import Judging
from ..judge.latency import with_latency
from ..judge.measuring import Measured, cost_fields, measurement
from ..judge.quality import Quality
from ..machine.processor import cores
from ..model import Model
from ..runs.latencies import reference_latency
from ..ship import shipped_bytes
from ..task import Inputs, Task
from .chosen import Shape, WhoseHead
from .options import RunOptions
from .reference import Reference
from .speeds import speed_of

PAIR_S = 2.0  # the most that timing a shape takes: networks differ by more than a quarter, or it does not matter


@dataclass(frozen=True)
class Weighed:
    """A shape before it is timed: the network in float and as it would ship, and what its answers are worth."""

    network: str
    size: str
    head: WhoseHead
    quality: Quality
    unrounded: Model
    model: Model


class Costs:
    """Measures shapes of one task on this machine."""

    def __init__(self, judging: Judging, how: RunOptions) -> None:
        self._judging, self._how, self._threads = judging, how, how.fixed_threads or cores()
        self._seconds = PAIR_S if how.durations.verb_s is None else how.durations.verb_s

    def timed(self, weighed: Sequence[Weighed], task: Task) -> list[Shape]:
        """The shapes with their costs; their latencies are one time of the first over each speedup."""
        examples, first = task.examples("train"), weighed[0]
        with Reference(first.model, self._judging, self._threads) as reference:
            shapes = [self._first(first, reference, task)]
            inputs = self._judging.timing_input(first.model, examples)
            for one in weighed[1:]:
                self._how.progress.doing(f"timing {one.network} {one.size}")
                timing = partial(self._paired, one, reference, inputs, task)
                shapes.append(reference.retry(timing, self._how.progress))
        latency = reference_latency([shape.speed for shape in shapes[1:]])
        ends = (latency.seconds, latency.low_s, latency.high_s)
        found = [_with_latency(shapes[0], *ends)]
        for shape in shapes[1:]:
            found.append(
                _with_latency(shape, *(latency.seconds / shape.speed[end] for end in ("speedup", "high", "low")))
            )
        return found

    def _first(self, one: Weighed, reference: Reference, task: Task) -> Shape:
        inputs = self._judging.timing_input(one.model, task.examples("train"))
        worker = reference.worker()
        self._how.progress.doing(f"timing {one.network} {one.size}")
        weight = memory.of_model(worker, inputs)
        timing = time_one(worker, inputs, seconds=self._seconds)
        costs = cost_fields(
            self._judging, Measured(one.model, worker, inputs, timing, weight, self._threads, self._seconds)
        )
        return self._shape(one, costs, task, {})

    def _paired(self, one: Weighed, reference: Reference, inputs: Inputs, task: Task) -> Shape:
        own = self._judging.timing_input(one.model, task.examples("train"))
        with self._judging.start_worker() as worker:
            worker.open(one.model, threads=self._threads)
            weight = memory.of_model(worker, own)
            pair = time_pair(reference.worker(), worker, inputs, own, seconds=self._seconds, seed=self._how.seed)
            measured = Measured(one.model, worker, own, pair.candidate, weight, self._threads, self._seconds)
            costs = cost_fields(self._judging, measured)
        return self._shape(one, costs, task, speed_of(pair, reference.model.fingerprint))

    def _shape(self, one: Weighed, costs: dict[str, Any], task: Task, speed: dict[str, Any]) -> Shape:
        costs = {**costs, "model": one.network, "size_bytes": shipped_bytes(one.model, task)}
        bits = 32 if one.model is one.unrounded else 8
        return Shape(
            network=one.network,
            size=one.size,
            head=one.head,
            bits=bits,
            float_bytes=shipped_bytes(one.unrounded, task),
            measurement=measurement(task, one.quality, costs, {}),
            scores=one.quality.scores,
            speed=speed,
        )


def _with_latency(shape: Shape, seconds: float, low_s: float, high_s: float) -> Shape:
    return replace(shape, measurement=with_latency(shape.measurement, seconds, low_s, high_s))
