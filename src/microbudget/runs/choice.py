"""Choice: which candidate of a run is the best within a budget, and which of them no other beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..judge.budget import Budget
from .candidates import Candidate
from .expected_loss import expected_losses

# Sizes, or products of costs, that differ by less are the same: then the expected loss decides, and speed.
SAME_SIZE = 0.01


def best(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The best by the budget's goal among those that hold; when none does, the one that is nearest to holding.

    Nearest is what breaks the fewest limits, and these by the smallest factor, of costs and of the expected loss alike.

    Of those that hold by the estimate, one whose expected loss is beyond the limit, or that quantizing made slower, is
    chosen only where there is no other.
    """
    measured = [candidate for candidate in candidates if candidate.measurement is not None]
    losses = dict(zip(map(id, measured), expected_losses(measured), strict=True))

    def loss(candidate: Candidate) -> float:
        return losses[id(candidate)]

    holding = [candidate for candidate in measured if not candidate.broken_limits(budget)]
    if holding:
        limit = None if budget.max_drop is None else budget.max_drop.amount
        expected = [one for one in holding if limit is None or loss(one) <= limit] or holding
        return best_by_goal([one for one in expected if not one.slower_than_float] or expected, budget, loss)
    if not measured:
        return None
    fewest = min(len(candidate.broken_limits(budget)) for candidate in measured)
    nearest = [candidate for candidate in measured if len(candidate.broken_limits(budget)) == fewest]

    def distance(candidate: Candidate) -> tuple[float, float, float, int]:
        excess = _excess(candidate, budget, loss(candidate))
        return round(excess, 3), _rounded(loss(candidate)), _divergence(candidate), _size(candidate)

    return min(nearest, key=distance)


def _excess(candidate: Candidate, budget: Budget, loss: float) -> float:
    """Of the limits that it breaks, the sum of the logarithms of how many times each it takes; 0 without any."""
    measured, drop = candidate.there.measurement, budget.max_drop
    assert measured is not None
    taken = [
        (measured.size_bytes, budget.max_size_bytes),
        (measured.latency_s, budget.max_latency_s),
        (measured.memory_bytes, budget.max_memory_bytes),
        (measured.energy_j, budget.max_energy_j),
    ]
    if drop is not None and drop.amount > 0:
        change = 0.0 if candidate.verdict is None else candidate.verdict.change
        taken.append((max(loss, -change), drop.amount))
    return sum(math.log(value / limit) for value, limit in taken if value is not None and limit and value > limit)


def safer(candidate: Candidate, candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Those that hold the budget on validation and are expected to lose less than `candidate`."""
    measured = [each for each in candidates if each.measurement is not None]
    losses = dict(zip([each.fingerprint for each in measured], expected_losses(measured), strict=True))
    most = _rounded(losses[candidate.fingerprint])
    return [each for each in measured if _rounded(losses[each.fingerprint]) < most and not each.broken_limits(budget)]


def best_by_goal(candidates: Sequence[Candidate], budget: Budget, loss: Callable[[Candidate], float]) -> Candidate:
    """The best by the goal alone, of measured candidates. loss: of each, lower is better."""

    def worth(candidate: Candidate) -> tuple[float, float]:
        """Lower is better. Losses that are equal, such as none, are told apart by the divergence."""
        return _rounded(loss(candidate)), _divergence(candidate)

    if budget.goal == "quality":
        return min(candidates, key=lambda candidate: (*worth(candidate), _size(candidate), _latency(candidate)))
    if budget.goal != "size" and len(budget.costs) == 1:
        return min(candidates, key=lambda candidate: (_cost(candidate, budget), _size(candidate)))
    least = min(_cost(candidate, budget) for candidate in candidates)
    tied = [candidate for candidate in candidates if _cost(candidate, budget) <= least * (1 + SAME_SIZE)]
    return min(tied, key=lambda candidate: (*worth(candidate), _latency(candidate)))


def _cost(candidate: Candidate, budget: Budget) -> float:
    """The product of what the goal makes small; infinity where a part of it was not measured."""
    return math.prod(COST[name](candidate) for name in budget.costs)


def _rounded(loss: float) -> float:
    """To a thousandth of a point, since differences of rounding decide nothing."""
    return round(loss, 5)


def _divergence(candidate: Candidate) -> float:
    """To two digits, for the same reason."""
    found = candidate.measurement.divergence if candidate.measurement else None
    return float("inf") if found is None else float(f"{found:.1e}")


def _size(candidate: Candidate) -> int:
    return candidate.measurement.size_bytes if candidate.measurement else 0


def _latency(candidate: Candidate) -> float:
    measurement = candidate.there.measurement
    return measurement.latency_s if measurement and measurement.latency_s is not None else float("inf")


def _energy(candidate: Candidate) -> float:
    measurement = candidate.there.measurement
    return measurement.energy_j if measurement and measurement.energy_j is not None else float("inf")


COST: dict[str, Callable[[Candidate], float]] = {"size": _size, "latency": _latency, "energy": _energy}


def _quality(candidate: Candidate) -> float:
    """Higher is better, whatever the metric: the change against the reference where there is one."""
    return 0.0 if candidate.verdict is None else round(candidate.verdict.change, 9)


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in size, latency and quality at once, smallest first."""
    measured = [candidate for candidate in candidates if candidate.measurement is not None]
    front = [one for one in measured if not any(_dominates(other, one) for other in measured)]
    return sorted(front, key=_size)


def _dominates(one: Candidate, other: Candidate) -> bool:
    pairs = [
        (-_size(one), -_size(other)),
        (-_latency(one), -_latency(other)),
        (_quality(one), _quality(other)),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
