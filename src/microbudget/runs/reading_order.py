"""The order in which a run reads the examples of a split: random, and each class evenly spread over it.

Candidates are judged after every block of examples and read no further than a decision needs, so every beginning of the
order has to be a sample of the whole. All models of a run read in the same order: what two of them have read they have
read in pairs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from ..task import Example


def reading_order(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples in the order of reading, which their contents and the seed decide: names have no say.

    With labels the order is stratified: the k-th of the n examples of a class is put at (k - u) / n of the whole, where
    u in [0, 1) is random, so that every beginning has each class in about its proportion.
    """
    classes: dict[int | None, list[tuple[float, Example]]] = defaultdict(list)
    for example in examples:
        classes[example.label].append((_draw(seed, example), example))
    placed: list[tuple[float, float, Example]] = []
    for members in classes.values():
        ordered = sorted(members, key=lambda member: (member[0], member[1].name))
        placed += [((k + draw) / len(ordered), draw, example) for k, (draw, example) in enumerate(ordered)]
    return [example for _, _, example in sorted(placed, key=lambda one: (one[0], one[1], one[2].name))]


def _draw(seed: int, example: Example) -> float:
    """A number in [0, 1) that looks random."""
    return int(hashlib.sha256(f"read {seed}:{example.key}".encode()).hexdigest()[:12], 16) / 16**12
