"""Train, validation and test: keeping copies out of two splits, and cutting the splits that a folder does not have."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadData
from ..task import Example

WHOLE = (0.7, 0.15, 0.15)  # train, validation, test of what has neither validation nor test
VALIDATION_OF_TRAIN = (0.8, 0.2)
HALVES = (0.5, 0.5)
PRECEDENCE = ("test", "validation", "train", "unlabelled")  # an example stays in the first of these

Splits = dict[str, list[Example]]


@dataclass(frozen=True)
class Duplicate:
    """Two files with the same bytes, in two splits or under two labels; `dropped` was left out, or None."""

    first: str
    second: str
    why: str
    dropped: str | None = None

    def __str__(self) -> str:
        return f"{self.first} and {self.second} are the same: {self.why}"


def keep_apart(splits: Mapping[str, Sequence[Example]]) -> tuple[Splits, list[Duplicate]]:
    """Drop examples that a split of higher precedence has too, so that test stays clean; also returns all copies."""
    kept: Splits = {name: [] for name in splits}
    owner: dict[str, tuple[str, Example]] = {}
    duplicates = []
    for split in sorted(splits, key=PRECEDENCE.index):
        for example in splits[split]:
            home, first = owner.setdefault(example.key, (split, example))
            if home != split:
                why = f"in {home} and in {split}, so it is left out of {split}"
                if None not in (first.label, example.label) and first.label != example.label:
                    why += "; and under two labels, one of them is wrong"
                duplicates.append(Duplicate(first.name, example.name, why, dropped=example.name))
                continue
            kept[split].append(example)
            if first.label != example.label:
                duplicates.append(Duplicate(first.name, example.name, "under two labels, one of them is wrong"))
    return kept, duplicates


def to_judge(splits: Splits, leave_out: frozenset[str], what: str, nothing: str) -> tuple[list[Example], int]:
    """Everything to judge on, and how many more the model has seen: of the test split, else validation, else train.

    leave_out: keys of what it has seen. what: "images of photos/"; nothing: the error where there is no example.
    Raises BadData without any that is left.
    """
    chosen = next((splits[name] for name in PRECEDENCE[:3] if splits.get(name)), [])
    if not chosen:
        raise BadData(nothing)
    kept = [example for example in chosen if example.key not in leave_out]
    if not kept:
        raise BadData(f"the model was made with all {len(chosen)} {what}: give others to judge it on")
    return kept, len(chosen) - len(kept)


def complete(splits: Mapping[str, Sequence[Example]], seed: int) -> Splits:
    """Cut the missing splits: without validation and test 70/15/15 of train; a missing test is half of validation.

    Where only validation is missing, it is a fifth of train. Stratified, and decided by the contents and the seed
    alone: neither names nor order matter, and copies go the same way. Raises BadData without train examples.
    """
    done = {name: list(examples) for name, examples in splits.items()}
    if not done.get("train"):
        raise BadData(f"there are no examples to train on, only {', '.join(splits)}: add a folder train")
    if not done.get("validation") and not done.get("test"):
        parts = divide(done["train"], WHOLE, seed)
        done["train"], done["validation"], done["test"] = parts
    elif not done.get("validation"):
        done["train"], done["validation"] = divide(done["train"], VALIDATION_OF_TRAIN, seed)
    elif not done.get("test"):
        done["validation"], done["test"] = divide(done["validation"], HALVES, seed)
    for name in ("validation", "test"):
        if not done[name]:
            count = sum(len(examples) for examples in done.values())
            raise BadData(f"{count} different examples are too few to cut a {name} split from: give 4 or more a class")
    return done


def divide(examples: Iterable[Example], fractions: Sequence[float], seed: int) -> list[list[Example]]:
    """Cut examples into parts of about these fractions, each class by itself; copies stay together."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.key].append(example)
    strata: dict[int, list[str]] = defaultdict(list)
    for key in sorted(groups, key=lambda key: _rank(seed, key)):
        strata[min(example.label or 0 for example in groups[key])].append(key)
    parts: list[list[Example]] = [[] for _ in fractions]
    ordered = list(strata.values())  # by their first key's rank: the labels' names have no say
    for keys, counts in zip(ordered, shares([len(keys) for keys in ordered], fractions), strict=True):
        start = 0
        for part, count in zip(parts, counts, strict=True):
            part += [example for key in keys[start : start + count] for example in groups[key]]
            start += count
    return parts


def shares(sizes: Sequence[int], fractions: Sequence[float]) -> list[tuple[int, ...]]:
    """How many of each class go to each part; what rounding takes from one class is given back at the next.

    Every part gets an example as soon as the first can keep at least half. Where the first part is the larger one
    (train), it takes a class's only example.
    """
    parts = len(fractions)
    tails = [sum(fractions[part:]) for part in range(parts)]  # of this part and all later ones
    carry = [0.0] * parts
    result = []
    for size in sizes:
        least = 1 if size >= 2 * (parts - 1) else 0
        taken = [size]
        for part in range(1, parts):
            wanted = tails[part] * size + carry[part]
            most = taken[-1] - (least or int(part == 1 and fractions[0] > 0.5))
            taken.append(min(most, max(least * (parts - part), int(wanted + 0.5))))
            carry[part] = min(0.5, max(-0.5, wanted - taken[part]))
        result.append(tuple(more - less for more, less in zip(taken, [*taken[1:], 0], strict=True)))
    return result


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
