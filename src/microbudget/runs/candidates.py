"""Candidates: a recipe, the model that it made, its measurement and its verdict, as rows of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound
from ..judge.budget import Budget, Measurement
from ..judge.latency import with_latency
from ..judge.tabular import Tabular
from ..judge.verdict import TIE, Verdict
from ..model import Model

COSTS_OF_THE_MACHINE = (
    "latency_s", "latency_low_s", "latency_high_s", "throughput_per_s", "load_s", "memory_bytes",
)  # fmt: skip
OF_THE_MACHINE = ("floor", "energy")  # of `extra`: what another machine would have otherwise
AS_GIVEN = "the model as given"
NOT_BUILT = "not built: "  # how the reason of a row begins that nobody tried to build


@dataclass(frozen=True)
class Candidate(Tabular):
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
    # What it costs on another machine, which the run is chosen for: see `timings`. Not kept with the row.
    elsewhere: dict[str, Any] = field(default_factory=dict)
    # The folder of its model, of a row that a call returned. Not kept with the row either.
    folder: Path | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; `from_dict` reads them back."""
        row = asdict(self)
        del row["folder"]
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
    def model(self) -> Model:
        """The model that was made. Raises ModelNotFound where the run did not keep it."""
        from ..runtimes.loading import load

        if self.folder is None or not self.folder.is_dir():
            raise ModelNotFound(
                f"the run did not keep the model of {self.short}: `microbudget deliver` makes any row again"
            )
        return load(self.folder)

    def predict(self, inputs: str | Path | Sequence[str | Path], *, threads: int = 0) -> Any:
        """As `Model.predict`: a Prediction, or a list of them for a list."""
        return self.model.predict(inputs, threads=threads)

    @property
    def steps(self) -> tuple[str, ...]:
        """The recipe's steps with only the options that differ from their defaults, where this version can read it."""
        from ..recipes.recipe import Recipe

        parsed = Recipe.kept(self.recipe)
        return (self.recipe,) if parsed is None else tuple(step.short() for step in parsed.steps) or (AS_GIVEN,)

    @property
    def short(self) -> str:
        """The steps as a recipe."""
        return " > ".join(self.steps)

    @property
    def without_result(self) -> str:
        """Why it has no measurement, for a reader: "failed: it diverged", "not built: it would be too large"."""
        reason = self.failure or "was not measured"
        return reason if reason.startswith(NOT_BUILT) else f"failed: {reason}"

    @property
    def slower_than_float(self) -> bool:
        """Whether quantizing it was shown to cost speed on this machine. Levels of GGUF files are chosen by size."""
        gguf = self.measurement is not None and self.measurement.format == "gguf"
        return not gguf and bool(self.there.speed.get("over_float", {}).get("verdict") == "slower")

    def with_elsewhere(self, found: dict[str, Any]) -> Candidate:
        """The row with what it costs on another machine."""
        return replace(self, elsewhere=found)

    @property
    def there(self) -> Candidate:
        """The row with the costs on the machine that the run is chosen for; itself where that is this one.

        What was not timed there has no latency and no memory. Energy is not known there.
        """
        if not self.elsewhere:
            return self
        validation, test = (None if each is None else self._there(each) for each in (self.measurement, self.test))
        return replace(self, measurement=validation, test=test, speed=self.elsewhere.get("speed", {}))

    def _there(self, measured: Measurement) -> Measurement:
        found, facts = self.elsewhere.get("costs"), {"machine": self.elsewhere["facts"]}
        extra = {name: value for name, value in measured.extra.items() if name not in OF_THE_MACHINE}
        measured = replace(measured, extra=extra, energy_j=None, energy_source=None, **facts)
        if found is None:
            unknown: dict[str, Any] = dict.fromkeys(COSTS_OF_THE_MACHINE)
            return replace(measured, **unknown)
        timed = with_latency(measured, found["latency_s"], found["latency_low_s"], found["latency_high_s"])
        runtime = self.elsewhere.get("runtime") or measured.runtime
        return replace(timed, **found, threads=self.elsewhere["threads"], runtime=runtime)

    @property
    def busy(self) -> str:
        """Why its speed is that on a busy machine; "" where nothing says that it was busy."""
        return str(self.speed.get("busy") or self.speed.get("slow") or "")

    def broken_limits(self, budget: Budget) -> list[str]:
        """A sentence for every limit of the budget that this candidate breaks; empty when it holds."""
        if self.measurement is None:
            return [self.failure or "was not measured"]
        broken = [*self._broken_elsewhere(budget), *budget.broken_limits(self.there.measurement or self.measurement)]
        if budget.max_drop is not None and self.verdict is not None:
            if self.verdict.change < -budget.max_drop.amount - TIE:
                change = f"quality changes by {self.verdict.change * 100:+.2f}, limit {budget.max_drop}"
                broken.append(f"on validation {self.verdict.beyond or change}")
            elif self.verdict.decision == "exceeds":
                broken.append(f"the loss exceeds {budget.max_drop}")
            elif budget.prove and self.verdict.decision != "within":
                broken.append(f"the loss is not shown to be within {budget.max_drop}: {self.verdict.reason}")
        return broken

    def _broken_elsewhere(self, budget: Budget) -> list[str]:
        """Why it cannot run on the other machine, or that nothing is known of what a goal there asks for."""
        if "failure" in self.elsewhere:
            return [str(self.elsewhere["failure"])]
        return [str(self.elsewhere["missing"])] if "missing" in self.elsewhere and "latency" in budget.costs else []

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


def append(path: Path, candidate: Candidate) -> None:
    """Add a row; it is on disk when this returns."""
    row = {name: value for name, value in candidate.as_dict().items() if name != "elsewhere"}
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
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
