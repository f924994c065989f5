"""What a network costs at given widths, without building it: numbers to store, and an estimate of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .graph import Dependencies, Site

FLOPS_PER_S = 190e9  # of two cores, float32: only the ratio to the next line matters
BYTES_PER_S = 40e9
Floats = NDArray[np.float64]
Terms = list[tuple[float, tuple[int, ...]]]


@dataclass(frozen=True)
class Sum:
    """A sum of products of lengths of axes, as a function of the widths of the sites.

    members: (axes, sites), positions of an axis that each channel of a site takes; stays: (axes,), those that stay.
    factors: (terms,); rows: (terms, factors of a product), rows of `members`.
    """

    members: Floats
    stays: Floats
    factors: Floats
    rows: NDArray[np.intp]

    def __call__(self, widths: Floats) -> float:
        """widths: (sites,), channels that stay."""
        lengths = self.members @ widths + self.stays
        return float(self.factors @ lengths[self.rows].prod(axis=1))


def parameters(graph: Dependencies, sites: Sequence[Site]) -> Sum:
    """Stored numbers; a tensor that layers share counts once."""
    rows = _rows(graph)
    stored = {name: axes for name, axes in graph.axes.items() if name not in graph.tied}
    terms = [(1.0, tuple(rows[name, axis] for axis in range(len(axes)))) for name, axes in stored.items()]
    return _sum(graph, sites, terms)


def time_s(graph: Dependencies, sites: Sequence[Site]) -> Sum:
    """Seconds of one example by a roofline: multiplications, and the memory traffic of the inputs and outputs of each
    layer.
    """
    rows, terms = _rows(graph), []
    for one in graph.contractions:
        axes = tuple(rows[one.weight, axis] for axis in range(len(graph.axes[one.weight])))
        read = one.in_axis if one.groups == 1 else one.out_axis
        terms += [
            (2 * one.positions / FLOPS_PER_S, axes),
            (4 * one.positions / BYTES_PER_S, (rows[one.weight, one.out_axis],)),
            (4 * one.input_numbers / BYTES_PER_S, (rows[one.weight, read],)),
        ]
    return _sum(graph, sites, terms)


def channels(graph: Dependencies, sites: Sequence[Site]) -> Sum:
    """Channels that can be removed; a head counts as many as it is wide."""
    rows = _rows(graph)
    return _sum(graph, sites, [(1.0, (rows[site.made],)) for site in sites], stays=False)


def _rows(graph: Dependencies) -> dict[tuple[str, int], int]:
    keys = [(name, axis) for name, axes in graph.axes.items() for axis in range(len(axes))]
    return {key: row for row, key in enumerate(keys)}


def _sum(graph: Dependencies, sites: Sequence[Site], terms: Terms, stays: bool = True) -> Sum:
    owner = np.full(graph.count + 1, len(sites))  # of each bundle; the last is read for FIXED, which is -1
    for index, site in enumerate(sites):
        owner[site.bundles] = index
    width = np.array([site.width for site in sites], float)
    axes = [ids for one in graph.axes.values() for ids in one]
    table = np.stack([np.bincount(owner[ids], minlength=len(sites) + 1) for ids in axes]).astype(float)
    ones = np.zeros(table.shape[1])
    ones[-1] = 1.0  # an axis of one position, for the products with fewer factors than the longest
    table = np.concatenate([table, ones[None]])
    longest = max(len(rows) for _, rows in terms)
    rows = [(*each, *(len(axes),) * (longest - len(each))) for _, each in terms]
    left = table[:, -1] if stays else np.where(np.arange(len(table)) == len(axes), 1.0, 0.0)
    return Sum(table[:, :-1] / width, left, np.array([factor for factor, _ in terms]), np.array(rows))
