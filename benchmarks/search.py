"""What `shrink` finds under limits on size and latency, in twenty minutes each.

    python benchmarks/search.py                 every case that has no result yet (20 minutes each, on a quiet machine)
    python benchmarks/search.py --case "1 MB"   one of them
    python benchmarks/search.py --tables        the table again

MobileNetV2 on flowers12, a loss of at most 1 point by the estimate. Runs stay in runs/search/. The table goes into
docs/results/search.md; beside it stands what each step of the choice brings, as the report has it.
"""

from __future__ import annotations

import argparse
import time

from choice import MODEL, PHOTOS
from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.judge.budget import Budget
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.report import phrases
from microbudget.report.contributions import contributions
from microbudget.report.outcome import Outcome, read_outcome
from microbudget.search.shrink import shrink
from microbudget.units import Drop, format_bytes

STORE = ROOT / "runs" / "search"
CASES = {
    "1 MB": Budget(max_size_bytes=1_000_000, max_drop=Drop(0.01)),
    "1 MB, 2 ms": Budget(max_size_bytes=1_000_000, max_latency_s=0.002, max_drop=Drop(0.01)),
    "2 MB": Budget(max_size_bytes=2_000_000, max_drop=Drop(0.01)),
    "none": Budget(max_drop=Drop(0.01)),
}


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    best = outcome.best
    if best is None or best.measurement is None:
        return (name, "nothing", *["-"] * 6)
    measured, reference = best.measurement, outcome.reference
    test = "-" if best.test is None or reference.test is None else (
        f"{phrases.quality(best.test)} against {phrases.quality(reference.test)}"
    )  # fmt: skip
    built = [row for row in outcome.candidates if row.measurement is not None]
    return (
        name,
        f"`{Recipe.parse(best.recipe).short()}`",
        format_bytes(measured.size_bytes),
        f"{phrases.speedup(best.speed)} ({phrases.speedup_interval(best.speed)})",
        "-" if best.verdict is None else phrases.change(best.verdict),
        test,
        "yes" if not outcome.unmet else f"no: {outcome.unmet[0].partition(' (')[0]}",
        f"{len(built)} of {len(outcome.candidates)}",
    )


def page(outcomes: dict[str, Outcome]) -> str:
    """The table of what ships, and for each case what its steps bring."""
    head = ("limit", "what ships", "size", "times as fast", "validation", "test", "met", "built")
    parts = [table(head, (_row(name, outcome) for name, outcome in outcomes.items()))]
    for name, outcome in outcomes.items():
        if found := contributions(outcome):
            rows = [(f"`{one.without}`", one.size, one.latency, one.change) for one in found]
            parts.append(f"What each step of the choice at a limit of {name} brings, by the rows without it:")
            parts.append(table(("without", "size", "latency", "change"), rows))
    return "\n\n".join([*parts, provenance("search.py")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES))
    parser.add_argument("--tables", action="store_true", help="only the table, of the runs that are there")
    options = parser.parse_args()
    for name, budget in CASES.items():
        run = STORE / name.replace(" ", "").replace(",", "-")
        if options.tables or (options.case or name) != name or (run / "result.json").is_file():
            continue
        started = time.monotonic()
        shrink(MODEL, PHOTOS, budget, out=run, progress=Progress())
        print(f"{name}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    runs = {name: STORE / name.replace(" ", "").replace(",", "-") for name in CASES}
    there = {name: read_outcome(run) for name, run in runs.items() if (run / "result.json").is_file()}
    text = page(there)
    print(text)
    write_between(RESULTS / "search.md", "search", text)


if __name__ == "__main__":
    main()
