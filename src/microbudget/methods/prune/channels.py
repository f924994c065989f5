"""channels: from a network and a target to a smaller network that answers as the original with masked channels."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InvalidOption
from ...machine.journal import Journal
from ...progress import Progress
from ...training.deadline import Clock
from . import costs
from .allocate import allocate, step_of, widths
from .axes import Ids
from .graph import OTHER_WAYS, Dependencies, Site, trace
from .importance import Scores, importance
from .sensitivity import Curve, Family, curves, masked
from .surgery import check, cut
from .target import PruningTarget


@dataclass(frozen=True)
class Plan:
    """What is known before the cut: the channels in families, their order, and the sensitivity of each family."""

    target: PruningTarget
    graph: Dependencies
    families: tuple[Family, ...]
    losses: tuple[Curve, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """In the order of the families."""
        return tuple(site for family in self.families for site in family.sites)

    def for_sparsity(self, sparsity: float) -> tuple[int, ...]:
        """Channels to remove from each family so that this fraction of all channels is removed."""
        return self._allocate(costs.channels(self.graph, self.sites), 1 - sparsity)

    def for_size(self, share: float) -> tuple[int, ...]:
        """As `for_sparsity`, so that at most this fraction of the parameters stays."""
        return self._allocate(costs.parameters(self.graph, self.sites), share)

    def for_time(self, share: float) -> tuple[int, ...]:
        """As `for_sparsity`, so that at most this fraction of the estimated time stays."""
        return self._allocate(costs.time_s(self.graph, self.sites), share)

    def _allocate(self, cost: costs.Sum, share: float) -> tuple[int, ...]:
        whole = cost(widths(self.families, [0] * len(self.families)))
        return allocate(self.families, self.losses, cost, share * whole)

    def removed(self, counts: Sequence[int]) -> Ids:
        """The bundles that are removed."""
        parts = [family.first(count) for family, count in zip(self.families, counts, strict=True)]
        return np.concatenate(parts)

    def cut(self, counts: Sequence[int]) -> Any:
        """A smaller copy of the network. Raises UnsupportedModel where its answers differ from the masked network's."""
        removed = self.removed(counts)
        with masked(self.target, self.graph, removed):
            expected = self.target.logits()
        network = copy.deepcopy(self.target.network)
        cut(network, self.graph, removed)
        check(self.target, network, expected)
        return network


def plan(
    target: PruningTarget,
    kind: str,
    progress: Progress,
    *,
    uniform: bool,
    journal: Journal | None = None,
    clock: Clock | None = None,
) -> Plan:
    """Trace the network, order its channels by importance, measure each layer's sensitivity.

    uniform: the same layer of all blocks keeps equally many, so that a config can express it. journal: has the
    layers that were measured before. clock: raises OutOfTime where they take too long. Raises UnsupportedModel, and
    InvalidOption where no layer has a channel to spare.
    """
    graph = trace(target.network, target.example)
    sites = tuple(site for site in graph.sites if site.width > 1)
    if not sites:
        raise InvalidOption(
            f"prune: every layer of {type(target.network).__name__} whose channels could be removed has a single"
            f" one and would lose its last channel. {OTHER_WAYS}"
        )
    families = _families(sites, importance(kind, target, graph), uniform)
    watched = clock or Clock(None, "the sensitivity of the layers")
    losses = curves(target, graph, families, target.logits(), progress, journal or Journal(), watched)
    return Plan(target, graph, families, losses)


def _families(sites: Sequence[Site], scores: Scores, uniform: bool) -> tuple[Family, ...]:
    together: dict[Any, list[Site]] = defaultdict(list)
    for index, site in enumerate(sites):
        key = (re.sub(r"\.\d+\.", ".*.", site.name), site.width) if uniform else index
        together[key].append(site)
    return tuple(_family(members, scores, uniform) for members in together.values())


def _family(sites: Sequence[Site], scores: Scores, uniform: bool) -> Family:
    order = tuple(site.bundles[np.argsort(scores[site.bundles], kind="stable")] for site in sites)
    return Family(sites[0].name, tuple(sites), order, step_of(sites[0].width, uniform))
