"""Candidates: a recipe, the model that it made, its measurement and its verdict; rows, front, best in budget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..judge.budget import Budget, Measurement
from ..judge.verdict import TIE, Verdict

FEW = 30  # examples: with fewer, one answer is more than 3 points, and equal models are told apart by divergence
SAME_SIZE = 0.01  # sizes that differ by less are one size: the choice then goes by quality and speed


@dataclass(frozen=True)
class Candidate:
    """One row of a run. `measurement` and `verdict` are of validation; `test` of the test split, read once."""

    recipe: str
    fingerprint: str
    path: str  # of the model, relative to the run
    measurement: Measurement | None = None
    verdict: Verdict | None = None
    # The speedup over the reference with its interval and verdict, and the reference's time then (see `latencies`);
    # `over_float`: the speedup over the unquantized model.
    speed: dict[str, Any] = field(default_factory=dict)
    test: Measurement | None = None
    test_verdict: Verdict | None = None
    failure: str | None = None  # why it could not be built or measured
    seconds: float = 0.0  # to build and measure

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; `from_dict` reads them back."""
        row = asdict(self)
        for name in ("measurement", "verdict", "test", "test_verdict"):
            value = getattr(self, name)
            row[name] = None if value is None else value.as_dict()
        return row

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Candidate:
        """The inverse of `as_dict`."""
        for name, kind in (("measurement", Measurement), ("verdict", Verdict)):
            for key in (name, "test" if name == "measurement" else "test_verdict"):
                row[key] = None if row[key] is None else kind.from_dict(row[key])
        return cls(**row)

    @property
    def slower_than_float(self) -> bool:
        """Whether quantizing it was shown to cost speed on this machine. Levels of GGUF files are chosen by size."""
        gguf = self.measurement is not None and self.measurement.format == "gguf"
        return not gguf and bool(self.speed.get("over_float", {}).get("verdict") == "slower")

    @property
    def busy(self) -> str:
        """Why its speed is that on a busy machine; "" where nothing says that it was busy."""
        return str(self.speed.get("busy") or self.speed.get("slow") or "")

    def broken_limits(self, budget: Budget) -> list[str]:
        """A sentence for every limit of the budget that this candidate breaks; empty when it holds."""
        if self.measurement is None:
            return [self.failure or "was not measured"]
        broken = list(budget.broken_limits(self.measurement))
        if budget.max_drop is not None and self.verdict is not None:
            if self.verdict.change < -budget.max_drop.amount - TIE:
                change = f"quality changes by {self.verdict.change * 100:+.2f}, limit {budget.max_drop}"
                broken.append(f"on validation {self.verdict.beyond or change}")
            elif self.verdict.decision == "exceeds":
                broken.append(f"the loss exceeds {budget.max_drop}")
            elif budget.prove and self.verdict.decision != "within":
                broken.append(f"the loss is not shown to be within {budget.max_drop}: {self.verdict.reason}")
        return broken

    def broken_on_test(self, budget: Budget) -> list[str]:
        """A sentence where the test split has the last word against it; empty where it has none, or was not read.

        The estimate decides: a loss beyond the limit is not met, however few examples it takes. With `prove` the loss
        has to be shown to be within.
        """
        verdict = self.test_verdict
        if verdict is None or budget.max_drop is None:
            return []
        if verdict.beyond:
            return [f"on test {verdict.beyond}"]
        if verdict.decision == "exceeds":
            return [f"on test the loss exceeds {budget.max_drop}: {verdict.reason}"]
        if budget.prove and verdict.decision != "within":
            return [f"on test the loss is not shown to be within {budget.max_drop}: {verdict.reason}"]
        return []


def best(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The best by the budget's goal among those that hold; when none does, the one nearest to holding.

    One that quantizing made slower is chosen only where the limits leave no other.
    """
    measured = [candidate for candidate in candidates if candidate.measurement is not None]
    holding = [candidate for candidate in measured if not candidate.broken_limits(budget)]
    if holding:
        return _best_by_goal([one for one in holding if not one.slower_than_float] or holding, budget)
    if not measured:
        return None
    fewest = min(len(candidate.broken_limits(budget)) for candidate in measured)
    nearest = [candidate for candidate in measured if len(candidate.broken_limits(budget)) == fewest]
    better = _closer if by_divergence(nearest) else _quality
    return max(nearest, key=lambda candidate: (better(candidate), -_size(candidate)))


def by_divergence(candidates: Sequence[Candidate]) -> bool:
    """Whether the choice is by divergence from the reference in place of quality: with FEW examples or less.

    It needs no labels, and varies less from sample to sample than the number of right answers.
    """
    measured = [one.measurement for one in candidates if one.measurement is not None]
    return bool(measured) and all(one.examples < FEW and one.divergence is not None for one in measured)


def _best_by_goal(candidates: Sequence[Candidate], budget: Budget) -> Candidate:
    better = _closer if by_divergence(candidates) else _quality
    if budget.goal == "quality":
        return max(candidates, key=lambda candidate: (better(candidate), -_size(candidate), -_latency(candidate)))
    if budget.goal == "latency":
        return min(candidates, key=lambda candidate: (_latency(candidate), _size(candidate)))
    if budget.goal == "energy":
        return min(candidates, key=lambda candidate: (_energy(candidate), _size(candidate)))
    smallest = min(map(_size, candidates))
    tied = [candidate for candidate in candidates if _size(candidate) <= smallest * (1 + SAME_SIZE)]
    return max(tied, key=lambda candidate: (better(candidate), -_latency(candidate)))


def _quality(candidate: Candidate) -> float:
    """Higher is better, whatever the metric: the change against the reference where there is one."""
    if candidate.verdict is not None:
        return round(candidate.verdict.change, 9)
    return 0.0


def _closer(candidate: Candidate) -> float:
    """Higher is nearer to the reference; two digits, since differences of rounding decide nothing."""
    found = candidate.measurement.divergence if candidate.measurement else None
    return -float(f"{found:.1e}") if found is not None else float("-inf")


def _size(candidate: Candidate) -> int:
    return candidate.measurement.size_bytes if candidate.measurement else 0


def _latency(candidate: Candidate) -> float:
    measurement = candidate.measurement
    return measurement.latency_s if measurement and measurement.latency_s is not None else float("inf")


def _energy(candidate: Candidate) -> float:
    measurement = candidate.measurement
    return measurement.energy_j if measurement and measurement.energy_j is not None else float("inf")


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


def append(path: Path, candidate: Candidate) -> None:
    """Add a row; it is on disk when this returns."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(candidate.as_dict(), ensure_ascii=False) + "\n")
        stream.flush()


def read(path: Path) -> Iterator[Candidate]:
    """The rows, oldest first. A last row that a kill cut short is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):  # a text may hold U+2028, where splitlines would cut
        try:
            row = json.loads(line)
        except ValueError:
            continue
        yield Candidate.from_dict(row)
