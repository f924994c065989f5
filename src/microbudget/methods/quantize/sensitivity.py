"""Sensitivity of each part of a quantized model: the KL divergence of the answers with only that part rounded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ...machine.journal import Journal
from .calibration import Samples
from .divergence import mean_kl
from .graph import Graph
from .layer_rounding import ONCE, Steps
from .placement import Placement, producer_name
from .plan import Plan, Weights
from .write import write

EXAMPLES = 64


def activation_losses(
    graph: Graph, plan: Plan, placement: Placement, samples: Samples, steps: Steps = ONCE
) -> dict[str, float]:
    """Mean KL in nats with only this tensor (and what moves it) rounded, all weights float."""
    few, journal = samples.first(EXAMPLES, graph.model), steps.journal or Journal()
    losses = {}
    for tensor in steps.progress.track(placement.tensors, "sensitivity of activations"):
        moved_too = [tensor, *(moved for moved, source in placement.source.items() if source == tensor)]
        one = Plan(
            dict.fromkeys(plan.schemes, "float"),
            {name: plan.activations[name] for name in moved_too},
            placement.nodes,
        )
        losses[tensor] = journal.value(f"only {tensor}", partial(_loss, graph, one, few))
    return losses


def weight_losses(
    graph: Graph, candidates: Iterable[tuple[str, Weights]], samples: Samples, steps: Steps = ONCE
) -> dict[tuple[str, int], float]:
    """Mean KL in nats with only this layer's weights rounded, by (layer, bits)."""
    few, journal = samples.first(EXAMPLES, graph.model), steps.journal or Journal()
    losses = {}
    for name, weights in steps.progress.track(list(candidates), "sensitivity of weights"):
        one = Plan({name: "weights"}, weights={name: weights})
        found = journal.value(f"only {name} in {weights.bits} bits", partial(_loss, graph, one, few))
        losses[name, weights.bits] = found
    return losses


def _loss(graph: Graph, plan: Plan, few: Samples) -> float:
    """Mean KL in nats of the graph as the plan says."""
    return float(mean_kl(graph.model, [write(graph, plan)], few.batches, threads=few.threads)[0])


def nodes_kept_float(graph: Graph, placement: Placement, losses: dict[str, float], count: int) -> frozenset[str]:
    """The nodes to leave in float so that the `count` tensors of greatest loss are not rounded where that is possible.

    These are the nodes that produce such a tensor and those that read it and are no layers; for a model's input, the
    layers too.
    """
    kept: set[str] = set()
    layers = {layer.name for layer in graph.layers}
    for tensor in sorted(losses, key=lambda name: -losses[name])[:count]:
        producer = graph.producers.get(tensor)
        if producer is None:
            kept |= {reader.name for reader in graph.consumers[tensor]}
        else:
            kept |= {reader.name for reader in graph.consumers.get(tensor, []) if reader.name not in layers}
            kept.add(producer_name(graph, tensor))
    return frozenset(kept & placement.nodes)
