"""repair: what a cut has changed is made up for without training, and what came of it goes into the report.

First the layers are fitted to what they computed before (`least_squares`), then batch norm's statistics are matched
(`moments`), each where it brings the answers nearer to the given network's. Last, batch norm's statistics become those
that a training will see, with scales and shifts under which the answers stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import costs
from .allocate import widths
from .axes import Ids
from .channels import Plan
from .least_squares import most_examples, refit
from .moments import as_measured, match
from .surgery import kept_share
from .target import Batch, PruningTarget, divergence

MASK = "attention_mask"  # of tokens: 0 where a text is padded
More = Callable[[int], PruningTarget | None]  # at most so many examples -> a target with them; None: there are none


def _refitted(plan: Plan, network: Any, removed: Ids, inputs: Batch, reference: Tensor) -> int:
    """Fit the layers where that brings the answers nearer than matched statistics do; how many, 0 where it does not."""
    target = plan.target
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    match(target, network, plan.graph, removed)
    matched = divergence(reference, target.logits(network))
    network.load_state_dict(before)
    layers = refit(target, network, plan.graph, removed, inputs)
    if layers and divergence(reference, target.logits(network)) < matched:
        return layers
    network.load_state_dict(before)
    return 0


def _together(target: PruningTarget | None) -> Batch | None:
    """All examples in one batch, texts padded; None without examples, or of several shapes and without a mask."""
    if target is None:
        return None
    batches = target.batches
    if any(len({one[name].shape[1:] for one in batches}) > 1 for name in batches[0]):
        if MASK not in batches[0] or any(tensor.ndim != 2 for tensor in batches[0].values()):
            return None
        longest = max(one[MASK].shape[1] for one in batches)
        batches = [
            {name: pad(tensor, (0, longest - tensor.shape[1])) for name, tensor in one.items()} for one in batches
        ]
    return {name: torch.cat([one[name] for one in batches]) for name in batches[0]}


def finish(plan: Plan, counts: Sequence[int], network: Any, more: More) -> dict[str, Any]:
    """Repair the cut network in place; the report for the record's history."""
    reference = plan.target.logits()
    loss = divergence(reference, plan.target.logits(network))
    removed = plan.removed(counts)
    inputs = _together(more(most_examples(plan.graph)))
    fitted = 0 if inputs is None else _refitted(plan, network, removed, inputs, reference)
    matched = match(plan.target, network, plan.graph, removed)
    if inputs is not None:
        as_measured(plan.target, network, inputs)
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
        **({"layers_fitted": fitted, "examples_fitted": len(next(iter(inputs.values())))} if inputs and fitted else {}),
        "not_followed": list(plan.graph.stopped_by),
        "layers": layers,
    }
