"""Whether verdicts keep their promise, and how many examples they need. Simulated, so that the true loss is known.

    python benchmarks/verdicts.py            # about 9 minutes of one core; writes into docs/results/measuring.md

Each row: pairs of models whose true loss is exactly the limit, or half as much again. Whoever calls such a pair
"within the limit" is wrong; the promise is to be wrong in at most 5 %. Beside `judge_pair` stand the comparison of the
two estimates, the percentile bootstrap of the paired difference, and a separate interval for each model.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from markdown import RESULTS, write_between
from microbudget.judge import statistics as stats
from microbudget.judge.evidence import Ratios, Shares
from microbudget.task import Scores

LIMIT = 0.01
ERROR = 0.05
POWER = 0.8
ACCURACY = 0.9  # of the simulated reference
POPULATION = 400_000
BOOTSTRAP_DRAWS = 1000
RATIO_DRAWS = 200
Floats = NDArray[np.float64]
Row = tuple[str, ...]
RARE = "one chunk in 100 costs half as much again"
RARER = "one chunk in 1,000 costs ten times as much"


# Accuracy: an outcome is the numbers gained and lost, so its probability can be had without simulation.


@cache
def within(gained: int, lost: int, examples: int) -> bool:
    return Shares(gained, lost, examples).shows_below(LIMIT)


@cache
def percentile_accepts(gained: int, lost: int, examples: int) -> bool:
    """The 5 % quantile of the paired difference over resampled examples lies above -limit."""
    shares = np.array([gained, lost, examples - gained - lost]) / examples
    draws = np.random.default_rng(0).multinomial(examples, shares, BOOTSTRAP_DRAWS)
    return bool(np.quantile((draws[:, 0] - draws[:, 1]) / examples, ERROR) > -LIMIT)


def unpaired_accepts(right: int, reference_right: int, examples: int) -> bool:
    """The lower end of the difference of two independent shares, from their Wilson intervals. Newcombe 1998."""
    level = 1 - 2 * ERROR
    candidate, reference = right / examples, reference_right / examples
    low, high = stats.wilson(right, examples, level)[0], stats.wilson(reference_right, examples, level)[1]
    return candidate - reference - math.hypot(candidate - low, high - reference) > -LIMIT


def fewest_gained(most: int, accepts: Callable[[int], bool]) -> int:
    """The fewest that are accepted, most + 1 if none are."""
    low, high = 0, most + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts(middle) else (middle + 1, high)
    return low


def probability(accepts: Callable[[int, int], bool], examples: int, gained: Floats, lost: Floats) -> Floats:
    """Of accepting (gained, lost) counts, under each pair of true shares: (k,), (k,) -> (k,). Enumerated."""
    first, last = binom.ppf(1e-10, examples, lost.min()), binom.ppf(1 - 1e-10, examples, lost.max())
    c = np.arange(int(first), int(last) + 1)
    fewest = np.array([fewest_gained(examples - k, lambda b, k=k: accepts(b, int(k))) for k in c])
    p12, p21 = gained[:, None], lost[:, None]
    reach = binom.sf(fewest - 1, examples - c, p12 / (1 - p21))
    total: Floats = (binom.pmf(c, examples, p21) * reach).sum(axis=1)
    return total


def judge_accuracy(discordance: float, loss: float, examples: int, trials: int) -> Row:
    """True probabilities of accepting; for separate intervals, which need more than two counts, a simulated share."""
    gained, lost = (discordance - loss) / 2, (discordance + loss) / 2
    ways: tuple[Callable[[int, int], bool], ...] = (
        lambda b, c: within(b, c, examples),
        lambda b, c: (b - c) / examples > -LIMIT,
        lambda b, c: percentile_accepts(b, c, examples),
    )
    chances = [probability(way, examples, np.array([gained]), np.array([lost]))[0] for way in ways]
    cells = [gained, lost, ACCURACY - lost, 1 - gained - ACCURACY]
    draws = np.random.default_rng(examples).multinomial(examples, cells, trials)
    unpaired = [unpaired_accepts(int(both + b), int(both + c), examples) for b, c, both, _ in draws]
    return tuple(f"{chance:.1%}" for chance in (*chances, np.mean(unpaired)))


# Other metrics: a population of examples with a planted loss, from which the pairs are drawn.


@dataclass(frozen=True)
class Population:
    """What each example adds to the numerators of both models and to the denominator; all (examples,)."""

    reference: Floats
    candidate: Floats
    denominator: Floats
    relative: bool

    @property
    def loss(self) -> float:
        base = self.reference if self.relative else self.denominator
        return float((self.candidate - self.reference).sum() / base.sum())

    def sample(self, examples: int, coin: np.random.Generator) -> tuple[Scores, Scores]:
        chosen = coin.integers(0, len(self.reference), examples)
        metric = "bits_per_byte" if self.relative else "wer"
        return (
            Scores(metric, self.reference[chosen], self.denominator[chosen], higher_is_better=False),
            Scores(metric, self.candidate[chosen], self.denominator[chosen], higher_is_better=False),
        )


def utterances(kind: str, loss: float) -> Population:
    """Heavy-tailed lengths; half the words of the hardest utterances wrong; candidate and reference mostly agree.

    One utterance in eight has a word more or less wrong at no loss; the loss comes in single words, in whole
    utterances whatever their length, or in whole utterances of which long ones are lost more often.
    """
    coin = np.random.default_rng(7)
    words = np.clip(np.round(coin.lognormal(2.1, 0.6, POPULATION)), 1, 60)
    errors = coin.binomial(words.astype(int), coin.beta(0.5, 4, POPULATION)).astype(float)
    noise = np.where((coin.random(POPULATION) < 0.12) & (errors > 0), coin.choice([-1.0, 1.0], POPULATION), 0.0)
    lost = {"single words": np.ones(POPULATION), "whole utterances": words - errors, "long utterances": words - errors}
    order = coin.permutation(POPULATION)
    if kind == "long utterances":
        order = np.argsort(coin.exponential(1 / words))  # drawn in proportion to their length
    planted = np.cumsum(lost[kind][order])
    chosen = order[: np.searchsorted(planted, loss * words.sum() - noise.sum())]
    candidate = errors + noise
    candidate[chosen] += lost[kind][chosen]
    return Population(errors, candidate, words, relative=False)


def chunks(kind: str, loss: float) -> Population:
    """Chunks of text of uneven difficulty, each with its own relative change of about 2 %: even, or heavy-tailed."""
    coin = np.random.default_rng(8)
    reference = 1000 * coin.lognormal(0.8, 0.35, POPULATION)
    changes = {
        "normal": coin.normal(0, 0.02, POPULATION),
        "Student's t, 3 degrees": coin.standard_t(3, POPULATION) * 0.012,
        "log-normal": coin.lognormal(-4.6, 1.0, POPULATION),
        RARE: np.where(coin.random(POPULATION) < 0.01, 0.5, 0.0) + coin.normal(0, 0.005, POPULATION),
        RARER: np.where(coin.random(POPULATION) < 0.001, 9.0, 0.0) + coin.normal(0, 0.005, POPULATION),
    }
    change = changes[kind] * reference
    change += reference * (loss - change.sum() / reference.sum())
    return Population(reference, reference + change, np.full(POPULATION, 1000.0), relative=True)


def ratio_of(scores: Scores, weights: Floats) -> Floats:
    ratios: Floats = (weights @ scores.numerator) / (weights @ scores.denominator)
    return ratios


def bootstrap_accepts(reference: Scores, candidate: Scores, paired: bool, relative: bool, seed: int) -> bool:
    """The 5 % quantile of the change over resampled examples, the same ones for both models or not."""
    coin, shape = np.random.default_rng(seed), (RATIO_DRAWS, len(reference.numerator))
    ours = coin.poisson(1.0, shape).astype(float)  # how often each is drawn, but for their sum
    theirs = ours if paired else coin.poisson(1.0, shape).astype(float)
    before, after = ratio_of(reference, ours), ratio_of(candidate, theirs)
    losses = after / before - 1 if relative else after - before
    return bool(np.quantile(losses, 1 - ERROR) < LIMIT)


def judge_population(population: Population, examples: int, trials: int) -> Row:
    coin, accepted = np.random.default_rng(examples), np.zeros(4)
    for trial in range(trials):
        reference, candidate = population.sample(examples, coin)
        evidence = Ratios.of(reference, candidate, population.relative, seed=trial)
        accepted += (
            evidence.shows_below(LIMIT),
            -evidence.change < LIMIT,
            bootstrap_accepts(reference, candidate, True, population.relative, trial),
            bootstrap_accepts(reference, candidate, False, population.relative, trial),
        )
    return tuple(f"{share:.1%}" for share in accepted / trials)


def false_acceptance(trials: int) -> Iterator[Row]:
    for loss in (LIMIT, 1.5 * LIMIT):
        for discordance in (0.03, 0.1):
            for examples in (72, 144, 300, 1000):
                name = f"accuracy, {discordance:.0%} discordant"
                accepted = judge_accuracy(discordance, loss, examples, trials)
                yield name, f"{loss * 100:g} pt", str(examples), *accepted
    for kind in ("single words", "whole utterances", "long utterances"):
        population = utterances(kind, LIMIT)
        for examples in (100, 500, 1500):
            accepted = judge_population(population, examples, trials)
            yield f"WER, lost in {kind}", f"{population.loss * 100:.2f} pt", str(examples), *accepted
    for kind in ("normal", "Student's t, 3 degrees", "log-normal", RARE):
        yield from judge_chunks(kind, (100, 400), trials)


def judge_chunks(kind: str, sizes: Sequence[int], trials: int) -> Iterator[Row]:
    population = chunks(kind, LIMIT)
    for examples in sizes:
        accepted = judge_population(population, examples, trials)
        yield f"bits per byte, {kind}", f"{population.loss * 100:.2f} %", str(examples), *accepted


def true_errors() -> Iterator[Row]:
    """The largest probability, over discordances up to one half, of accepting a loss of exactly the limit."""
    z = norm.ppf(1 - ERROR)
    for limit in (0.005, 0.01, 0.02, 0.05):
        gained = np.linspace(0, (0.5 - limit) / 2, 400)
        row = [f"{limit * 100:g} pt"]
        for examples in (30, 72, 144, 300):
            tests: tuple[Callable[[int, int], bool], ...] = (
                lambda b, c: stats.paired_p(b, c, examples, -limit) <= ERROR,  # noqa: B023
                lambda b, c: bool(stats.tango_score(b, c, examples, -limit) >= z),  # noqa: B023
            )
            exact, tango = (probability(test, examples, gained, gained + limit).max() for test in tests)
            row.append(f"{exact:.1%} ({tango:.1%})")
        yield tuple(row)


# How many examples show that a candidate without any loss is within the limit.


def first_to_accept(accepts: Callable[[int], float], start: int) -> int:
    """The examples, within 3 %, from which a decision falls in at least POWER of trials."""
    low, high = start, start
    while accepts(high) < POWER:
        low, high = high, 2 * high
    while high > 1.03 * low:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts(middle) >= POWER else (middle, high)
    return high


def paired_accepts(discordance: float, examples: int) -> float:
    share = np.array([discordance / 2])
    return float(probability(lambda b, c: within(b, c, examples), examples, share, share)[0])


def unpaired_accepted(examples: int, trials: int) -> float:
    right = np.random.default_rng(examples).binomial(examples, ACCURACY, (trials, 2))
    return float(np.mean([unpaired_accepts(int(a), int(b), examples) for a, b in right]))


def unlabelled_accepts(disagreement: float, examples: int) -> float:
    """The probability that few enough of the examples disagree."""
    enough = fewest_gained(examples, lambda count: stats.unlabelled_bound(count, examples) >= LIMIT)
    return float(binom.cdf(enough - 1, examples, disagreement))


def examples_for_accuracy() -> Iterator[Row]:
    unpaired = first_to_accept(lambda n: unpaired_accepted(n, 2000), 300)
    for discordance in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
        paired = first_to_accept(lambda n: paired_accepts(discordance, n), 299)  # noqa: B023
        without = "never"
        if discordance < LIMIT:
            without = f"{first_to_accept(lambda n: unlabelled_accepts(discordance, n), 299):,}"  # noqa: B023
        yield f"accuracy, {discordance * 100:g} % discordant", f"{paired:,}", f"{unpaired:,}", without


def examples_for_ratios(trials: int) -> Iterator[Row]:
    for name, population in (
        ("WER, 12 % of utterances differ by a word", utterances("single words", 0.0)),
        ("bits per byte, normal changes of 2 %", chunks("normal", 0.0)),
    ):

        def accepts(examples: int, population: Population = population) -> float:
            coin = np.random.default_rng(examples)
            pairs = [population.sample(examples, coin) for _ in range(trials)]
            return float(np.mean([Ratios.of(*pair, population.relative, 0).shows_below(LIMIT) for pair in pairs]))

        yield name, f"{first_to_accept(accepts, 25):,}", f"{unpaired_examples(population):,}", "never"


def unpaired_examples(population: Population) -> int:
    """By the normal approximation, from the spread of the two ratios over the population."""
    spreads = []
    for numerator in (population.reference, population.candidate):
        ratio = numerator.sum() / population.denominator.sum()
        scale = numerator.mean() if population.relative else population.denominator.mean()
        spreads.append(float((numerator - ratio * population.denominator).std() / scale))
    z = norm.ppf(1 - ERROR) + norm.ppf(POWER)
    return math.ceil((z / LIMIT) ** 2 * (spreads[0] ** 2 + spreads[1] ** 2))


def table(header: Sequence[str], rows: Iterator[Row]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for line in lines:
        print(line, flush=True)
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def page(trials: int) -> str:
    header = ("metric", "true loss", "examples", "`judge_pair`", "estimates", "percentile bootstrap", "unpaired")
    accepted = table(header, false_acceptance(trials))
    rare = table(header, judge_chunks(RARER, (400, 1600), trials // 4))
    errors = table(("limit", *(f"{n} examples" for n in (30, 72, 144, 300))), true_errors())
    header = ("metric", "paired", "unpaired", "unlabelled")
    needed = table(header, chain(examples_for_accuracy(), examples_for_ratios(trials // 4)))
    return f"""
**How often a loss at or above the limit of 1 pt (1 %) is called *within*.** At most 5 % is the promise. For accuracy by
enumeration of all outcomes, otherwise in {trials:,} simulated pairs a row. *estimates*: the difference of the two
numbers is taken as it is; *unpaired*: a separate interval for each model (simulated).

{accepted}

**Where the promise ends.** Bits have no worst value. The further chunk costs half as much again; chunks that cost more
than that, and are too rare to be in the sample, go unnoticed ({trials // 4} pairs a row):

{rare}

**The largest true error of the exact test** over all discordances up to one half, by enumeration; in brackets that of
Tango's score test, from which the exact test takes its order.

{errors}

**Examples with which a candidate without any loss is shown to be within 1 pt (1 %)** in {POWER:.0%} of trials. The
reference's accuracy is {ACCURACY:.0%}.

{needed}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="simulated pairs a row (default 1000)")
    parser.add_argument("--dry", action="store_true", help="print the tables, leave docs/results/measuring.md as it is")
    options = parser.parse_args()
    started = time.monotonic()
    text = page(options.trials)
    if not options.dry:
        write_between(RESULTS / "measuring.md", "verdicts", text)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
