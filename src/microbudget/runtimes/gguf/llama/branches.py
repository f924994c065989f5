"""Branches: several sequences that begin alike, in one batch. The tokens that they share are processed once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int8, c_int32, c_void_p
from dataclasses import dataclass

from .structures import Batch


@dataclass(frozen=True)
class Branched:
    """A batch, and the arrays that it points to. rows: how many logits it asks for."""

    batch: Batch
    rows: int
    kept: tuple[object, ...]

    @classmethod
    def of(cls, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> Branched:
        """Logits are asked for before each token of each branch: after the prefix (once), and after all but the last.

        A token of the prefix belongs to all sequences, as llama.h allows; those of a branch to its own alone.
        """
        everyone = (c_int32 * len(branches))(*range(len(branches)))
        alone = [(c_int32 * 1)(number) for number in range(len(branches))]
        tokens, places, wanted = [*prefix], [*range(len(prefix))], [0] * (len(prefix) - 1) + [1]
        owners = [everyone] * len(prefix)
        for number, branch in enumerate(branches):
            before = branch[:-1]  # nothing follows the last token
            tokens += before
            places += range(len(prefix), len(prefix) + len(before))
            wanted += [1] * len(before)
            owners += [alone[number]] * len(before)
        count = len(tokens)
        ids, positions = (c_int32 * count)(*tokens), (c_int32 * count)(*places)
        sizes = (c_int32 * count)(*map(len, owners))
        lists = (POINTER(c_int32) * count)(*(ctypes.cast(owner, POINTER(c_int32)) for owner in owners))
        pointers = (ctypes.cast(each, c_void_p) for each in (positions, sizes, lists))
        batch = Batch(count, ids, None, *pointers, (c_int8 * count)(*wanted))
        return cls(batch, sum(wanted), (ids, positions, sizes, lists, everyone, alone))
