"""Statistics of quality: intervals of shares, tests of paired shares, a bootstrap of paired ratios, sample sizes.

Everything here is of plain numbers and arrays; `judge.verdict` makes verdicts of it, docs/verdicts.md has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv, gammaln, xlog1py, xlogy

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 0.95
NUISANCE_ERROR = 1e-6  # error level spent on bounding the nuisance parameter of the exact test (Berger & Boos 1994)
PRECISION = 1e-5  # of exact bounds: a thousandth of a point
DRAWS = 4000
CEILING = 1_000_000  # more examples than this are no answer to "how many more?"
_BATCH = 2**20  # random numbers held at once
_TIE = 1e-9  # scores this near are equal


def wilson(successes: float, examples: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided score interval of a share; (0, 1) without examples. Wilson 1927."""
    if examples == 0:
        return 0.0, 1.0
    z, share = _z(level), successes / examples
    middle = share + z * z / (2 * examples)
    half = z * math.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    scale = 1 + z * z / examples
    low = 0.0 if successes == 0 else max(0.0, (middle - half) / scale)
    return low, 1.0 if successes == examples else min(1.0, (middle + half) / scale)


def clopper_pearson(successes: int, examples: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided exact interval of a share: it covers in at least `level` of all samples. Clopper & Pearson 1934."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, examples - successes + 1, tail))
    high = 1.0 if successes == examples else float(betaincinv(successes + 1, examples - successes, 1 - tail))
    return low, high


def unlabelled_bound(disagreements: int, examples: int, level: float = LEVEL) -> float:
    """One-sided upper bound of the share on which two models disagree, and so of the loss. Clopper & Pearson 1934."""
    return clopper_pearson(disagreements, examples, 2 * level - 1)[1]


def tango_score(gained: ArrayLike, lost: ArrayLike, examples: int, change: float) -> Floats:
    """Score statistic of H0: change = `change`, of paired shares; standard normal under H0. Tango 1998, eq. 6 and 7.

    gained, lost: counts of examples that only the candidate, or only the reference, has right; any shape. `change` is
    in (-1, 1). Large values say that the true change is higher. 0 where both the difference and its variance vanish.
    """
    b, c, n, D = np.asarray(gained, float), np.asarray(lost, float), examples, change
    B = -b - c + (2 * n - b + c) * D
    q21 = (np.sqrt(np.maximum(B * B + 8 * n * c * D * (1 - D), 0)) - B) / (4 * n)  # restricted maximum likelihood
    variance = np.maximum(n * (2 * q21 + D * (1 - D)), 0)
    difference = b - c - n * D
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(variance)
    return np.where(np.abs(difference) < _TIE, 0.0, score)


def tango(gained: int, lost: int, examples: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided score interval of the change (gained - lost) / examples of paired shares. Tango 1998.

    Nearly exact on average, but its one-sided error reaches 7 % at small counts: verdicts use `paired_p`.
    """
    if examples == 0:
        return -1.0, 1.0
    z, estimate = _z(level), (gained - lost) / examples
    low = _boundary(lambda D: bool(tango_score(gained, lost, examples, D) >= z), -1.0, estimate)
    high = _boundary(lambda D: bool(tango_score(gained, lost, examples, D) <= -z), 1.0, estimate)
    return low, high


def paired_p(gained: int, lost: int, examples: int, change: float, unlabelled: tuple[int, int] = (0, 0)) -> float:
    """Exact p-value of H0: the true change of paired shares is at most `change`, in (-1, 1).

    Unconditional: the largest probability, over all discordance rates that the data leave possible, of a Tango score
    at least as high as the one seen. A true H0 is rejected at p <= 0.05 in at most 5 % of samples, whatever their
    size. Chan 1998; Hsueh, Liu & Chen 2001; Berger & Boos 1994 for the bounded discordance.

    unlabelled: (disagreements, examples) of further examples without labels. Each disagreement counts as a loss, which
    can only raise the p-value: had we labels, a disagreement would be a loss, a gain, or neither.
    """
    disagreements, more = unlabelled
    total = examples + more
    if total == 0:
        return 1.0
    lowest = 0.0 if more else _discordance(gained + lost, examples)[0]
    highest = _discordance(gained + lost + disagreements, total)[1]
    if highest < -change:  # H0 needs a discordance of at least the loss
        return NUISANCE_ERROR
    score = float(tango_score(gained, lost + disagreements, total, change)) - _TIE
    return min(1.0, _largest_tail(score, total, change, max(lowest, -change), highest) + NUISANCE_ERROR)


def paired_bounds(
    gained: int, lost: int, examples: int, tail: float, unlabelled: tuple[int, int] = (0, 0)
) -> tuple[float, float]:
    """Exact bounds of the change of paired shares, each wrong in at most `tail` of samples: `paired_p` inverted.

    An unlabelled disagreement counts as a loss in the lower bound and as a gain in the upper one.
    """
    total = examples + unlabelled[1]
    if total == 0:
        return -1.0, 1.0
    worst, best = (gained - lost - unlabelled[0]) / total, (gained - lost + unlabelled[0]) / total
    low = _boundary(lambda D: paired_p(gained, lost, examples, D, unlabelled) <= tail, -1.0, worst, PRECISION)
    high = _boundary(lambda D: paired_p(lost, gained, examples, -D, unlabelled) <= tail, 1.0, best, PRECISION)
    return low, high


@dataclass(frozen=True)
class RatioDraws:
    """Draws of a bootstrap of sum(difference) / sum(base) over examples."""

    sums: Floats  # (draws, 2): weighted sums of difference and base
    totals: Floats  # (2,): the sums seen
    weights: Floats  # (draws,): of one further example

    def ratios(self, further: tuple[float, float], growth: float = 1.0) -> Floats:
        """(draws,) ratios with one unseen example (difference, base) added, for `growth` times as many examples.

        Under growth the examples seen keep their mean, and their spread grows with its square root.
        """
        sums = growth * self.totals + math.sqrt(growth) * (self.sums - self.totals)
        sums = sums + self.weights[:, None] * np.array(further)
        ratios: Floats = sums[:, 0] / sums[:, 1]
        return ratios


def paired_ratio_bootstrap(difference: Floats, base: Floats, draws: int = DRAWS, seed: int = 0) -> RatioDraws:
    """Bootstrap of sum(difference) / sum(base), each (examples,), over examples.

    The Bayesian bootstrap (Rubin 1981): each draw weighs every example by an independent exponential. One unseen
    example with the worst value turns the quantiles of the draws into bounds that hold for few and for skewed
    examples too, where a percentile bootstrap knows only what it saw (Gaffke 2005; of values 0 and 1 the upper bound
    is Clopper and Pearson's). The same for the same seed and for any order of the examples.
    """
    rows, counts = np.unique(np.stack([difference, base], axis=1), axis=0, return_counts=True)
    coin = np.random.default_rng(seed)
    shapes = counts.astype(np.float64)
    sums = np.concatenate([_weights(coin, shapes, size) @ rows for size in _batches(draws, len(rows))])
    return RatioDraws(sums, shapes @ rows, coin.standard_exponential(draws))


def weighted_quantile(sizes: Floats, share: float) -> float:
    """The size below which examples hold `share` of the total size: at 0.95, one word in 20 is in a longer one."""
    ordered = np.sort(sizes)
    held = np.cumsum(ordered)
    return float(ordered[np.searchsorted(held, share * held[-1])])


def examples_needed(decides: Callable[[int], bool], examples: int, ceiling: int = CEILING) -> int | None:
    """The least number above `examples` at which `decides` turns true, within 2 % of what it adds to them.

    None when not even `ceiling` does. Searches by doubling and halving, so `decides` should be nearly monotone.
    """
    low, high = examples, min(2 * examples, ceiling)
    while not decides(high):
        if high >= ceiling:
            return None
        low, high = high, min(2 * high, ceiling)
    while high - low > max(1, (high - examples) // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def examples_to_show(limit: float, level: float = LEVEL) -> int:
    """The fewest examples without any disagreement that show a loss below `limit`, a share in (0, 1): 299 for 0.01.

    A loss of at least `limit` leaves n examples untouched with probability (1 - limit)^n at most. For limit 0, which
    no number of equal answers shows, the fewest examples with all answers gained.
    """
    least = 0.5 if limit == 0 else 1 - limit
    examples = max(1, math.floor(math.log(1 - level) / math.log(least)))
    while paired_p(examples if limit == 0 else 0, 0, examples, -limit) > 1 - level:
        examples += 1
    return examples


def uneven_to_show(limit: float, lengths: Floats, longest: float, level: float = LEVEL) -> int:
    """As `examples_to_show` for a ratio of sums over examples whose `lengths`, (examples,), spread as those given.

    With one further example of the length `longest` that is wholly lost, a draw of `paired_ratio_bootstrap` is at least
    `limit` where w longest (1 - limit) >= limit sum(w_i length_i). The weights are exponential, so the probability is
    the product of 1 / (1 + c length_i) with c = limit / ((1 - limit) longest): of equal lengths, (1 - limit)^n.
    """
    rate = float(np.log1p(limit / ((1 - limit) * longest) * lengths).mean())
    return math.ceil(-math.log(1 - level) / rate)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _boundary(rejected: Callable[[float], bool], outside: float, inside: float, precision: float = 1e-8) -> float:
    """Where, between a rejected value and one that is not, rejection ends: the rejected side of the last halving."""
    while abs(inside - outside) > precision:
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if rejected(middle) else (outside, middle)
    return outside


def _discordance(discordant: int, examples: int) -> tuple[float, float]:
    return clopper_pearson(discordant, examples, 1 - NUISANCE_ERROR)


def _largest_tail(score: float, examples: int, change: float, lowest: float, highest: float) -> float:
    """The largest probability of a score of at least `score` under H0, over discordance rates lowest..highest.

    For a given discordance the probability is largest where the change is `change` itself, since the score rises
    with gained and falls with lost (Barnard's condition; Hsueh, Liu & Chen 2001).
    """
    first, last = math.asin(math.sqrt(lowest)), math.asin(math.sqrt(highest))  # the scale on which deviations are equal
    grid = np.linspace(first, last, 16 + math.ceil(8 * (last - first) * math.sqrt(examples)))
    lost, fewest = _rejection_region(score, examples, change, lowest, highest)
    tails = _tails(np.sin(grid) ** 2, lost, fewest, examples, change)
    peak = int(tails.argmax())
    finer = np.linspace(grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)], 17)
    return float(max(tails[peak], _tails(np.sin(finer) ** 2, lost, fewest, examples, change).max()))


def _cells(discordance: Any, change: float) -> tuple[Any, Any]:
    """Probabilities (gained, lost) with this discordance whose difference is nearest to `change`, both >= 0."""
    if change < 0:
        gained = np.maximum((discordance + change) / 2, 0)
        return gained, discordance - gained
    lost = np.maximum((discordance - change) / 2, 0)
    return discordance - lost, lost


def _rejection_region(
    score: float, examples: int, change: float, lowest: float, highest: float
) -> tuple[Integers, Integers]:
    """For each count of lost that can occur, (k,), the fewest gained that reach the score; beyond reach: n - lost + 1.

    Counts more than 8 deviations (and 40) from what the rates allow are left out; `_tails` accounts for their mass.
    """
    least, most = (examples * float(_cells(rate, change)[1]) for rate in (lowest, highest))
    first = max(0, math.floor(least - 8 * math.sqrt(least) - 40))
    last = min(examples, math.ceil(most + 8 * math.sqrt(most) + 40))
    lost = np.arange(first, last + 1)
    low, high = np.zeros_like(lost), examples - lost + 1
    while (low < high).any():
        middle = (low + high) // 2
        reached = (tango_score(middle, lost, examples, change) >= score) & (middle <= examples - lost)
        high = np.where(reached, middle, high)
        low = np.where(reached | (low >= high), low, middle + 1)
    return lost, low


def _tails(discordance: Floats, lost: Integers, fewest: Integers, examples: int, change: float) -> Floats:
    """P(gained >= fewest[lost]) for each discordance rate (r,), with (gained, lost) trinomial and lost (k,) -> (r,)."""
    p12, p21 = (cell[:, None] for cell in _cells(discordance, change))
    rest = examples - lost
    log_coefficient = gammaln(examples + 1) - gammaln(lost + 1) - gammaln(rest + 1)
    mass = np.exp(log_coefficient + xlogy(lost, p21) + xlog1py(rest, -p21))
    share = np.clip(p12 / np.maximum(1 - p21, 1e-300), 0, 1)
    reach = betainc(np.maximum(fewest, 1), np.maximum(rest - fewest + 1, 1), share)
    reach = np.where(fewest <= 0, 1.0, np.where(fewest > rest, 0.0, reach))
    left_out = np.maximum(1 - mass.sum(axis=1), 0)
    tails: Floats = (mass * reach).sum(axis=1) + left_out
    return tails


def _batches(draws: int, width: int) -> Iterator[int]:
    step = max(1, _BATCH // width)
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _weights(coin: np.random.Generator, shapes: Floats, size: int) -> Floats:
    """Sums of `shapes` exponentials each: (size, rows)."""
    if (shapes == 1).all():
        return coin.standard_exponential((size, len(shapes)))
    return coin.standard_gamma(shapes, (size, len(shapes)))
