"""Shapes, networks at input sizes with what they cost and are worth, and which of them is the one to begin with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..judge.budget import Budget, Measurement
from ..judge.figures import Estimate, Spot, trade_offs
from ..judge.tabular import Tabular
from ..judge.verdict import TIE, Verdict, judge_pair
from ..runs.candidates import Candidate
from ..runs.choice import SAME_SIZE, best_by_goal
from ..task import Scores
from ..units import Drop, format_change

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WhoseHead = Literal["new", "own"]
HALVING = 0.02  # of the quality, that a cut to half of the size is taken to cost
POINT = Drop(0.01)  # the loss against the best that is allowed where the user gives no limit


@dataclass(frozen=True)
class Shape:
    """A network at an input size, before anything of it is trained.

    network: as the user gave it. head: whose answers the quality is of, a new one's by cross-validation or its own.
    measurement: the costs of `bits` bits, and the quality in float. scores: of each training example, by which two
    shapes are compared in pairs.
    """

    network: str
    size: str
    head: WhoseHead
    bits: int
    float_bytes: int
    measurement: Measurement
    scores: Scores = field(repr=False)
    speed: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network with its input size, and whether its own head answers."""
        return " ".join(part for part in (self.network, self.size, "(own head)" if self.head == "own" else "") if part)

    @property
    def better(self) -> float:
        """The metric with its sign: higher is better."""
        return self.measurement.quality if self.scores.higher_is_better else -self.measurement.quality

    @property
    def latency_s(self) -> float:
        """Seconds of one example."""
        found = self.measurement.latency_s
        return float("inf") if found is None else found


@dataclass(frozen=True)
class Chosen(Tabular):
    """The shapes in the order of the networks and sizes, and what follows from them.

    left_out: by shape why it was not measured. folds: of the cross-validation; 0 where every head is the network's own.
    """

    shapes: tuple[Shape, ...]
    budget: Budget
    folds: int
    left_out: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def allowed(self) -> list[Shape]:
        """Those that the limits on costs leave."""
        return [shape for shape in self.shapes if not self.broken(shape)]

    def broken(self, shape: Shape) -> list[str]:
        """A sentence for each limit that it breaks."""
        return list(self.budget.broken_limits(shape.measurement))

    @cached_property
    def most_accurate(self) -> Shape | None:
        """The best by quality that the limits leave, of several the smallest; None where they leave none."""
        return max(self.allowed, key=lambda one: (one.better, -one.measurement.size_bytes), default=None)

    @cached_property
    def changes(self) -> list[Verdict | None]:
        """Of each shape the change from the most accurate, judged in pairs; None for that one itself."""
        best = self.most_accurate
        return [
            None if best is None or shape is best else judge_pair(best.scores, shape.scores, None, seed=self.seed)
            for shape in self.shapes
        ]

    @property
    def limit(self) -> Drop:
        """On the loss against the most accurate one."""
        return self.budget.max_drop or POINT

    @cached_property
    def best(self) -> Shape | None:
        """By the budget's goal among those that lose no more than the limit by the estimate; None without any.

        Sizes within 1 % are one size: of those the most accurate is taken, then the fastest.
        """
        if self.most_accurate is None:
            return None
        return _by_goal([shape for shape in self.allowed if self._holds(shape)], self.budget)

    @cached_property
    def begin(self) -> Shape:
        """What `shrink` begins with: the best, or one beyond the limits that is worth more even when it is cut to them.

        A cut to half of the size is taken to cost 2 points: half of MobileNetV2 cost none to two (docs/prune.md).
        """
        after = [shape.better - HALVING * math.log2(self._beyond(shape)) for shape in self.shapes]
        most = max(after)
        if self.best is not None and self.best.better >= most - self.limit.amount - TIE:
            return self.best
        return self.shapes[after.index(most)]

    def _beyond(self, shape: Shape) -> float:
        """How many times a limit on size or latency it has at most; 1 where it holds them."""
        budget, measured = self.budget, shape.measurement
        pairs = ((measured.size_bytes, budget.max_size_bytes), (shape.latency_s, budget.max_latency_s))
        return max([1.0, *(value / limit for value, limit in pairs if limit is not None)])

    @property
    def advice(self) -> str:
        """What to know where `shrink` would begin with another than the best; "" where it would not."""
        if self.begin is self.best:
            return ""
        return (
            f"`shrink` can cut networks: {self.begin.name} has {self._beyond(self.begin):.1f} times the limit, and is"
            " worth more even so"
        )

    def _holds(self, shape: Shape) -> bool:
        change = self.changes[self._place(shape)]
        return change is None or -change.change <= self.limit.amount + TIE

    def _place(self, shape: Shape) -> int:
        return next(place for place, each in enumerate(self.shapes) if each is shape)

    @cached_property
    def front(self) -> list[bool]:
        """Of each shape, whether no other beats it in size, latency and quality at once."""
        return [not any(_dominates(other, one) for other in self.shapes) for one in self.shapes]

    def against(self, place: int) -> str:
        """In words how a shape's quality compares with the most accurate one's."""
        change = self.changes[place]
        if change is None:
            return "the best" if self.shapes[place] is self.most_accurate else ""
        if change.change_low <= 0 <= change.change_high:
            return "no difference shown"
        return format_change(change.change, self.shapes[place].measurement.metric)

    @property
    def why(self) -> str:
        """Which one to begin with, and why; or which limits leave none."""
        best, first = self.best, self.most_accurate
        if best is None or first is None:
            nearest = min(self.shapes, key=lambda shape: (len(self.broken(shape)), shape.measurement.size_bytes))
            return f"the limits leave none; the nearest is {nearest.name}: {'; '.join(self.broken(nearest))}"
        if best is first:
            return f"{best.name}: {_most(self)}"
        place = self._place(best)
        change = self.changes[place]
        assert change is not None
        loss = format_change(change.change, best.measurement.metric)
        shown = ", no difference shown" if change.change_low <= 0 <= change.change_high else ""
        return (
            f"{best.name}: the best by {self.budget.goal} of those within {self.limit} of the most accurate,"
            f" {first.name} ({loss}{shown})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The document of `choose --json`, and of `choose.json` in a run."""
        return {
            "shapes": [self._row(place) for place in range(len(self.shapes))],
            "best": None if self.best is None else self._place(self.best),
            "most_accurate": None if self.most_accurate is None else self._place(self.most_accurate),
            "begin": self._place(self.begin),
            "why": self.why,
            "advice": self.advice,
            "met": self.best is not None,
            "folds": self.folds,
            "left_out": self.left_out,
            "budget": self.budget.as_dict(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each shape."""
        return [self._row(place) for place in range(len(self.shapes))]

    def plot(self) -> Figure:
        """Size and latency of every shape against its quality by cross-validation."""
        sized, timed = [], []
        for shape in self.shapes:
            measured = shape.measurement
            quality = Estimate(
                shape.name, measured.quality, measured.quality_low, measured.quality_high, best=shape is self.best
            )
            sized.append(Spot(shape.name, 1e-6 * measured.size_bytes, quality))
            if measured.latency_s is not None:
                timed.append(Spot(shape.name, 1e3 * measured.latency_s, quality))
        panels = [("size (MB)", sized, None), ("latency (ms)", timed, None)]
        return trade_offs([panel for panel in panels if panel[1]], self.shapes[0].measurement.metric)

    def _row(self, place: int) -> dict[str, Any]:
        shape, change = self.shapes[place], self.changes[place]
        return {
            "network": shape.network,
            "size": shape.size,
            "head": shape.head,
            "bits": shape.bits,
            "float_bytes": shape.float_bytes,
            "front": self.front[place],
            "broken_limits": self.broken(shape),
            "against_best": self.against(place),
            "change": None if change is None else change.as_dict(),
            "speed": shape.speed,
            "measurement": shape.measurement.as_dict(),
        }


def _most(chosen: Chosen) -> str:
    limits = " that the limits leave" if len(chosen.allowed) < len(chosen.shapes) else ""
    if chosen.budget.goal == "quality":
        return f"the most accurate{limits}"
    return f"the most accurate{limits}, and none within {chosen.limit} of it is better by {chosen.budget.goal}"


def _by_goal(shapes: Sequence[Shape], budget: Budget) -> Shape:
    """As of the candidates of a run, with the metric in place of the expected loss."""
    rows = [Candidate(shape.name, str(place), "", shape.measurement) for place, shape in enumerate(shapes)]
    losses = {row.fingerprint: -shape.better for row, shape in zip(rows, shapes, strict=True)}
    return shapes[int(best_by_goal(rows, budget, lambda row: losses[row.fingerprint]).fingerprint)]


def _dominates(one: Shape, other: Shape) -> bool:
    """Whether it is no worse in size, latency and quality, and better in one; sizes within 1 % are one size."""
    same = abs(one.measurement.size_bytes - other.measurement.size_bytes) <= SAME_SIZE * other.measurement.size_bytes
    pairs = (
        (0, 0) if same else (-one.measurement.size_bytes, -other.measurement.size_bytes),
        (-one.latency_s, -other.latency_s),
        (one.better, other.better),
    )
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
