"""Predictions of a reference for passages, kept on disk: it reads them once for all candidates.

Each log-probability of a token is kept as one of 65,536 steps between the largest and the smallest, which is taken as
at most DEEPEST below. Steps are at most 0.001 nats, and the probabilities are normalized again, so that the divergence
of a candidate changes by the step's square, and by its product with the noise of both: on real models by less than 1e-6
nats per token.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...machine.files import open_whole
from ...task import Example

DEEPEST = 64.0  # nats below the most likely token: less likely ones are lost in a sum of float64
STEPS = 65_535
ROWS = 16  # tokens at once: with a vocabulary of 4,096 their float64 copies stay in a core's cache
IMPOSSIBLE = -1e9  # in place of a logit of minus infinity, whose product with a probability of 0 would be NaN
MOST_PASSAGES = 64  # of a split whose divergence is computed: 16,000 tokens estimate it to a few per cent
FEWEST_PASSAGES = 32
LARGEST_STORE = 4 << 30  # bytes on disk of two splits, and never more than a quarter of what is free there
BYTES_PER_TOKEN = 3  # of text: fewer than what tokenizers take on average

Logits = NDArray[np.float32]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


class Sums(NamedTuple):
    """Over the tokens of a passage. The latter two are NaN where the reference has other tokens."""

    cost: float  # cross entropy, nats
    lost: float  # divergence from the reference, nats (Kullback & Leibler 1951)
    same: float  # number of tokens before which both rank the same token first


@dataclass(frozen=True)
class Prediction:
    """Of one passage. ids, first: (tokens,), the tokens and the most likely ones; levels: (tokens, vocabulary)."""

    ids: Ids
    first: Ids
    step: NDArray[np.float32]  # (tokens,): nats between two levels
    levels: NDArray[np.uint16]

    @classmethod
    def of(cls, ids: Ids, logits: Logits) -> Prediction:
        """From the logits before each token, (tokens, vocabulary). Raises BrokenModel where one is NaN."""
        if np.isnan(logits).any():
            raise BrokenModel("the reference's logits have NaN")
        parts = [_levels(logits[start : start + ROWS]) for start in range(0, len(ids), ROWS)]
        step, levels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return cls(np.asarray(ids), logits.argmax(axis=1), step, levels)

    def judge(self, ids: Ids, logits: Logits) -> Sums:
        """Compare a candidate's logits before the same tokens, (tokens, vocabulary), with this."""
        agrees = logits.shape == self.levels.shape and np.array_equal(ids, self.ids)
        return judge(ids, logits, self._below_top if agrees else None, self.first)

    def _below_top(self, part: slice) -> Floats:
        """Log-probabilities less the row's largest, (tokens, vocabulary); softmax ignores such a constant."""
        return self.levels[part] * -self.step[part, None].astype(np.float64)


def judge_exactly(reference: tuple[Ids, Logits], candidate: tuple[Ids, Logits]) -> Sums:
    """As `Prediction.judge`, from the unrounded logits of both."""
    (ids, before), (other, after) = reference, candidate
    agrees = before.shape == after.shape and np.array_equal(ids, other)
    return judge(other, after, (lambda part: below_top(before[part])) if agrees else None, before.argmax(axis=1))


def judge(
    ids: Ids, logits: Logits, reference: Callable[[slice], Floats] | None = None, first: Ids | None = None
) -> Sums:
    """The cross entropy of tokens by logits (tokens, vocabulary), and the divergence of these from a reference's.

    reference: the log-probabilities of a part, up to a constant of each row; None where its tokens differ.
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
    """The divergence of softmax(z) from softmax(log e), less the logarithm of the sum of exp(z): (tokens,).

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
    """A folder with a file for each passage; a file that exists is complete.

    room_bytes: their limit, by default LARGEST_STORE, and at most a quarter of the free disk. What does not fit is not
    kept, and the reference reads it again.
    """

    def __init__(self, folder: Path, room_bytes: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        taken = sum(path.stat().st_size for path in folder.iterdir())
        free = (shutil.disk_usage(folder).free + taken) // 4
        self._left_bytes = min(LARGEST_STORE if room_bytes is None else room_bytes, free) - taken

    def get(self, example: Example) -> Prediction | None:
        """The prediction for a passage, or None where none was kept."""
        try:
            with self._path(example).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                return Prediction(*(stored[name] for name in Prediction.__dataclass_fields__))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def keep(self, example: Example, prediction: Prediction) -> bool:
        """Write it, if there is room. Returns whether there was."""
        arrays = vars(prediction)
        size = sum(array.nbytes for array in arrays.values())
        if size > self._left_bytes:
            return False
        with open_whole(self._path(example)) as stream:
            np.savez(stream, **arrays)
        self._left_bytes -= size
        return True

    def _path(self, example: Example) -> Path:
        """By name and content: the same text in another place has another history."""
        return self._folder / f"{hashlib.sha256(f'{example.name} {example.key}'.encode()).hexdigest()[:32]}.npz"


def compared_passages(vocabulary: int, stride: int) -> int:
    """How many of the passages that a run reads first have their divergence computed, whatever the free disk.

    MOST_PASSAGES, or fewer where half of LARGEST_STORE could not hold them.
    """
    passage_bytes = max(1, 2 * vocabulary * stride // BYTES_PER_TOKEN)
    return min(MOST_PASSAGES, max(FEWEST_PASSAGES, LARGEST_STORE // 2 // passage_bytes))
