"""What the writers of single layers share."""

from __future__ import annotations

from dataclasses import dataclass

from .builder import GraphBuilder
from .graph import Graph
from .plan import Plan
from .rounded import RoundedTensors
from .storage import StoredWeights


@dataclass(frozen=True)
class Draft:
    """A quantized model while it is written: the float graph, the plan, and the new graph with its tensors."""

    graph: Graph
    plan: Plan
    builder: GraphBuilder
    tensors: RoundedTensors
    weights: StoredWeights

    @classmethod
    def of(cls, graph: Graph, plan: Plan) -> Draft:
        """An empty one."""
        builder = GraphBuilder()
        return cls(graph, plan, builder, RoundedTensors(graph, plan, builder), StoredWeights(plan, builder))
