"""Predictions: what a reference says of passages, kept on disk, so that it reads them once for all its candidates.

The log-probabilities of a token are kept as one of 65,536 steps between the largest and the smallest, which is taken as
no less than DEEPEST below. Steps are at most 0.001 nats, and the probabilities are made to sum to 1 again, so that the
divergence of a candidate changes by the step's square, and by its product with what is random in both: on real models
by less than 1e-6 nats a token.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...machine.files import open_whole
from ...task import Example

DEEPEST = 64.0  # nats below the likeliest token: what is less likely adds nothing that float64 could hold
STEPS = 65_535
ROWS = 16  # tokens at once: with a vocabulary of 4,096 their float64 copies stay in a core's cache
IMPOSSIBLE = -1e9  # a logit of minus infinity: as finite as needs be where the reference gives no probability either
MOST_PASSAGES = 256  # whose divergence is computed: 80,000 tokens bound it to a few per cent
FEWEST_PASSAGES = 32
LARGEST_STORE = 4 << 30  # bytes on disk of two splits, and never more than a quarter of what is free there
BYTES_PER_TOKEN = 3  # of text: fewer than what tokenizers take on average

Logits = NDArray[np.float32]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


class Sums(NamedTuple):
    """Over the tokens of a passage. The latter two are NaN where the reference has other tokens."""

    cost: float  # nats that the tokens cost
    lost: float  # nats that are lost against the reference (Kullback & Leibler 1951)
    same: float  # how many tokens both rank first


@dataclass(frozen=True)
class Prediction:
    """Of one passage. ids, first: (tokens,), the tokens and those ranked first; levels: (tokens, vocabulary)."""

    ids: Ids
    first: Ids
    step: NDArray[np.float32]  # (tokens,): nats between two levels
    levels: NDArray[np.uint16]

    @classmethod
    def of(cls, ids: Ids, logits: Logits) -> Prediction:
        """From the logits before each token, (tokens, vocabulary). Raises BrokenModel where one is NaN."""
        if np.isnan(logits).any():
            raise BrokenModel("the reference answers with NaN")
        parts = [_levels(logits[start : start + ROWS]) for start in range(0, len(ids), ROWS)]
        step, levels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return cls(np.asarray(ids), logits.argmax(axis=1), step, levels)

    def judge(self, ids: Ids, logits: Logits) -> Sums:
        """A candidate's logits before the same tokens, (tokens, vocabulary), against these."""
        agrees = logits.shape == self.levels.shape and np.array_equal(ids, self.ids)
        return judge(ids, logits, self._below_top if agrees else None, self.first)

    def _below_top(self, part: slice) -> Floats:
        """Log-probabilities less the row's largest, (tokens, vocabulary): softmax takes such a constant out."""
        return self.levels[part] * -self.step[part, None].astype(np.float64)


def judge_exactly(reference: tuple[Ids, Logits], candidate: tuple[Ids, Logits]) -> Sums:
    """The same from all digits of both."""
    (ids, before), (other, after) = reference, candidate
    agrees = before.shape == after.shape and np.array_equal(ids, other)
    return judge(other, after, (lambda part: below_top(before[part])) if agrees else None, before.argmax(axis=1))


def judge(
    ids: Ids, logits: Logits, reference: Callable[[slice], Floats] | None = None, first: Ids | None = None
) -> Sums:
    """What the tokens cost by logits (tokens, vocabulary), and how far those are from a reference's.

    reference: the log-probabilities of a part, up to a constant of each row; None where it has other tokens.
    """
    cost, lost = 0.0, 0.0
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        z = below_top(logits[part])
        total = np.log(np.exp(z).sum(axis=1))
        cost += float((total - z[np.arange(len(z)), ids[part]]).sum())
        if reference is not None:
            lost += float(np.maximum(_divergence(reference(part), z) + total, 0.0).sum())  # rounding can fall below 0
    if reference is None:
        return Sums(cost, float("nan"), float("nan"))
    return Sums(cost, lost, float((logits.argmax(axis=1) == first).sum()))


def below_top(logits: Logits) -> Floats:
    """Logits less the row's largest, in float64 and finite: (tokens, vocabulary)."""
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return np.maximum(z, IMPOSSIBLE, out=z)


def _divergence(log_e: Floats, z: Floats) -> Floats:
    """Of softmax(z) from softmax(log e), less the logarithm of the sum of exp(z): (tokens,).

    With p = e / sum(e): sum(p * (log p - z)) = sum(e * (log e - z)) / sum(e) - log sum(e).
    """
    e = np.exp(log_e)
    total = e.sum(axis=1)
    return np.asarray(np.einsum("tv,tv->t", e, log_e - z) / total - np.log(total))


def _levels(logits: Logits) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    depth = np.minimum(-below_top(logits), DEEPEST)
    step = np.maximum(depth.max(axis=1) / STEPS, np.finfo(np.float32).tiny).astype(np.float32)
    levels = np.minimum(np.rint(depth / step[:, None]), STEPS)
    return step, levels.astype(np.uint16)


class Predictions:
    """A folder of them, a file for each passage; a file that is there is whole.

    room_bytes: what they may take, by default LARGEST_STORE, and at most a quarter of the free disk. What does not fit
    is not kept, and the reference reads it again.
    """

    def __init__(self, folder: Path, room_bytes: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        taken = sum(path.stat().st_size for path in folder.iterdir())
        free = (shutil.disk_usage(folder).free + taken) // 4
        self._left_bytes = min(LARGEST_STORE if room_bytes is None else room_bytes, free) - taken

    def get(self, example: Example) -> Prediction | None:
        """What was kept of a passage."""
        try:
            with self._path(example).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                return Prediction(*(stored[name] for name in Prediction.__dataclass_fields__))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def keep(self, example: Example, prediction: Prediction) -> bool:
        """Whether there was room for it."""
        arrays = vars(prediction)
        size = sum(array.nbytes for array in arrays.values())
        if size > self._left_bytes:
            return False
        with open_whole(self._path(example)) as stream:
            np.savez(stream, **arrays)
        self._left_bytes -= size
        return True

    def _path(self, example: Example) -> Path:
        """By name and content: the same words elsewhere have another history."""
        return self._folder / f"{hashlib.sha256(f'{example.name} {example.key}'.encode()).hexdigest()[:32]}.npz"


def compared(examples: Sequence[Example], vocabulary: int, stride: int) -> frozenset[str]:
    """Names of the passages whose divergence is computed: evenly spread, the same whatever the disk has room for.

    All where they are few, at most MOST_PASSAGES, fewer where half of LARGEST_STORE would not hold them.
    """
    passage_bytes = max(1, 2 * vocabulary * stride // BYTES_PER_TOKEN)
    count = min(len(examples), MOST_PASSAGES, max(FEWEST_PASSAGES, LARGEST_STORE // 2 // passage_bytes))
    return frozenset(examples[place * len(examples) // count].name for place in range(count))
