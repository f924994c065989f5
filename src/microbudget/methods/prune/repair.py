"""repair: what a cut has changed is made up for without training, and what came of it goes into the report.

First the layers are fitted to what they computed before (`least_squares`), then batch norm's statistics are matched
(`moments`), each where it brings the answers nearer to the given network's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import costs
from .allocate import widths
from .axes import Ids
from .channels import Plan
from .least_squares import most_examples, refit
from .moments import match
from .surgery import kept_share
from .target import PruningTarget, divergence

More = Callable[[int], PruningTarget | None]  # at most so many examples -> a target with them; None: there are none


def _refitted(plan: Plan, network: Any, removed: Ids, more: More) -> tuple[int, int] | None:
    """Fit the layers where that brings the answers nearer than matched statistics do; how many layers, and examples."""
    target, found = plan.target, more(most_examples(plan.graph))
    if found is None or not _of_one_shape(found):
        return None
    inputs = {name: torch.cat([batch[name] for batch in found.batches]) for name in found.batches[0]}
    fitted, matched = copy.deepcopy(network), copy.deepcopy(network)
    layers = refit(target, fitted, plan.graph, removed, inputs)
    match(target, matched, plan.graph, removed)
    reference = target.logits()
    losses = [divergence(reference, target.logits(each)) for each in (fitted, matched)]
    if not layers or not losses[0] < losses[1]:
        return None
    network.load_state_dict(fitted.state_dict())
    return layers, len(next(iter(inputs.values())))


def _of_one_shape(target: PruningTarget) -> bool:
    """Whether all examples can go through the network together."""
    return all(len({batch[name].shape[1:] for batch in target.batches}) == 1 for name in target.batches[0])


def finish(plan: Plan, counts: Sequence[int], network: Any, more: More) -> dict[str, Any]:
    """Repair the cut network in place; the report for the record's history."""
    reference = plan.target.logits()
    loss = divergence(reference, plan.target.logits(network))
    removed = plan.removed(counts)
    fitted = _refitted(plan, network, removed, more)
    matched = match(plan.target, network, plan.graph, removed)
    stays = widths(plan.families, counts)
    everything = widths(plan.families, [0] * len(plan.families))

    def share(cost: costs.Sum) -> float:
        return cost(stays) / cost(everything)

    layers = [
        {
            "layer": family.name,
            "before": family.width,
            "after": family.width - count,
            "sensitivity": [round(float(nats), 6) for nats in curve.nats],
        }
        for family, count, curve in zip(plan.families, counts, plan.losses, strict=True)
    ]
    return {
        "channels_left": share(costs.channels(plan.graph, plan.sites)),
        "parameters_left": kept_share(plan.target.network, network),
        "time_left_estimate": share(costs.time_s(plan.graph, plan.sites)),
        "divergence": divergence(reference, plan.target.logits(network)),
        "divergence_before_repair": loss,
        "moments_matched": matched,
        **({"layers_fitted": fitted[0], "examples_fitted": fitted[1]} if fitted else {}),
        "not_followed": list(plan.graph.stopped_by),
        "layers": layers,
    }
