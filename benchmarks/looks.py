"""Whether decisions hold however often one looks, and intervals where recordings are few; the true loss is known.

    python benchmarks/looks.py          # about 4 minutes of one core; writes into docs/results/measuring.md

Losses are simulated as in `benchmarks/verdicts.py`, or drawn from the real errors of whisper-tiny.en that
`benchmarks/error_patterns.py` wrote down.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as students_t

from markdown import RESULTS, write_between
from microbudget.judge.evidence import Differences, Ratios, capped
from microbudget.judge.sequential import decide
from microbudget.task import Scores
from verdicts import LIMIT, RARE, Population, chunks, table, utterances

PATTERNS = Path(__file__).with_name("error_patterns.csv")
BLOCKS = (4, 8, 16)
EXAMPLES = 128
FEW = (6, 12, 36)
TAIL = 0.025
DRAWS = 400  # of the percentile bootstrap
Floats = NDArray[np.float64]
Row = tuple[str, ...]
Draw = Callable[[int, np.random.Generator], Differences]


@dataclass(frozen=True)
class Case:
    """Pairs of models whose true loss is known."""

    name: str
    loss: float
    draw: Draw


def first(differences: Differences, count: int) -> Differences:
    """The first examples."""
    parts = {name: getattr(differences, name)[:count] for name in ("loss", "base", "length", "gainable")}
    return replace(differences, **parts)


def of_population(name: str, population: Population) -> Case:
    """A case of `benchmarks/verdicts.py`."""

    def draw(examples: int, coin: np.random.Generator) -> Differences:
        return Differences.of(*population.sample(examples, coin), population.relative)

    return Case(name, population.loss, draw)


def answers(gained: float, lost: float) -> Case:
    """Right and wrong answers, by the shares gained and lost."""

    def draw(examples: int, coin: np.random.Generator) -> Differences:
        loss = coin.choice([-1.0, 0.0, 1.0], examples, p=[gained, 1 - gained - lost, lost])
        right, ones = np.where(loss < 0, 0.0, 1.0), np.ones(examples)
        pair = [Scores("accuracy", each, ones) for each in (right, np.where(loss == 0, right, 1 - right))]
        return Differences.of(pair[0], pair[1], relative=False)

    return Case(f"accuracy, {100 * (gained + lost):g} % discordant", lost - gained, draw)


def bits(change: Callable[[int, np.random.Generator], Floats], name: str, loss: float) -> Case:
    """Passages of uneven difficulty with their own relative changes."""

    def draw(examples: int, coin: np.random.Generator) -> Differences:
        before = 1000 * coin.lognormal(0.8, 0.35, examples)
        pair = [
            Scores("bits per byte", each, np.full(examples, 1000.0), higher_is_better=False)
            for each in (before, before * (1 + change(examples, coin)))
        ]
        return Differences.of(pair[0], pair[1], relative=True)

    return Case(name, loss, draw)


def patterns() -> Iterator[tuple[str, Population]]:
    """The real errors, by variant; each recording's count up to its length."""
    rows: dict[str, list[Floats]] = {}
    with PATTERNS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = [float(row[key]) for key in ("errors_reference", "errors_candidate", "words")]
            rows.setdefault(row["variant"], []).append(np.array(found))
    for name, found in rows.items():
        before, after, words = np.array(found).T
        ours, theirs = (capped(Scores("wer", each, words, higher_is_better=False)) for each in (after, before))
        yield name, Population(theirs, ours, words, relative=False)


def at_the_limit() -> Iterator[Case]:
    """Pairs whose loss is the limit: whoever decides is wrong."""
    yield answers(0.0, 0.01)
    yield answers(0.03, 0.05)
    for spread in (0.005, 0.05):
        yield bits(lambda n, coin, s=spread: coin.normal(0.02, s, n), f"bits, normal, spread {spread:.1%}", 0.02)
    yield bits(lambda n, coin: coin.exponential(0.02, n), "bits, exponential", 0.02)
    for kind in ("Student's t, 3 degrees", "log-normal", RARE):
        yield of_population(f"bits, {kind}", chunks(kind, LIMIT))
    for kind in ("single words", "whole utterances", "long utterances"):
        yield of_population(f"WER, lost in {kind}", utterances(kind, LIMIT))
    for name, population in patterns():
        yield of_population(f"whisper-tiny.en, {name}", population)


def false_decisions(trials: int) -> Iterator[Row]:
    """Shares of runs that ever decide, within / beyond, with a look after every so many examples."""
    for case in at_the_limit():
        coin, wrong = np.random.default_rng(1), {block: {"within": 0, "exceeds": 0} for block in BLOCKS}
        for _ in range(trials):
            found = case.draw(EXAMPLES, coin)
            looks = {read: decide(first(found, read), case.loss) for read in range(4, EXAMPLES + 1, 4)}
            for block in BLOCKS:
                decided = (looks[read] for read in range(block, EXAMPLES + 1, block) if looks[read])
                if decision := next(decided, None):
                    wrong[block][decision] += 1
        shares = [f"{wrong[b]['within'] / trials:.1%} / {wrong[b]['exceeds'] / trials:.1%}" for b in BLOCKS]
        yield case.name, f"{case.loss * 100:.2f}", *shares


def far_from_the_limit() -> Iterator[tuple[Case, float]]:
    """Pairs whose loss is not the limit, which is the second."""
    for loss in (0.0, 0.04, 0.1, 0.3):
        yield bits(lambda n, coin, m=loss: coin.normal(m, 0.02, n), "bits, spread 2 %", loss), 0.02
    yield bits(lambda n, coin: coin.normal(0.0, 0.002, n), "bits, spread 0.2 %", 0.0), 0.02
    for gained, lost in ((0.0, 0.0), (0.01, 0.01), (0.02, 0.12), (0.02, 0.42)):
        yield answers(gained, lost), 0.02
    for loss in (0.1, 0.3, 0.6):
        yield of_population("WER, lost in whole utterances", utterances("whole utterances", loss)), LIMIT


def examples_read(trials: int, most: int = 512) -> Iterator[Row]:
    """How many examples decide, with a look after every 2."""
    for case, limit in far_from_the_limit():
        coin, read, right = np.random.default_rng(2), [], 0
        expected = "within" if case.loss < limit else "exceeds"
        for _ in range(trials):
            found, count, decision = case.draw(most, coin), 0, None
            while decision is None and count < most:
                count = min(most, count + (2 if count < 64 else 16))
                decision = decide(first(found, count), limit)
            read.append(count if decision else most)
            right += decision == expected
        low, middle, high = np.quantile(read, (0.1, 0.5, 0.9))
        spread = f"{low:.0f} to {high:.0f}" if high < most else f"{low:.0f} to over {most}"
        shown = f"{middle:.0f}" if middle < most else f"over {most}"
        yield case.name, f"{case.loss * 100:.0f}", f"{limit * 100:g}", shown, spread, f"{right / trials:.0%}"


def percentile(loss: Floats, base: Floats, coin: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap's interval of the loss."""
    drawn = coin.integers(0, len(loss), (DRAWS, len(loss)))
    low, high = np.quantile(loss[drawn].sum(axis=1) / base[drawn].sum(axis=1), (TAIL, 1 - TAIL))
    return float(low), float(high)


def linearized(loss: Floats, base: Floats) -> tuple[float, float]:
    """The t interval of the linearized ratio, with one pseudo-recording that lost a word in the upper end."""
    ends = []
    for sign in (-1, 1):
        L, B = (np.append(loss, 1.0), np.append(base, base.mean())) if sign > 0 else (loss, base)
        ratio, n = L.sum() / B.sum(), len(L)
        error = np.sqrt(((L - ratio * B) ** 2).sum() * n / (n - 1)) / B.sum()
        ends.append(float(ratio + sign * students_t.ppf(1 - TAIL, n - 1) * error))
    return ends[0], ends[1]


def few_recordings(trials: int) -> Iterator[Row]:
    """How often each end misses the true loss, and the interval's median width in points."""
    for name, population in patterns():
        for count in FEW:
            coin, missed, widths = np.random.default_rng(3), np.zeros((3, 2)), np.zeros((3, trials))
            for trial in range(trials):
                pair = population.sample(count, coin)
                ratios = Ratios.of(*pair, relative=False, seed=trial)
                loss, base = ratios.differences.loss, ratios.differences.base
                low, high = ratios.interval()
                for row, ends in enumerate(((-high, -low), linearized(loss, base), percentile(loss, base, coin))):
                    missed[row] += population.loss < ends[0], population.loss > ends[1]
                    widths[row, trial] = ends[1] - ends[0]
            cells = [
                f"{below / trials:.1%} / {above / trials:.1%}, {np.median(width) * 100:.0f} pt"
                for (below, above), width in zip(missed, widths, strict=True)
            ]
            yield f"{name}", f"{population.loss * 100:.1f}", str(count), *cells


def page(trials: int) -> str:
    wrong = table(("loss", "limit = true loss, %", *(f"every {b}" for b in BLOCKS)), false_decisions(trials))
    header = ("loss", "true loss, %", "limit, %", "median", "10 to 90 % of runs", "decided rightly")
    read = table(header, examples_read(trials // 4))
    header = ("candidate", "true loss, pt", "recordings", "`judge_pair`", "t, a word lost", "percentile bootstrap")
    few = table(header, few_recordings(trials))
    return f"""
**False decisions with a look after every block.** The true loss is the limit, so every decision is wrong; at most 5 %
of runs may decide for each side: *within* / *exceeds*. Up to {EXAMPLES} examples, {trials} runs a row. Losses of
whisper-tiny.en are those of 72 real recordings, drawn with replacement. The promise ends where a large loss is too rare
to be among the passages that were read: one in 100 that costs half as much again is seen by no interval of so few. The
final test reads a fixed number and reckons with such a passage.

{wrong}

**How many examples decide**, with a look after every 2 (from 64 on 16) and at most 512; {trials // 4} runs a row.

{read}

**Few recordings.** How often the lower / the upper end of the 95 % interval misses the true loss (2.5 % each is the
promise), and its median width; errors count up to a recording's length. {trials} samples a row. *t, a word lost*: the t
interval of the linearized ratio, with one pseudo-recording that lost a word in its upper end.

{few}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400, help="simulated runs a row (default 400)")
    parser.add_argument("--dry", action="store_true", help="print the tables, leave docs/results/measuring.md as it is")
    options = parser.parse_args()
    started = time.monotonic()
    text = page(options.trials)
    if not options.dry:
        write_between(RESULTS / "measuring.md", "looks", text)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
