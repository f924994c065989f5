"""Sensitivity: how much the answers change when a layer's least important channels are masked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ...machine.journal import Journal
from ...progress import Progress
from ...training.deadline import Clock
from .axes import Ids
from .graph import Dependencies, Site
from .moments import Moments, input_moments, repaired_logits
from .target import PruningTarget, divergence

RATES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Family:
    """Sites that keep equally many channels: one, or the same layer of all blocks where the config has one number.

    order: for each site its bundles, the least important first.
    """

    name: str
    sites: tuple[Site, ...]
    order: tuple[Ids, ...]
    step: int  # channels are removed in multiples of it

    @property
    def width(self) -> int:
        """Channels of each site."""
        return self.sites[0].width

    def first(self, count: int) -> Ids:
        """The bundles that are removed when each site loses `count`."""
        return np.concatenate([order[:count] for order in self.order])


@dataclass(frozen=True)
class Curve:
    """The divergence in nats when a family loses channels, at several counts, from 0 channels on."""

    counts: NDArray[np.float64]
    nats: NDArray[np.float64]

    def at(self, count: float) -> float:
        """Between the measured counts in lines; beyond the last twice as steep as before it."""
        beyond = count - self.counts[-1]
        if beyond <= 0:
            return float(np.interp(count, self.counts, self.nats))
        slope = (self.nats[-1] - self.nats[-2]) / (self.counts[-1] - self.counts[-2])
        return float(self.nats[-1] + 2 * slope * beyond)


@contextlib.contextmanager
def masked(target: PruningTarget, graph: Dependencies, removed: Ids) -> Iterator[None]:
    """A context in which the removed channels have no effect: the weights that read them are zero.

    That is equal to their removal, since nothing else reads a channel that can be removed: a convolution in groups
    passes it on to a channel that is removed too.
    """
    parameters: Mapping[str, torch.Tensor] = dict(target.network.named_parameters())
    removed_mask = np.zeros(graph.count + 1, bool)  # the last is FIXED's
    removed_mask[removed] = True
    before = []
    for one in graph.contractions:
        places = np.flatnonzero(removed_mask[graph.axes[one.weight][one.in_axis]])
        if one.groups == 1 and len(places):
            weight = parameters[one.weight].detach()
            before.append((weight, weight.clone()))
            weight.index_fill_(one.in_axis, torch.from_numpy(places), 0.0)
    try:
        yield
    finally:
        for weight, values in reversed(before):
            weight.copy_(values)


def curves(
    target: PruningTarget,
    graph: Dependencies,
    families: Sequence[Family],
    reference: torch.Tensor,
    progress: Progress,
    journal: Journal,
    clock: Clock,
) -> tuple[Curve, ...]:
    """The curve of each family, measured with the others whole and batch norm repaired.

    reference: the network's answers, (rows, classes). journal: has the families that were measured before. Raises
    OutOfTime.
    """
    wanted = [input_moments(target, batch) for batch in target.batches]
    found = []
    for done, family in enumerate(progress.track(families, "sensitivity of layer", len(families)), 1):
        counts = sorted({max(1, round(rate * family.width)) for rate in RATES if family.width > 1})
        measure = partial(_nats, target, graph, family, counts, reference, wanted)
        nats = journal.value(f"{family.name} without {counts} of {family.width}", measure)
        grown = np.maximum.accumulate(np.nan_to_num([0.0, *nats], nan=np.inf, posinf=1e6))
        found.append(Curve(np.array([0, *counts], float), grown))
        clock.tick(len(families) - done)
    return tuple(found)


def _nats(
    target: PruningTarget,
    graph: Dependencies,
    family: Family,
    counts: Sequence[int],
    reference: torch.Tensor,
    wanted: Sequence[Mapping[str, Moments]],
) -> list[float]:
    """The divergence without each of these counts of channels."""
    nats = []
    for count in counts:
        with masked(target, graph, family.first(count)):
            nats.append(divergence(reference, repaired_logits(target, wanted)))
    return nats
