"""Which model ships when few examples choose: by the expected loss, by the labels alone, by the divergence alone.

    python benchmarks/choice.py                  MobileNetV2 on flowers12: about 12 minutes on 2 cores, then seconds
    python benchmarks/choice.py --tables         the table again, from the answers that are kept

`shrink` makes the candidates once (input sizes, 4 bits, half of the channels). All of them answer the photos of
validation and test, which nothing was learnt from. From these, 12 to 96 are drawn to choose by, again and again, and
what ships is judged on the others. The rule before was: of one size, the best by the labels, then the fastest; with
fewer than 30 photos the nearest by divergence. The table goes into docs/results/search.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.judge.answering import Logits
from microbudget.judge.budget import Budget
from microbudget.judge.difference import difference
from microbudget.judge.judging import judging_of
from microbudget.judge.verdict import judge_pair
from microbudget.machine.files import open_whole
from microbudget.progress import Progress
from microbudget.report.data import reopened
from microbudget.report.outcome import read_outcome
from microbudget.runs.candidates import Candidate
from microbudget.runs.choice import SAME_SIZE, best
from microbudget.runtimes.loading import load
from microbudget.search.shrink import shrink
from microbudget.task import Example, Task
from microbudget.units import Drop

ASSETS, STORE = ROOT.parent / "shared" / "assets", ROOT / "runs" / "choice"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
METHODS = ("resize", "quantize", "prune")
COUNTS, DRAWS = (12, 24, 48, 96), 400
LIMIT = Drop(0.01)
FEW = 30  # examples, below which the rule before went by the divergence
Rule = Callable[[Sequence[Candidate]], Candidate]


@dataclass(frozen=True)
class Answers:
    """Logits of all candidates and of the reference for the same photos, (models, photos, classes)."""

    rows: tuple[Candidate, ...]
    reference: Logits
    candidates: NDArray[np.float32]
    examples: tuple[Example, ...]
    task: Task

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, (models, photos)."""
        return np.stack([self._right(each) for each in self.candidates])

    def _right(self, logits: Logits) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.task.score(logits, self.examples).numerator > 0
        return found

    @property
    def reference_right(self) -> NDArray[np.bool_]:
        """Of the reference, (photos,)."""
        return self._right(self.reference)

    def shown(self, places: NDArray[np.intp]) -> list[Candidate]:
        """The rows as a run has them that has read these photos alone."""
        examples = [self.examples[place] for place in places]
        before = self.task.score(self.reference[places], examples)
        rows = []
        for row, logits in zip(self.rows, self.candidates, strict=True):
            after = self.task.score(logits[places], examples)
            extra = difference(self.task, self.reference[places], logits[places])
            assert row.measurement is not None
            measured = replace(row.measurement, examples=len(places), quality=after.value, extra=dict(extra))
            rows.append(replace(row, measurement=measured, verdict=judge_pair(before, after, LIMIT), speed={}))
        return rows


def answers(run: Path) -> Answers:
    """What the run's models answer to validation and test; kept in STORE."""
    outcome = read_outcome(run)
    rows = tuple(row for row in outcome.candidates if row.measurement is not None)
    with reopened(outcome) as (task, missing):
        assert task is not None, missing
        examples = (*task.examples("validation"), *task.examples("test"))
        judging, found = judging_of(task), []
        for row in (outcome.reference, *rows):
            kept = STORE / f"{row.fingerprint}.npy"
            if not kept.is_file():
                made = judging.answers(load(run / row.path), examples)
                with open_whole(kept) as stream:
                    np.save(stream, made)
            found.append(np.load(kept))
    return Answers(rows, found[0], np.stack(found[1:]), examples, task)


def by_labels(rows: Sequence[Candidate]) -> Candidate:
    """The rule before: the smallest that holds; of one size the best by the labels, then the fastest."""
    return _before(rows, lambda row: -round(row.verdict.change, 9) if row.verdict else 0.0)


def by_divergence(rows: Sequence[Candidate]) -> Candidate:
    """As `by_labels`, with the divergence in place of the labels."""
    return _before(rows, lambda row: float(f"{row.measurement.divergence or 0:.1e}") if row.measurement else 0.0)


def before(rows: Sequence[Candidate]) -> Candidate:
    """The rule that microbudget had: the divergence with few examples, else the labels."""
    few = all(row.measurement is not None and row.measurement.examples < FEW for row in rows)
    return by_divergence(rows) if few else by_labels(rows)


def now(rows: Sequence[Candidate]) -> Candidate:
    """The rule that microbudget has."""
    found = best(rows, Budget(max_drop=LIMIT))
    assert found is not None
    return found


def _before(rows: Sequence[Candidate], worse: Callable[[Candidate], float]) -> Candidate:
    measured = [row for row in rows if row.measurement is not None]
    holding = [row for row in measured if not row.broken_limits(Budget(max_drop=LIMIT))]
    if not holding:
        return min(measured, key=lambda row: (worse(row), _size(row)))
    smallest = min(map(_size, holding))
    tied = [row for row in holding if _size(row) <= smallest * (1 + SAME_SIZE)]
    return min(tied, key=lambda row: (worse(row), row.measurement.latency_s or 0.0 if row.measurement else 0.0))


def _size(row: Candidate) -> int:
    return row.measurement.size_bytes if row.measurement else 0


RULES: dict[str, Rule] = {"labels, then speed": by_labels, "as before": before, "expected loss": now}


def simulate(known: Answers) -> list[tuple[str, ...]]:
    """A row of the table for each number of photos and each rule."""
    random, lost = np.random.default_rng(0), known.reference_right[None, :].astype(float) - known.right
    places, found = np.arange(len(known.examples)), list[tuple[str, ...]]()
    for count in COUNTS:
        shipped: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
        for _ in range(DRAWS):
            drawn = random.permutation(places)
            rows = known.shown(drawn[:count])
            losses = lost[:, drawn[count:]].mean(1)
            for name, rule in RULES.items():
                at = [row.fingerprint for row in rows].index(rule(rows).fingerprint)
                shipped[name].append((float(losses[at]), float(_size(rows[at]))))
        for name, all_of_it in shipped.items():
            loss, size = np.array(all_of_it).T
            found.append(
                (
                    str(count), name, f"{100 * loss.mean():+.2f} pt", f"{100 * np.quantile(loss, 0.9):+.2f} pt",
                    f"{100 * (loss > LIMIT.amount).mean():.0f} %", f"{size.mean() / 1e6:.2f} MB",
                )
            )  # fmt: skip
    return found


def models(known: Answers) -> str:
    """What each candidate loses on all photos."""
    lost, divergence = known.reference_right.mean() - known.right.mean(1), []
    for logits in known.candidates:
        divergence.append(difference(known.task, known.reference, logits)["kl"])
    rows = [
        (f"`{_short(row)}`", f"{_size(row) / 1e6:.2f}", f"{100 * loss:+.2f} pt", f"{kl:.4f}")
        for row, loss, kl in zip(known.rows, lost, divergence, strict=True)
    ]
    return table(("model", "MB", "loss on all photos", "KL, nats"), rows)


def _short(row: Candidate) -> str:
    from microbudget.recipes.recipe import Recipe

    return Recipe.parse(row.recipe).short()


def page(known: Answers) -> str:
    """Both tables."""
    count = len(known.examples)
    head = ("photos", "rule", "mean loss of what ships", "9 of 10 lose at most", "beyond 1 pt", "mean size")
    return (
        f"{models(known)}\n\nOn {count} photos that nothing was learnt from. Chosen by a part of them, {DRAWS} times,"
        f" and judged on the others:\n\n{table(head, simulate(known))}\n\n{provenance('choice.py')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="only the table, from the answers that are kept")
    options = parser.parse_args()
    run = STORE / "run"
    if not options.tables:
        STORE.mkdir(parents=True, exist_ok=True)
        budget = Budget(max_drop=Drop(0.9), minutes=40)
        shrink(MODEL, PHOTOS, budget, out=run, methods=METHODS, keep=True, progress=Progress())
    text = page(answers(run))
    print(text)
    write_between(RESULTS / "search.md", "choice", text)


if __name__ == "__main__":
    main()
