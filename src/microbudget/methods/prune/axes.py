"""Axes: which positions of which tensors belong together, so that a channel can leave all of them at once.

Every position along an axis of a tensor is an atom. Operations unite atoms (the two inputs of an addition) or fix them
(what a layer norm averages over cannot lose a member). Positions that are united in the end are a bundle: it is removed
or kept as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]
Axis = Ids | None  # atoms of the positions along an axis; None: nothing of it may go (batch, space, time)
Axes = tuple[Axis, ...]  # one for each dimension of a tensor
FIXED = -1


class Atoms:
    """All atoms of a network, and what is known of them."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[Ids, Ids]] = []
        self._fixed: list[Ids] = []

    def fresh(self, count: int) -> Ids:
        """New atoms, (count,)."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def unite(self, one: Axis, other: Axis) -> None:
        """Position by position the same; joined with an axis that must stay, all must stay. Both: (positions,)."""
        if one is None or other is None:
            self.fix(one, other)
        else:
            self._pairs.append((one, other))

    def unite_rows(self, table: Ids) -> None:
        """All atoms of a row belong together. table: (rows, atoms)."""
        self._pairs.append((np.repeat(table[:, 0], table.shape[1]), table.ravel()))

    def fix(self, *axes: Axis) -> None:
        """These must stay."""
        self._fixed += [axis for axis in axes if axis is not None]

    def bundles(self) -> Ids:
        """The bundle of each atom, (atoms,); FIXED where it must stay. Numbered in the order of the atoms."""
        nothing = np.zeros(0, np.int64)
        left = np.concatenate([nothing, *(one for one, _ in self._pairs)])
        right = np.concatenate([nothing, *(other for _, other in self._pairs)])
        graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(self._count, self._count))
        count, labels = connected_components(graph, directed=False)
        stays = np.zeros(count, bool)
        stays[labels[np.concatenate([nothing, *self._fixed])]] = True
        found: Ids = np.where(stays[labels], FIXED, labels).astype(np.int64)
        return found


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Which dimensions of a reshape hold the same numbers: the smallest runs with equal products.

    before, after: shapes with as many numbers. Dimensions of size 1 at the end are alone, with an empty run on the
    other side.
    """
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        i, j = i + len(ins), j + len(outs)
        while (gap := math.prod(before[k] for k in ins) - math.prod(after[k] for k in outs)) != 0:
            if gap < 0:
                ins.append(i)
                i += 1
            else:
                outs.append(j)
                j += 1
        yield ins, outs


def reshaped(atoms: Atoms, axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes:
    """The axes of a tensor that is reshaped.

    A split axis keeps its first part (heads out of a row of heads * width: a head is removed as a whole). A merged axis
    repeats the atoms of the one that had any.
    """
    result: list[Axis] = [None] * len(after)
    for ins, outs in blocks(before, after):
        followed = [k for k in ins if axes[k] is not None]
        wide = [k for k in outs if after[k] > 1] or outs[:1]
        if len(followed) != 1 or not wide or (len(wide) > 1 and any(before[k] > 1 for k in ins if k != followed[0])):
            atoms.fix(*(axes[k] for k in ins))
        elif len(wide) == 1:
            result[wide[0]] = _merged(axes[followed[0]], [before[k] for k in ins], ins.index(followed[0]))
        else:
            table = np.reshape(axes[followed[0]], (after[wide[0]], -1))  # type: ignore[arg-type] # it is followed
            if len(wide) == 2 and (table == table[0]).all():  # what a merge repeated is separated again
                result[wide[1]] = table[0]
                continue
            atoms.unite_rows(table)
            result[wide[0]] = table[:, 0]
    return tuple(result)


def _merged(axis: Axis, sizes: Sequence[int], place: int) -> Ids:
    """Atoms of one of several axes that become one: those of the others repeat them."""
    shape = [1] * len(sizes)
    shape[place] = -1
    return np.broadcast_to(np.reshape(axis, shape), tuple(sizes)).ravel()  # type: ignore[arg-type] # it is followed


def broadcast(atoms: Atoms, tensors: Sequence[tuple[Axes, Sequence[int]]], shape: Sequence[int]) -> Axes:
    """The axes of the result of an element-wise operation on tensors of these (axes, shape)."""
    result: list[Axis] = []
    for place in range(-len(shape), 0):
        meeting: list[Axis] = []
        for axes, sizes in tensors:
            if len(sizes) < -place:
                continue
            if sizes[place] == shape[place]:
                meeting.append(axes[place])
            else:
                atoms.fix(axes[place])  # a single channel that is spread over many
        for other in meeting[1:]:
            atoms.unite(meeting[0], other)
        result.append(None if any(axis is None for axis in meeting) or not meeting else meeting[0])
    return tuple(result)
