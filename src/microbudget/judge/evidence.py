"""Evidence: what the paired answers to the same examples say about a change of quality, and what more would say.

Shares are right and wrong answers, for accuracy; Ratios are any other metric that is a ratio of sums. Both answer the
same questions: the change, its interval, and whether a loss is shown to be below or above a limit. `growth` asks what
so many times as many examples would show, if they went on like these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..errors import BadData, BrokenModel, InvalidOption
from ..task import Scores
from . import statistics as stats
from .statistics import Floats

ERROR = 1 - stats.LEVEL  # of each decision, one-sided
TAIL = ERROR / 2  # of each end of the interval
UNBOUNDED = ("bits per byte",)  # metrics for which no value of an example is the worst
CAPPED = ("wer", "cer")  # metrics of which an example counts at most its length for a judgement
COSTLY = 0.5  # of its bits: what an unseen chunk may cost more, at least
LONG = 0.95  # the further example of a rate is as long as the one below which this share of all words lies


@dataclass(frozen=True)
class Differences:
    """What each example loses, and what that is measured by: the loss of the metric is `loss.sum() / base.sum()`.

    All arrays: (examples,). loss: above 0 where the candidate is worse. base: the denominators; for a relative loss the
    reference's numerators. length: the denominators. gainable: what the reference has wrong, where that is bounded.
    bounded: whether no example can lose or gain more than its length. share: whether each is right or wrong, and counts
    once.
    """

    loss: Floats
    base: Floats
    length: Floats
    gainable: Floats
    relative: bool
    bounded: bool
    share: bool

    @classmethod
    def of(cls, reference: Scores, candidate: Scores, relative: bool) -> Differences:
        """From the Scores of the same examples. Errors of a recording count up to its length.

        Raises ValueError for scores that are no pair, BrokenModel where they are not finite, InvalidOption for bits
        that are not relative.
        """
        check_pair(reference, candidate)
        if is_unbounded(reference) and not relative:
            raise InvalidOption(f"a loss of {reference.metric} has no points: give a relative one, for example 1%")
        before, after = capped(reference), capped(candidate)
        sign = -1 if reference.higher_is_better else 1
        loss, length = sign * (after - before), reference.denominator
        bounded = not is_unbounded(reference) and all(
            bool(((each >= 0) & (each <= length)).all()) for each in (before, after)
        )
        gainable = length - before if reference.higher_is_better else before
        share = is_share(reference) and is_share(candidate)
        return cls(loss, before if relative else length, length, gainable, relative, bounded, share)

    @property
    def examples(self) -> int:
        """All of them."""
        return len(self.loss)

    @cached_property
    def estimate(self) -> float:
        """The loss; NaN where there is nothing that it could be measured by."""
        total = float(self.base.sum())
        return float(self.loss.sum()) / total if total > 0 else math.nan

    @cached_property
    def residuals(self) -> Floats:
        """What each example loses beyond what the estimate says, (examples,)."""
        found: Floats = self.loss - self.estimate * self.base
        return found


class Evidence(Protocol):
    """What the examples say about the change, a fraction that is above 0 where the candidate is better."""

    @property
    def examples(self) -> int:
        """All of them, labelled or not."""
        ...

    @property
    def change(self) -> float:
        """The estimate."""
        ...

    def excess(self, limit: float, /) -> str:
        """How many examples make the loss that is beyond the limit."""
        ...

    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval of the change."""
        ...

    def shows_below(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is below the limit; wrong in at most `error` of samples."""
        ...

    def shows_above(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is above the limit; wrong in at most `error` of samples."""
        ...


@dataclass(frozen=True)
class Shares:
    """Right and wrong answers in pairs, judged by an exact test, and disagreements on examples without labels."""

    gained: int  # only the candidate has them right
    lost: int
    labelled: int
    disagreements: int = 0
    unlabelled: int = 0

    @classmethod
    def of(cls, reference: Scores, candidate: Scores, unlabelled: tuple[int, int]) -> Shares:
        """From scores of 0 and 1. unlabelled: (disagreements, examples)."""
        sign = 1 if reference.higher_is_better else -1
        change = sign * (candidate.numerator - reference.numerator)
        return cls(int((change > 0).sum()), int((change < 0).sum()), len(change), *unlabelled)

    def __str__(self) -> str:
        text = f"{_count(self.labelled, 'example')} with {_count(self.gained + self.lost, 'disagreement')}"
        if self.gained + self.lost:
            text += f" ({self.gained} gained, {self.lost} lost)"
        return text + (f" and {self.unlabelled} unlabelled with {self.disagreements}" if self.unlabelled else "")

    @property
    def examples(self) -> int:
        """All of them, labelled or not."""
        return self.labelled + self.unlabelled

    @property
    def change(self) -> float:
        """The share gained less the share lost; 0 without labels."""
        return (self.gained - self.lost) / self.labelled if self.labelled else 0.0

    def excess(self, limit: float, /) -> str:
        """How many examples make the loss that is beyond the limit."""
        more, allowed = self.lost - self.gained, math.floor(limit * self.labelled + 1e-9)
        return (
            f"{more} more of {_count(self.labelled, 'example')} {'is' if more == 1 else 'are'} wrong, where {allowed}"
            f" {'is' if allowed == 1 else 'are'} allowed"
        )

    def interval(self) -> tuple[float, float]:
        """The exact test inverted."""
        bounds = [
            stats.paired_bounds(self.gained, self.lost, self.labelled, TAIL * level, unlabelled)
            for level, unlabelled in self._readings()
        ]
        return max(low for low, _ in bounds), min(high for _, high in bounds)

    def shows_below(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is below the limit; wrong in at most `error` of samples."""
        grown = self._grown(growth, math.floor, math.ceil)
        return any(
            stats.paired_p(grown.gained, grown.lost, grown.labelled, -limit, unlabelled) <= error * level
            for level, unlabelled in grown._readings()
        )

    def shows_above(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is above the limit; wrong in at most `error` of samples. Only labels can show it."""
        grown = self._grown(growth, math.ceil, math.floor)
        return stats.paired_p(grown.lost, grown.gained, grown.labelled, limit) <= error

    def _readings(self) -> list[tuple[float, tuple[int, int]]]:
        """All the examples together, and the labelled ones alone: each with its part of the error level.

        Either may decide, so they share the level (Bonferroni), in proportion to numbers that are known beforehand.
        """
        together = (self.unlabelled / self.examples, (self.disagreements, self.unlabelled))
        alone = (self.labelled / self.examples, (0, 0))
        return [reading for reading in (together, alone) if reading[0] > 0]

    def _grown(self, growth: float, gains: Callable[[float], int], losses: Callable[[float], int]) -> Shares:
        """So many times as many examples like these, gains and losses rounded."""
        return Shares(
            gains(self.gained * growth),
            losses(self.lost * growth),
            round(self.labelled * growth),
            losses(self.disagreements * growth),
            round(self.unlabelled * growth),
        )


@dataclass(frozen=True)
class Further:
    """One example that nobody has seen yet, and that speaks against the decision."""

    lost: float
    gained: float
    base: float  # of the one that loses
    gaining_base: float

    @classmethod
    def of(cls, differences: Differences, reference: Scores) -> Further:
        """Of a rate, a long example that loses wholly, or one that gains what the reference has wrong in one at most.

        Bits have no such bound: half as much again as a long chunk needs, or twice the largest change seen.
        """
        d, largest = differences, float(np.abs(differences.loss).max())
        base = stats.weighted_quantile(d.base, LONG)
        if is_unbounded(reference):
            changed = max(COSTLY * stats.weighted_quantile(reference.numerator, LONG), 2 * largest)
            return cls(changed, changed, base, base)
        lost = max(stats.weighted_quantile(d.length, LONG), largest)
        if not d.bounded:
            return cls(lost, lost, base, base)
        return cls(lost, max(1.0, float(d.gainable.max())), base, float(d.base.mean()))


@dataclass(frozen=True)
class Ratios:
    """Losses of examples over what they are measured by, judged by a bootstrap that reckons with a further example."""

    differences: Differences
    further: Further
    seed: int = 0

    @classmethod
    def of(cls, reference: Scores, candidate: Scores, relative: bool, seed: int) -> Ratios:
        """From any scores; relative: to the reference's value. Raises BadData or InvalidOption where it is 0."""
        if not len(reference.numerator) or not reference.denominator.sum() > 0:
            raise BadData(f"there is nothing to judge {reference.metric} on: the examples are empty")
        differences = Differences.of(reference, candidate, relative)
        if not differences.base.sum() > 0:
            raise InvalidOption(
                f"the reference's {reference.metric} is 0, so a loss cannot be relative to it: give it in points"
            )
        return cls(differences, Further.of(differences, reference), seed)

    def __str__(self) -> str:
        differ = int(np.count_nonzero(self.differences.loss))
        return f"{_count(self.examples, 'example')} of which {differ} differ{'s' * (differ == 1)}"

    @property
    def examples(self) -> int:
        """All of them."""
        return self.differences.examples

    @property
    def change(self) -> float:
        """The change of the ratio of sums."""
        return 0.0 - self.differences.estimate

    def excess(self, _limit: float, /) -> str:
        """How many examples make the loss that is beyond the limit."""
        worse, better = (int((sign * self.differences.loss > 0).sum()) for sign in (1, -1))
        return f"{worse} of {_count(self.examples, 'example')} {'is' if worse == 1 else 'are'} worse, {better} better"

    def interval(self) -> tuple[float, float]:
        """Quantiles of the draws with the further example that loses, and with the one that gains."""
        return -float(np.quantile(self._losses(1), 1 - TAIL)), -float(np.quantile(self._losses(-1), TAIL))

    def shows_below(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is below the limit; wrong in at most `error` of samples."""
        return float((self._losses(1, growth) >= limit).mean()) <= error

    def shows_above(self, limit: float, growth: float = 1.0, error: float = ERROR) -> bool:
        """Whether the loss is above the limit; wrong in at most `error` of samples."""
        return float((self._losses(-1, growth) <= limit).mean()) <= error

    def _losses(self, sign: int, growth: float = 1.0) -> Floats:
        """Draws of the loss, with a further example that loses (1) or gains (-1) as much as may be."""
        further = self.further
        example = (further.lost, further.base) if sign > 0 else (-further.gained, further.gaining_base)
        return self._draws.ratios(example, growth)

    @cached_property
    def _draws(self) -> stats.RatioDraws:
        return stats.paired_ratio_bootstrap(self.differences.loss, self.differences.base, seed=self.seed)


@dataclass(frozen=True)
class Runaways:
    """Examples with more errors than words: a decoder that lost its place and wrote on.

    A judgement counts the errors of each up to its length, so how often it happens is said apart: whether the next
    recording is one, no word error rate of a few recordings can tell.
    """

    candidate: int
    reference: int
    examples: int

    @classmethod
    def of(cls, reference: Scores, candidate: Scores) -> Runaways | None:
        """None for a metric that cannot run away."""
        if reference.metric not in CAPPED:
            return None
        ours, theirs = (int((each.numerator > each.denominator).sum()) for each in (candidate, reference))
        return cls(ours, theirs, len(reference.numerator))

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of the candidate's rate. Clopper & Pearson 1934."""
        return stats.clopper_pearson(self.candidate, self.examples)

    def __str__(self) -> str:
        share = "{:.1f} to {:.1f} % at 95 %".format(*(end * 100 for end in self.interval))
        return (
            f"{self.candidate} of {_count(self.examples, 'example')} {'has' if self.candidate == 1 else 'have'} more"
            f" errors than words, which count as wholly wrong (a share of {share}; {self.reference} with the reference)"
        )


def check_pair(reference: Scores, candidate: Scores) -> None:
    """Raise ValueError for scores that are not of the same examples, BrokenModel where they are not finite."""
    same_kind = (reference.metric, reference.higher_is_better) == (candidate.metric, candidate.higher_is_better)
    if not same_kind or not np.array_equal(reference.denominator, candidate.denominator):
        raise ValueError("reference and candidate must be scored by the same metric on the same examples")
    for name, scores in (("reference", reference), ("candidate", candidate)):
        unfit = int((~np.isfinite(scores.numerator)).sum())
        if unfit:
            raise BrokenModel(
                f"the {name}'s {scores.metric} is not finite on {unfit} of {len(scores.numerator)} examples"
            )


def capped(scores: Scores) -> Floats:
    """The numerators; of an error rate at most the denominators: a recording is not more than wholly wrong."""
    if scores.metric in CAPPED:
        return np.minimum(scores.numerator, scores.denominator)
    return scores.numerator


def is_unbounded(scores: Scores) -> bool:
    """Whether the metric is one whose changes are reported relative to the reference: bits per byte."""
    return scores.metric.replace("_", " ") in UNBOUNDED


def is_share(scores: Scores) -> bool:
    """Whether every example is right or wrong, and counts once."""
    return bool(np.isin(scores.numerator, (0, 1)).all() and (scores.denominator == 1).all())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
