"""What SmolLM2-135M can do at each level: accuracy on sets of questions, KL and bits per byte of text.

    python benchmarks/questions.py                              everything; can be killed and goes on
    python benchmarks/questions.py --part ask --rows 150        the questions, in each set the first rows
    python benchmarks/questions.py --part text                  KL and bits per byte on TinyStories
    python benchmarks/questions.py --part judge --judge PYTHON  the same rows by lm-evaluation-harness's own code
    python benchmarks/questions.py --part tables                write docs/results/questions.md

The levels are those of `real_language.py --part hand`. PYTHON is of an environment of its own that has `lm-eval`.
Needs ../shared/assets and the weights of `../shared/real/make.py smollm2-135m`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from markdown import ROOT, provenance, table, write_between
from microbudget.judge.judging import judging_of, scored
from microbudget.judge.sequential import look
from microbudget.judge.verdict import judge_pair
from microbudget.kinds.language_modelling.divergence import compare_both
from microbudget.kinds.language_modelling.questions.task import QuestionTask
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.runtimes.loading import load
from microbudget.task import TO_JUDGE, Scores
from microbudget.units import Drop
from results import Results

STORE = ROOT / "runs" / "questions"
PAGE = ROOT / "docs" / "results" / "questions.md"
MODEL = Path.home() / ".cache" / "microbudget-real" / "smollm2-135m"
ASSETS = ROOT.parent / "shared" / "assets" / "text"
LEVELS = ("Q8_0", "Q4_K_M", "Q2_K")
SETS = ("arc-easy", "piqa", "openbookqa", "blimp", "lambada", "facts")
JUDGED, JUDGED_ROWS = ("arc-easy", "piqa"), 100
PASSAGES = 24  # of text
AT_ONCE = 10  # questions that are kept together
TEXT = ASSETS / "tinystories"  # not what the importance matrix was computed from
NONE = Drop(0.0)  # any loss at all


def path_of(name: str, levels: Path) -> Path:
    return MODEL if name == "reference" else levels / f"{name}.gguf"


def ask(results: Results, levels: Path, rows: int, threads: int) -> None:
    """Every model the first rows of every set; kept by tens, so that a killed call goes on."""
    for start in range(0, rows, AT_ONCE):
        for name in ("reference", *LEVELS):
            worker = None
            for file in SETS:
                key = f"ask/{file}/{name}/{start}"
                if results.get(key) is not None:
                    continue
                task = QuestionTask.open(ASSETS / "questions" / f"{file}.jsonl", TO_JUDGE)
                examples = task.examples("test")[start : min(rows, start + AT_ONCE)]
                if not examples:
                    continue
                if worker is None:
                    worker = judging_of(task).start_worker()
                    worker.open(load(path_of(name, levels)), threads=threads)
                began = time.perf_counter()
                outputs = worker.answer(task.collate(examples, {}))
                results.put(key, {"outputs": [str(each) for each in outputs], "s": time.perf_counter() - began})
            if worker is not None:
                worker.close()


def text(results: Results, levels: Path, threads: int) -> None:
    """Bits, bytes, tokens and KL of each passage, against the reference."""
    task = TextTask.open(TEXT, TO_JUDGE, most={"test": PASSAGES})
    for name in LEVELS:
        if results.get(f"text/{name}") is not None:
            continue
        judging, examples = judging_of(task), task.examples("test")
        with judging.start_worker() as first, judging.start_worker() as second:
            first.open(load(MODEL), threads=threads)
            second.open(load(path_of(name, levels)), threads=threads)
            found = compare_both(first, second, task, examples)
        scores = [task.score(each, examples) for each in (found.reference, found.candidate)]
        row = {"kl": found.kl.tolist(), "tokens": found.reference[:, 1].tolist()}
        bits = {side: each.numerator.tolist() for side, each in zip(("reference", "candidate"), scores, strict=True)}
        results.put(f"text/{name}", {**row, **bits, "bytes": scores[0].denominator.tolist()})


def judge(results: Results, python: str) -> None:
    """lm-evaluation-harness on the same rows, in float32 as the reference runs."""
    for name in JUDGED:
        file = ASSETS / "questions" / f"{name}.jsonl"
        script = str(ROOT / "benchmarks" / "lm_eval_judge.py")
        command = [python, script, str(MODEL), str(file), str(JUDGED_ROWS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.put(f"judge/{name}", json.loads(done.stdout.splitlines()[-1]))


def answers(results: Results, file: str, name: str) -> tuple[QuestionTask, list[Any], np.ndarray]:
    """What a model answered, in the order of the file."""
    task = QuestionTask.open(ASSETS / "questions" / f"{file}.jsonl", TO_JUDGE)
    outputs: list[str] = []
    while (row := results.get(f"ask/{file}/{name}/{len(outputs)}")) is not None:
        outputs += row["outputs"]
    return task, list(task.examples("test")[: len(outputs)]), np.array(outputs)


def both(results: Results, file: str, name: str) -> tuple[Scores, Scores] | None:
    """Reference and level on what both answered."""
    task, examples, outputs = answers(results, file, name)
    _, _, reference = answers(results, file, "reference")
    count = min(len(outputs), len(reference))
    if not count:
        return None
    return task.score(reference[:count], examples[:count]), task.score(outputs[:count], examples[:count])


def points(scores: tuple[Scores, Scores]) -> str:
    """The change with its interval, in points."""
    verdict = judge_pair(*scores, None)
    low, high = 100 * verdict.change_low, 100 * verdict.change_high
    return f"{100 * verdict.change:+.1f} ({low:+.1f}..{high:+.1f})"


def first_shown(reference: Scores, candidate: Scores, limit: Drop, step: int) -> int | None:
    """After how many examples, looked at every `step`, a loss is shown; None: not by these."""
    for count in range(step, len(reference.numerator) + 1, step):
        parts = [
            Scores(each.metric, each.numerator[:count], each.denominator[:count], each.higher_is_better)
            for each in (reference, candidate)
        ]
        if look(*parts, limit).decision == "exceeds":
            return count
    return None


def levels_table(results: Results) -> str:
    """A row for each set: the reference with its interval and chance, and what each level loses."""
    rows: list[tuple[str, ...]] = []
    for file in SETS:
        task, examples, outputs = answers(results, file, "reference")
        if not len(outputs):
            continue
        quality = scored(judging_of(task), examples, outputs)
        chance = quality.extra["chance"]
        value = f"{100 * quality.scores.value:.1f} ({100 * quality.low:.1f}..{100 * quality.high:.1f})"
        pairs = [both(results, file, level) for level in LEVELS]
        found = [points(pair) if pair else "" for pair in pairs]
        rows.append((file, str(len(outputs)), f"{100 * chance:.0f}" if chance else "0", value, *found))
    pooled = [[pair for file in SETS if (pair := both(results, file, level))] for level in LEVELS]
    if all(pooled):
        total = sum(len(pair[0].numerator) for pair in pooled[0])
        rows.append(("all together", str(total), "", "", *(points(joined_pair(pairs)) for pairs in pooled)))
    rows.append(("KL, nats a token", "", "", "0", *(kl(results, level) for level in LEVELS)))
    rows.append(("bits per byte", "", "", "", *(bits(results, level) for level in LEVELS)))
    return table(("set", "questions", "chance", "reference, %", *LEVELS), rows)


def joined_pair(pairs: list[tuple[Scores, Scores]]) -> tuple[Scores, Scores]:
    """The questions of all sets as one."""
    numerators = [np.concatenate([pair[side].numerator for pair in pairs]) for side in (0, 1)]
    first, second = (Scores("accuracy", each, np.ones(len(each))) for each in numerators)
    return first, second


def kl(results: Results, level: str) -> str:
    row = results.get(f"text/{level}")
    return "" if row is None else f"{sum(row['kl']) / sum(row['tokens']):.4f}"


def text_scores(row: dict[str, Any]) -> tuple[Scores, Scores]:
    first, second = (
        Scores("bits per byte", np.array(row[side]), np.array(row["bytes"]), higher_is_better=False)
        for side in ("reference", "candidate")
    )
    return first, second


def bits(results: Results, level: str) -> str:
    row = results.get(f"text/{level}")
    if row is None:
        return ""
    verdict = judge_pair(*text_scores(row), None)
    low, high = -100 * verdict.change_high, -100 * verdict.change_low
    return f"{-100 * verdict.change:+.2f} % ({low:+.2f}..{high:+.2f})"


def needed_table(results: Results) -> str:
    """How much each set takes to show that a level loses at all."""
    rows = []
    for file in SETS:
        pairs = [both(results, file, level) for level in LEVELS]
        shown = [first_shown(*pair, NONE, 10) if pair else None for pair in pairs]
        counts = [len(pair[0].numerator) if pair else 0 for pair in pairs]
        rows.append((file, *(_shown(each, count, "questions") for each, count in zip(shown, counts, strict=True))))
    cells = []
    for level in LEVELS:
        row = results.get(f"text/{level}")
        found = None if row is None else first_shown(*text_scores(row), Drop(0.0, relative=True), 4)
        tokens = 0 if row is None else int(sum(row["tokens"][:found]))
        cells.append(_shown(None if found is None else tokens, tokens, "tokens"))
    return table(("to show any loss", *LEVELS), [*rows, ("bits per byte", *cells)])


def _shown(found: int | None, count: int, what: str) -> str:
    return f"{found:,} {what}" if found is not None else f"not by {count:,}" if count else ""


def judge_table(results: Results) -> str:
    rows = []
    for file in JUDGED:
        row = results.get(f"judge/{file}")
        task, examples, outputs = answers(results, file, "reference")
        if row is None or len(outputs) < JUDGED_ROWS:
            continue
        own = scored(judging_of(task), examples[:JUDGED_ROWS], outputs[:JUDGED_ROWS])
        ours = (own.extra["accuracy_unnormalized"], own.scores.value)
        rows.append((file, f"{ours[0]:.3f}", f"{row['acc']:.3f}", f"{ours[1]:.3f}", f"{row['acc_norm']:.3f}"))
    return table((f"first {JUDGED_ROWS} rows", "`accuracy_unnormalized`", "acc", "accuracy", "acc_norm"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("ask", "text", "judge", "tables"))
    parser.add_argument("--rows", type=int, default=500, help="of each set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--levels", type=Path, default=ROOT / "runs" / "real_language", help="folder of the .gguf files"
    )
    parser.add_argument("--judge", metavar="PYTHON", help="of an environment with lm-eval")
    options = parser.parse_args()
    results = Results(STORE / "results.json")
    if options.part in (None, "text"):
        text(results, options.levels, options.threads)
    if options.part in (None, "ask"):
        ask(results, options.levels, options.rows, options.threads)
    if options.part == "judge" or (options.part is None and options.judge):
        judge(results, options.judge)
    if options.part in (None, "tables"):
        write_between(PAGE, "judge", judge_table(results))
        write_between(PAGE, "levels", levels_table(results))
        write_between(PAGE, "needed", needed_table(results))
        write_between(PAGE, "provenance", provenance("questions.py"))


if __name__ == "__main__":
    main()
