"""The floor: what needs no network. A network that is no better than these is not worth its bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath

from ...errors import InvalidOption, InvalidRecipe
from ...methods.distill import STATIC, Distill
from ...methods.tfidf import Tfidf
from ...recipes.recipe import Recipe
from ...report import phrases
from ...report.outcome import Outcome
from ...runs.candidates import Candidate
from .data import TextTask

WORDS = {"word": "words with logistic regression", "char": "characters with logistic regression"}
VECTORS = "one vector a token (static embeddings)"


@dataclass(frozen=True)
class Row:
    """A row of the table: what answers, and what it costs; "" where something is not known."""

    name: str
    quality: str
    interval: str = ""
    size: str = ""
    latency: str = ""
    change: str = ""
    verdict: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Floor:
    """What needs no network, from the least to the most, with the reference as the last row."""

    rows: tuple[Row, ...]
    conclusion: str


def name_of(recipe: str) -> str:
    """What a recipe's model is in words, where it needs no network; else ""."""
    try:
        steps = Recipe.read(recipe).steps
    except (InvalidRecipe, InvalidOption):  # of a later or an earlier version
        return ""
    for step in reversed(steps):
        if isinstance(step, Tfidf):
            return WORDS[step.unit]
        if isinstance(step, Distill) and step.student == STATIC:
            return VECTORS
    return ""


def opening(outcome: Outcome) -> str:
    """What is said first where something without a network ships, and where it would do; "" otherwise."""
    best = outcome.smaller
    if best is None or outcome.unmet:
        return ""
    verdict, name = best.test_verdict or best.verdict, name_of(best.recipe)
    if not name or verdict is None or not verdict.limit:
        return ""
    verb = "is" if name == VECTORS else "are"
    sure = "" if verdict.decision == "within" else " by the estimate"
    model = PurePath(str(outcome.settings["model"])).name  # of a hub's id the name without its owner
    limit = verdict.limit.replace("pt", " pt").replace("%", " %")
    return f"No network is needed: {name} {verb} within {limit} of {model}{sure}."


def floor(outcome: Outcome, task: TextTask | None) -> Floor | None:
    """The table; None for a run that tried nothing of this. task: the data, where they are still there."""
    known = [(name, row) for row in outcome.candidates if (name := name_of(row.recipe))]
    if not known:
        return None
    rows = [_row(name, row) for name, row in known]
    first = [] if task is None else _most_frequent(task)
    return Floor((*first, *rows, _row("the reference, a network", outcome.reference)), _conclusion(outcome))


def _conclusion(outcome: Outcome) -> str:
    best = outcome.best
    if best is None or not name_of(best.recipe):
        return "None of these ships. A network has to be better than them to be worth its bytes."
    return opening(outcome) or f"What ships is one of these: {name_of(best.recipe)}."


def _row(name: str, candidate: Candidate) -> Row:
    measurement, verdict = candidate.measurement, candidate.verdict
    if measurement is None:
        return Row(name, "", failure=candidate.failure or "not measured")
    return Row(
        name,
        phrases.quality(measurement),
        phrases.quality_interval(measurement),
        phrases.size(measurement),
        phrases.latency(measurement),
        "" if verdict is None else phrases.change(verdict),
        "" if verdict is None or not verdict.limit else phrases.decision(verdict),
    )


def _most_frequent(task: TextTask) -> list[Row]:
    """The label that train has most often, as the answer to every text of validation."""
    counts = Counter(example.label for example in task.examples("train"))
    examples = task.examples("validation")
    if not counts or not examples:
        return []
    label = max(counts, key=lambda each: (counts[each], -(each or 0)))
    right = sum(example.label == label for example in examples)
    name = "" if label is None else task.labels[label]
    return [Row(f"the most frequent class ({name}) for every text", f"{100 * right / len(examples):.1f} %", size="0 B")]
