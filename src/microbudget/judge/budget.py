"""What a model costs and how good it is (Measurement), and what it may cost (Budget)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import InitVar, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..errors import InvalidOption
from ..units import (
    Drop,
    format_bytes,
    format_joules,
    format_seconds,
    parse_bytes,
    parse_drop,
    parse_joules,
    parse_seconds,
)
from .figures import Estimate, intervals
from .tabular import Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Goal = str  # one of GOALS, or a product of costs, "size*latency"
MINUTES = 20.0  # of a run, where the user gives no other time
COSTS = ("size", "latency", "energy")
GOALS = (*COSTS, "quality")


@dataclass(frozen=True)
class Measurement(Tabular):
    """The costs and the quality of one model; the unit is in each name, what was not measured is in `not_measured`."""

    model: str
    format: str
    runtime: str
    task: str
    examples: int
    metric: str
    quality: float
    quality_low: float
    quality_high: float
    size_bytes: int
    examples_left_out: int = 0
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    parameters: int | None = None
    bits_per_weight: float | None = None
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    throughput_per_s: float | None = None
    load_s: float | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    energy_j: float | None = None
    energy_source: str | None = None
    machine: dict[str, Any] = field(default_factory=dict, repr=False)
    not_measured: list[str] = field(default_factory=list)

    @property
    def kl(self) -> float | None:
        """The KL divergence of the answers from the reference's, in nats; None: not known, or not of this kind."""
        found = self.extra.get("kl")
        return None if found is None else float(found)

    @property
    def divergence(self) -> float | None:
        """How far the answers are from the reference's, in the kind's own measure: nats or words; None: not known."""
        found = (self.extra.get(name) for name in ("kl", "word_difference"))
        return next((float(value) for value in found if value is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, in the order of the design's contract."""
        return asdict(self)

    def plot(self) -> Figure:
        """The quality with its interval, and the latency with its own where it was timed."""
        panels = [(self.metric, [Estimate(self.model, self.quality, self.quality_low, self.quality_high)], None)]
        if self.latency_s is not None:
            low, high = (each and 1e3 * each for each in (self.latency_low_s, self.latency_high_s))
            panels.append(("latency (ms)", [Estimate(self.model, 1e3 * self.latency_s, low, high)], None))
        return intervals(panels)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Measurement:
        """The inverse of `as_dict`; keys of later versions are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in row.items() if key in known})


@dataclass(frozen=True)
class Budget:
    """The limits that the user gave; None means no limit. `minutes` is the time of the run, not of the model.

    Limits may be given as on the command line. Raises InvalidOption.

    >>> budget = Budget(max_size="2MB", max_latency="5ms", max_drop="1pt")
    >>> budget.max_size_bytes, budget.max_latency_s, str(budget.max_drop)
    (2000000, 0.005, '1pt')
    """

    max_size_bytes: int | None = None
    max_latency_s: float | None = None
    max_memory_bytes: int | None = None
    max_energy_j: float | None = None
    max_drop: Drop | None = None
    minutes: float | None = MINUTES
    goal: Goal = "size"
    prove: bool = False
    max_size: InitVar[str | float | None] = None
    max_latency: InitVar[str | float | None] = None
    max_memory: InitVar[str | float | None] = None
    max_energy: InitVar[str | float | None] = None

    def __post_init__(
        self,
        max_size: str | float | None,
        max_latency: str | float | None,
        max_memory: str | float | None,
        max_energy: str | float | None,
    ) -> None:
        self._take("max_size_bytes", max_size, parse_bytes)
        self._take("max_latency_s", max_latency, parse_seconds)
        self._take("max_memory_bytes", max_memory, parse_bytes)
        self._take("max_energy_j", max_energy, parse_joules)
        if isinstance(self.max_drop, str):
            object.__setattr__(self, "max_drop", parse_drop(self.max_drop))
        if self.max_drop is not None and not isinstance(self.max_drop, Drop):
            raise InvalidOption(f"max_drop must be a text such as '1pt' or '2%', not {self.max_drop!r}")
        if self.goal not in GOALS and not (set(self.costs) <= set(COSTS) and len(set(self.costs)) == len(self.costs)):
            raise InvalidOption(
                f"goal must be one of {', '.join(GOALS)}, or a product of costs such as size*latency, not {self.goal!r}"
            )
        for name in ("max_size_bytes", "max_latency_s", "max_memory_bytes", "max_energy_j", "minutes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not value > 0):
                raise InvalidOption(f"{name} must be above zero, not {value!r}")
        if self.prove and self.max_drop is None:
            raise InvalidOption("--prove needs a limit to prove: add for example --max-drop 1pt")

    def _take(self, name: str, given: str | float | None, parse: Callable[[str], float]) -> None:
        """A limit in the user's words, or as a number in the field's unit, into its field."""
        if given is None:
            return
        if getattr(self, name) is not None:
            raise InvalidOption(f"{name} is given twice; leave one")
        object.__setattr__(self, name, parse(given) if isinstance(given, str) else given)

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs whose product the goal makes small; "quality" is none of them."""
        return tuple(name.strip() for name in self.goal.split("*"))

    @property
    def limits_costs(self) -> bool:
        """Whether there is a limit on size, latency, memory or energy."""
        limits = (self.max_size_bytes, self.max_latency_s, self.max_memory_bytes, self.max_energy_j)
        return any(limit is not None for limit in limits)

    def broken_limits(self, measurement: Measurement) -> Iterator[str]:
        """A sentence for every cost limit that the measurement exceeds or that was not measured."""
        limits = (
            ("size", measurement.size_bytes, self.max_size_bytes, format_bytes),
            ("latency", measurement.latency_s, self.max_latency_s, format_seconds),
            ("memory", measurement.memory_bytes, self.max_memory_bytes, format_bytes),
            ("energy", measurement.energy_j, self.max_energy_j, format_joules),
        )
        for name, value, limit, show in limits:
            if limit is None:
                continue
            if value is None:
                yield f"{name} was not measured, limit {show(limit)}"
            elif value > limit:
                yield f"{name} {show(value)} is above {show(limit)}"

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Budget:
        """The inverse of `as_dict`."""
        return cls(**row)

    @property
    def limits(self) -> bool:
        """Whether there is a limit on anything."""
        return self.limits_costs or self.max_drop is not None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; the loss limit as its text, "1pt"."""
        return {**asdict(self), "max_drop": None if self.max_drop is None else str(self.max_drop)}
