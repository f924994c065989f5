"""Labelled examples of any medium: what a cut lacks, copies, their order and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData
from ..task import SPLITS, Example
from .folders import some
from .splits import Duplicate, Splits


@dataclass(frozen=True)
class Medium:
    """What messages call the examples: "a text", "texts"."""

    one: str
    many: str


def about_copies(duplicates: Sequence[Duplicate], medium: Medium) -> Iterator[str]:
    """The warnings of examples that occur in two splits, or under two labels."""
    for what, found in (
        ("copies between splits", [pair for pair in duplicates if pair.dropped]),
        (f"{medium.many} under two labels", [pair for pair in duplicates if not pair.dropped]),
    ):
        if found:
            yield f"{len(found)} {what}: {some(str(pair) for pair in found)}"


def about_classes(splits: Splits, labels: Sequence[str], medium: Medium, *, trained: bool) -> Iterator[str]:
    """What each class lacks. trained: whether something is learnt from the labels of the train split."""
    counts = {name: Counter(example.label for example in splits[name]) for name in SPLITS}
    rest = counts["validation"] + counts["test"]
    absent = [label for index, label in enumerate(labels) if not counts["train"][index]]
    single = [label for index, label in enumerate(labels) if counts["train"][index] == 1 and not rest[index]]
    if trained and absent:
        yield f"classes without {medium.one} to train on: {some(absent)}"
    if trained and single:
        yield f"classes with a single {medium.one.split()[-1]} (trained on, never judged): {some(single)}"
    explained = single if trained else ()
    unjudged = [label for index, label in enumerate(labels) if not counts["test"][index] and label not in explained]
    if unjudged:
        yield f"classes without {medium.one} in test: {some(unjudged)}"


def in_order(splits: Mapping[str, Sequence[Example]]) -> dict[str, tuple[Example, ...]]:
    """Each split in the order of its keys: any beginning is a random sample."""
    return {name: tuple(sorted(examples, key=_order)) for name, examples in splits.items()}


def _order(example: Example) -> tuple[str, int, str]:
    return example.key, -1 if example.label is None else example.label, example.name


def fingerprint(labels: Sequence[str], splits: Mapping[str, Sequence[Example]]) -> str:
    """Of the data of a task: equal ones mean equal examples in equal splits."""
    content = {name: [(example.key, example.label) for example in splits[name]] for name in sorted(splits)}
    return hashlib.sha256(json.dumps([labels, content]).encode()).hexdigest()[:16]


def targets(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Class indices (n,). Raises BadData for an example without a label."""
    found = [example.label for example in examples if example.label is not None]
    if len(found) < len(examples):
        raise BadData(f"{len(examples) - len(found)} of {len(examples)} examples have no label to judge by")
    return np.array(found, dtype=np.int64)
