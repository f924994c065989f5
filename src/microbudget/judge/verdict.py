"""Verdicts on quality: a candidate and its reference, on the same examples, against a limit on the loss.

A pair is judged by its differences, so that both may fail on the same hard examples at no cost. Each of *within* and
*exceeds* is wrong in at most 5 % of samples; docs/verdicts.md shows it, and how many examples a verdict needs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadData, InvalidOption
from ..task import Scores
from ..units import Drop, parse_drop
from . import statistics as stats
from .evidence import COSTLY, ERROR, LONG, Evidence, Ratios, Runaways, Shares, check_pair, is_share, is_unbounded
from .figures import Estimate, intervals
from .tabular import Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Decision = Literal["within", "exceeds", "not shown"]
TIE = 1e-12  # a loss that is the limit but for rounding is not beyond it


@dataclass(frozen=True)
class Verdict(Tabular):
    """A paired judgement of the loss against a limit, shown at 95 % or not.

    change: above 0 the candidate is better, whatever the metric; a fraction (0.01 = 1 pt), or relative to the
    reference for a relative limit and for bits per byte. change_low, change_high: its two-sided 95 % interval, whose
    ends lie further out than the one-sided 95 % bound that decides. more_examples: about how many more examples like
    these would decide; None when it is decided, or when a million would not do. beyond: by how much the estimate is
    beyond the limit, and how many examples make it, "" where it is not. runaways: of word errors, how many examples
    have more errors than words, which `change` counts as wholly wrong, and the exact 95 % interval of their share.
    """

    decision: Decision
    limit: str  # the text of the Drop, "" without one
    change: float
    change_low: float
    change_high: float
    examples: int
    more_examples: int | None
    reason: str
    beyond: str = ""
    runaways: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)

    def plot(self) -> Figure:
        """The change with its 95 % interval, and the limit on the loss."""
        limit = -100 * parse_drop(self.limit).amount if self.limit else 0.0
        row = Estimate(self.decision, 100 * self.change, 100 * self.change_low, 100 * self.change_high)
        return intervals(
            [(f"change of quality (%), limit {self.limit}" if self.limit else "change of quality (%)", [row], limit)]
        )

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Verdict:
        """The inverse of `as_dict`; keys of later versions are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in row.items() if key in known})


def judge_pair(
    reference: Scores,
    candidate: Scores,
    limit: Drop | None,
    *,
    unlabelled: tuple[int, int] | None = None,
    seed: int = 0,
    error: float = ERROR,
) -> Verdict:
    """Whether the candidate's loss is within the limit. The Scores are of the same examples in the same order.

    error: how often *within* and *exceeds* may be wrong, each; less than 5 % where several candidates are judged.

    unlabelled: (disagreements, examples) of further examples without labels. They count for right-or-wrong scores and
    a limit in points: the loss is at most the share on which the two disagree. Without a limit nothing is decided,
    but the change and its interval are reported. Raises InvalidOption for a limit that the metric cannot have, BadData
    without examples, BrokenModel for scores that are not finite, ValueError for scores that are not a pair.
    """
    check_pair(reference, candidate)
    evidence = _evidence(reference, candidate, limit, unlabelled or (0, 0), seed)
    found = _judged(evidence, limit, error)
    runaways = Runaways.of(reference, candidate)
    if runaways is None:
        return found
    low, high = runaways.interval
    reason = f"{found.reason}; {runaways}" if runaways.candidate else found.reason
    return replace(found, reason=reason, runaways={**asdict(runaways), "low": low, "high": high})


def _judged(evidence: Evidence, limit: Drop | None, error: float) -> Verdict:
    if limit is None:
        return _verdict(evidence, "not shown", None, None, f"{evidence}, and no limit to judge the loss by")
    for side, decision, shows in _sides(evidence):
        if shows(limit.amount, error=error):
            return _verdict(
                evidence, decision, limit, None, f"{evidence} show at {100 * (1 - error):g} % a loss {side} {limit}"
            )
    more = _more_examples(evidence, limit.amount, error)
    return _verdict(evidence, "not shown", limit, more, _undecided(evidence, limit, more))


def _sides(evidence: Evidence) -> tuple[tuple[str, Decision, Any], ...]:
    return ("below", "within", evidence.shows_below), ("above", "exceeds", evidence.shows_above)


def can_show(limit: Drop, examples: int, lengths: stats.Floats | None = None, error: float = ERROR) -> tuple[bool, int]:
    """Whether that many examples can show the limit when no answer changes, and how many it takes: 299 for 1 pt.

    A limit of 0 is only shown by a candidate that gains: the number is then of examples all gained. lengths: what the
    examples at hand count, (examples,), where they are of uneven length, as utterances and chunks of text are: the
    number is then of examples that are as uneven, and higher, since the further one that no sample has may be long.
    """
    share = min(limit.amount / COSTLY, COSTLY) if limit.relative else limit.amount
    uneven = lengths is not None and len(lengths) > 0 and float(lengths.min()) != float(lengths.max())
    if uneven and share > 0:
        assert lengths is not None
        needed = stats.uneven_to_show(share, lengths, stats.weighted_quantile(lengths, LONG), 1 - error)
    else:
        needed = stats.examples_to_show(share, 1 - error)
    return examples >= needed, needed


def _evidence(
    reference: Scores, candidate: Scores, limit: Drop | None, unlabelled: tuple[int, int], seed: int
) -> Evidence:
    relative = is_unbounded(reference) if limit is None else limit.relative
    if is_unbounded(reference) and not relative:
        raise InvalidOption(
            f"a loss of {reference.metric} cannot be in points ({limit}): give a relative one, for example 1%"
        )
    if relative or not (is_share(reference) and is_share(candidate)):
        return Ratios.of(reference, candidate, relative, seed)
    shares = Shares.of(reference, candidate, unlabelled)
    if not shares.examples:
        raise BadData(f"there is no example to judge {reference.metric} on")
    return shares


def _verdict(evidence: Evidence, decision: Decision, limit: Drop | None, more: int | None, reason: str) -> Verdict:
    low, high = evidence.interval()
    text, beyond = "", ""
    if limit is not None:
        text, beyond = str(limit), _beyond(evidence, limit, (low, high))
    return Verdict(decision, text, evidence.change, low, high, evidence.examples, more, reason, beyond)


def _beyond(evidence: Evidence, limit: Drop, interval: tuple[float, float]) -> str:
    """By how much the estimated loss is beyond the limit; "" where it is not."""
    loss = -evidence.change
    if loss <= limit.amount + TIE:
        return ""
    low, high = (_amount(-end, limit) for end in reversed(interval))
    excess = f"{_amount(loss - limit.amount, limit)} beyond {limit}: {evidence.excess(limit.amount)}"
    return f"the loss is {_amount(loss, limit)} by the estimate (95 %: {low} to {high}), {excess}"


def _amount(loss: float, limit: Drop) -> str:
    return f"{loss * 100:.2f}{'%' if limit.relative else 'pt'}"


def _more_examples(evidence: Evidence, limit: float, error: float) -> int | None:
    """About how many more examples would show the estimated side of the limit, rounded up to two digits."""
    shows = evidence.shows_below if -evidence.change < limit else evidence.shows_above
    if -evidence.change == limit:
        return None
    needed = stats.examples_needed(
        lambda examples: shows(limit, examples / evidence.examples, error), evidence.examples
    )
    return None if needed is None else _rounded_up(needed - evidence.examples)


def _rounded_up(number: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def _undecided(evidence: Evidence, limit: Drop, more: int | None) -> str:
    within = -evidence.change <= limit.amount
    estimate = _amount(-evidence.change, limit)
    aim = f"a limit of {limit}" if within else f"that the loss, estimated at {estimate}, exceeds {limit}"
    if more is None:
        return f"{evidence} cannot show {aim}, nor would a million like them: the estimate is too near the limit"
    return f"{evidence} cannot show {aim}; about {more} more like them would"
