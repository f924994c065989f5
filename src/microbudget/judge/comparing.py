"""compare(): two models on the same examples and in the same minutes: which is smaller, faster, better."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import BadData
from ..model import Model
from ..progress import Progress
from ..runtimes.labels import output_names
from ..runtimes.loading import load
from ..task import Data, Example
from ..units import Drop, parse_drop
from . import memory
from .budget import Measurement
from .figures import Estimate, intervals
from .judging import Agreement, Judging, Opening, judging_of
from .measuring import Measured, choose_threads, cost_fields, measurement, open_task
from .options import MeasureKeywords, MeasureOptions
from .secondary import SECONDARY, compared, secondary_judging
from .tabular import Tabular
from .timing import PairTiming, SpeedVerdict, time_pair
from .verdict import Verdict, can_show, judge_pair
from .worker import Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS = 10.0  # the most that timing two models takes


@dataclass(frozen=True)
class Comparison(Tabular):
    """A against B: ratios are A over B (above 1: B is better), `quality_change` above 0: B is better (0.01 = 1 pt)."""

    a: Measurement
    b: Measurement
    size_ratio: float
    speedup: float
    speedup_low: float
    speedup_high: float
    speed_verdict: SpeedVerdict
    quality_change: float
    quality_change_low: float
    quality_change_high: float
    verdict: str | None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        return {**self.__dict__, "a": self.a.as_dict(), "b": self.b.as_dict()}

    def rows(self) -> list[dict[str, Any]]:
        """The two measurements, the second with its ratios and change."""
        ratios = ("size_ratio", "speedup", "speedup_low", "speedup_high", "quality_change", "quality_change_low")
        changes = {name: getattr(self, name) for name in (*ratios, "quality_change_high", "verdict")}
        return [self.a.as_dict(), {**self.b.as_dict(), **changes}]

    def plot(self) -> Figure:
        """How many times as fast B is, and the change of its quality, with their 95 % intervals."""
        speed = Estimate(self.speed_verdict, self.speedup, self.speedup_low, self.speedup_high)
        ends = (100 * self.quality_change_low, 100 * self.quality_change_high)
        change = Estimate(self.verdict or "", 100 * self.quality_change, *ends)
        name = f"{self.b.model} against {self.a.model}"
        return intervals(
            [
                (f"speed of {name} (times)", [speed], 1.0),
                (f"change of {self.b.metric} (%)", [change], 0.0),
            ]
        )


def compare(
    a: str | Path | Model,
    b: str | Path | Model,
    data: Data,
    *,
    max_drop: str | Drop | None = None,
    **options: Unpack[MeasureKeywords],
) -> Comparison:
    """Compare two models on the same examples, timed interleaved.

    max_drop: the limit to judge the loss of B against, such as "1pt". options: the fields of MeasureOptions. Raises
    LabelsDisagree, BrokenModel, WorkerFailed, InvalidOption, and what loading models and data raise.
    """
    how = MeasureOptions.of(options)
    limit = parse_drop(max_drop) if isinstance(max_drop, str) else max_drop
    given = (load(a), load(b))
    task = open_task(data, given, how, limit)
    judging = judging_of(task)
    judging.masked_accuracy = how.masked_accuracy
    judging.check_limit(limit)
    models = _resolved(judging, given, how.output)
    for model in models:
        judging.check(model)  # labels that disagree are reported before anything is computed
    examples = task.examples(how.split)
    if not examples:
        raise BadData(f"the {how.split} split holds no example to compare with")
    _say_what_can_be_shown(limit, judging, examples, how.progress)
    timed, agreement, unlabelled = _run(judging, models, examples, how, limit is not None)
    parts = zip((a, b), agreement.qualities, timed.costs, strict=True)
    measured = [
        measurement(task, quality, costs | ({} if isinstance(name, Model) else {"model": str(name)}), {})
        for name, quality, costs in parts
    ]
    before, after = (quality.scores for quality in agreement.qualities)
    verdict = judge_pair(before, after, limit, unlabelled=unlabelled, seed=how.seed)
    found = _comparison(measured[0], measured[1], timed.pair, agreement, verdict)
    return replace(found, extra={**found.extra, **({SECONDARY: timed.secondary} if timed.secondary else {})})


def _resolved(judging: Judging, models: tuple[Model, Model], output: str | None) -> tuple[Model, Model]:
    """See `Judging.resolved`. output: is chosen in the files that have it; where neither has, the first one refuses."""
    having = [output in output_names(model) for model in models] if output else [False, False]
    first, second = (output if has or not any(having) else None for has in having)
    return judging.resolved(models[0], first), judging.resolved(models[1], second)


def _say_what_can_be_shown(
    max_drop: Drop | None, judging: Judging, examples: Sequence[Example], progress: Progress
) -> None:
    if max_drop is None:
        return
    count = judging.evidence(examples)
    possible, needed = can_show(max_drop, count, judging.lengths(examples))
    if not possible:
        progress.say(f"note: {count} examples cannot show a loss within {max_drop} at 95 %: that takes {needed}")


@dataclass(frozen=True)
class _Timed:
    pair: PairTiming
    costs: list[dict[str, Any]]
    secondary: dict[str, Any] | None


def _run(
    judging: Judging, models: tuple[Model, Model], examples: Sequence[Example], how: MeasureOptions, disagree: bool
) -> tuple[_Timed, Agreement, tuple[int, int] | None]:
    """Everything that the two open models are needed for. disagree: whether unlabelled examples are answered too."""
    samples = [judging.timing_input(model, examples) for model in models]
    threads = [choose_threads(model, sample, how) for model, sample in zip(models, samples, strict=True)]
    openings = [how.opening(count) for count in threads]
    with both_open(judging, models, openings) as workers:
        weights = [memory.of_model(worker, sample) for worker, sample in zip(workers, samples, strict=True)]
        how.progress.say(f"timing {models[0].path.name} and {models[1].path.name}, interleaved")
        seconds = SECONDS if how.seconds is None else how.seconds
        pair = time_pair(
            *workers,
            *samples,
            seconds=seconds,
            seed=how.seed,
            again=lambda: both_open(judging, models, openings),
        )
        parts = zip(
            models, workers, samples, (pair.reference, pair.candidate), weights, threads, [seconds] * 2, strict=True
        )
        costs = [cost_fields(judging, Measured(*each)) for each in parts]
        agreement = judging.agreement(workers, models, examples, how.progress)
        secondary = _secondary(judging, workers, models, how)
        unlabelled = judging.disagreements(workers, models) if disagree else None
    return _Timed(pair, costs, secondary), agreement, unlabelled


def _secondary(
    judging: Judging, workers: tuple[Worker, Worker], models: tuple[Model, Model], how: MeasureOptions
) -> dict[str, Any] | None:
    """How B compares with A on the other data of the task; None where it has none."""
    other = secondary_judging(judging.task)
    if other is None:
        return None
    found = other.agreement(workers, models, other.task.examples(how.split), how.progress)
    first, second = found.qualities
    return {**compared(second, first, seed=how.seed), "kl": found.kl, "same_top1": found.same_top1}


@contextlib.contextmanager
def both_open(
    judging: Judging, models: Sequence[Model], openings: Sequence[Opening]
) -> Iterator[tuple[Worker, Worker]]:
    """Both models in fresh processes; the first is opened before the second starts."""
    with (
        judging.opened(models[0], opening=openings[0]) as first,
        judging.opened(models[1], opening=openings[1]) as second,
    ):
        yield first, second


def _comparison(a: Measurement, b: Measurement, pair: PairTiming, judged: Agreement, verdict: Verdict) -> Comparison:
    return Comparison(
        a=a,
        b=b,
        size_ratio=a.size_bytes / b.size_bytes,
        speedup=pair.ratio,
        speedup_low=pair.low,
        speedup_high=pair.high,
        speed_verdict=pair.verdict,
        quality_change=verdict.change,
        quality_change_low=verdict.change_low,
        quality_change_high=verdict.change_high,
        verdict=verdict.decision if verdict.limit else None,
        extra={
            "kl": judged.kl,
            "same_top1": judged.same_top1,
            **({"tokens": judged.tokens} if judged.tokens else {}),
            "verdict": verdict.as_dict(),
            "timing": pair.as_dict(),
        },
    )
