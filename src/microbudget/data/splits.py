"""Train, validation and test: keeping copies out of two splits, and cutting the splits that a folder does not have.

What a run learns from the data decides the cut. Where something trains, most examples are to train on. Where nothing
does, a few calibrate, and all others are evidence: validation, by which the best is chosen, and test.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import BadData
from ..task import CALIBRATION, Example, Use

Fractions = tuple[float, float, float]  # of train, validation and test
WHOLE: Fractions = (0.7, 0.15, 0.15)  # of what has neither validation nor test, where something trains
CALIBRATING = 0.3  # of it at most, where nothing does; the rest is evidence
EVIDENCE = (0.4, 0.6)  # of the evidence: validation, test
VALIDATION_OF_TRAIN = (0.8, 0.2)
HALVES = (0.5, 0.5)
ENOUGH = 4000  # examples of a split that decide nearly everything: more only where `WHOLE` has more
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


def complete(
    splits: Mapping[str, Sequence[Example]],
    seed: int,
    use: Use = "training",
    seen: frozenset[str] = frozenset(),
    enough: int = ENOUGH,
) -> Splits:
    """Cut the missing splits, by what is learnt from the data.

    Without validation and test: "training" gives 70/15/15 of train; "calibration" at most 30 % and CALIBRATION examples
    to train, "nothing" none, and the rest is evidence, two fifths of it validation and three fifths test. Of a split no
    more than `enough` is taken than "training" would take. seen: keys of what the model was made with; where nothing
    trains they stay in train, which is no evidence. Data of a single split, whatever its name, are cut where nothing
    trains. Where only validation is missing, it is a fifth of train; a missing test is half of validation.

    Stratified, and decided by the contents and the seed alone: neither names nor order matter, and copies go the same
    way. Raises BadData where there are no examples to train on and something trains, and where there are too few.
    """
    done = {name: list(examples) for name, examples in splits.items()}
    there = [name for name in ("train", "validation", "test") if done.get(name)]
    if not done.get("train") and use == "training":
        raise BadData(f"there are no examples to train on, only {', '.join(splits)}: add a folder train")
    if len(there) == 1 and (there == ["train"] or use != "training"):
        whole = done.pop(there[0])
        done["train"], done["validation"], done["test"] = _cut(whole, seed, use, seen, enough)
    elif there == ["validation", "test"] and use == "calibration":
        share = calibrating(len(done["validation"]), use)
        done["train"], done["validation"] = divide(done["validation"], (share, 1 - share), seed)
    elif "validation" not in there:
        done["train"], done["validation"] = divide(done.get("train", ()), VALIDATION_OF_TRAIN, seed)
    elif "test" not in there:
        done["validation"], done["test"] = divide(done["validation"], HALVES, seed)
    done.setdefault("train", [])
    for name in ("validation", "test"):
        if not done[name]:
            count = sum(len(examples) for examples in done.values())
            known = f", after the {len(seen)} that the model was made with" if use != "training" and seen else ""
            raise BadData(
                f"{count} different examples are too few to cut a {name} split from{known}: give 4 or more a class"
            )
    return done


def about_cut(splits: Mapping[str, Sequence[Example]], use: Use, seen: frozenset[str], what: str) -> Iterator[str]:
    """What of the data is no evidence although nothing trains. splits: before `complete`; what: "images"."""
    given = [name for name in ("train", "validation", "test") if splits.get(name)]
    train = len(splits.get("train", ()))
    if use != "training" and len(given) > 1 and train > (CALIBRATION if use == "calibration" else 0):
        judged = sum(len(splits.get(name, ())) for name in ("validation", "test"))
        spared = "not used" if use == "nothing" else "only used to calibrate"
        yield (
            f"nothing trains, so the {train:,} {what} of the split train are {spared}. Where the model was not trained"
            f" on them either, they could be {train / judged:.1f} times as much evidence as the {judged:,} others: give"
            " all of them without folders of splits"
        )
    known = 0 if use == "training" or len(given) > 1 else sum(each.key in seen for each in splits.get("train", ()))
    if known:
        yield f"the model was made with {known:,} of the {what}: it is judged on the others"


def _cut(examples: Sequence[Example], seed: int, use: Use, seen: frozenset[str], enough: int) -> list[list[Example]]:
    """Train, validation and test of examples that no split was given for."""
    known = [example for example in examples if example.key in seen] if use != "training" else []
    if not known:
        return divide(examples, fractions(len(examples), use, enough), seed)
    fresh = [example for example in examples if example.key not in seen]
    wanted = calibrating(len(examples), use) * len(examples)
    share = max(0.0, wanted - len(known)) / max(1, len(fresh))
    train, validation, test = divide(fresh, _evidence(share, len(fresh), enough), seed)
    return [[*known, *train], validation, test]


def fractions(count: int, use: Use, enough: int = ENOUGH) -> Fractions:
    """The shares of train, validation and test in so many examples: they sum to 1. See `complete`."""
    return WHOLE if use == "training" else _evidence(calibrating(count, use), count, enough)


def calibrating(count: int, use: Use) -> float:
    """The share of so many examples that calibrates, where nothing trains."""
    return min(CALIBRATING, CALIBRATION / max(1, count)) if use == "calibration" else 0.0


def _evidence(kept: float, count: int, enough: int) -> Fractions:
    """Where a share of so many examples is kept out of the evidence; what is more than enough joins it."""
    most = max(WHOLE[1], enough / max(1, count))
    validation, test = (min((1 - kept) * share, most) for share in EVIDENCE)
    return max(0.0, round(1 - validation - test, 12)), validation, test


def divide(examples: Iterable[Example], fractions: Sequence[float], seed: int) -> list[list[Example]]:
    """Cut examples into parts of about these fractions, each class by itself; copies stay together."""
    if not fractions[0]:
        return [[], *divide(examples, fractions[1:], seed)]
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
