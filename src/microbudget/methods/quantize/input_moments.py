"""The second moments of layers' inputs, from rows drawn while the float and the quantized model run over samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel
from ...runtimes.onnx.graph import captured
from .calibration import Samples, finite, watch
from .graph import Graph, Layer
from .moments import Moments
from .plan import Plan
from .ranges import input_rows, row_count
from .write import write

ROWS_PER_COLUMN, FEWEST_ROWS, MOST_ROWS = 24, 8192, 60_000
ROWS_FOR_MEANS = 4096
ENOUGH_PER_COLUMN = 256  # a depthwise kernel of 9 weights needs no 8192 rows of every channel
ROWS_AT_ONCE_BYTES = 8 * 2**20


def input_moments(
    graph: Graph, plan: Plan, stage: Sequence[Layer], samples: Samples, *, diagonal: bool
) -> dict[str, Moments]:
    """The moments of each layer's input, by the layer's name. diagonal: only the squares, see `Moments`.

    Raises BrokenModel where an input is NaN or infinite.
    """
    models = [(graph.model, [layer.input for layer in stage])]
    if plan.weights:  # before the first rounded layer, both models are one
        current = write(graph, plan.with_real_activations())
        inputs = {node.name: node.input[0] for node in current.graph.node}
        models.append((current, [inputs[layer.name] for layer in stage]))
    matrices = [layer.matrix(graph.constants[layer.weight]).shape for layer in stage]
    found = [Moments(groups, K, diagonal=diagonal) for groups, _, K in matrices]
    compensating = compensating_layers(graph, stage)

    def see(place: int, values: list[NDArray[Any]]) -> None:
        for value, whose in zip(values, ("", " of the quantized model"), strict=False):
            if not finite(value):
                raise BrokenModel(
                    f"tensor {stage[place].input!r}{whose} is NaN or infinite on calibration data: is the model or an"
                    " input broken?"
                )
        groups, _, K = matrices[place]
        wanted = ROWS_FOR_MEANS if diagonal else _rows(K)
        limit = max(1, min(-(-wanted * len(values[0]) // samples.count), ROWS_AT_ONCE_BYTES // (4 * groups * K)))
        where = (samples.seed, place, found[place].rows)
        seen = values if stage[place].name in compensating else values[:1]
        rows = [input_rows(graph, stage[place], v, limit, np.random.default_rng(where)) for v in seen]
        found[place].update(rows[0], rows[-1])
        found[place].available += row_count(graph, stage[place], values[0])

    watch(models, samples.batches, see, threads=samples.threads)
    return {layer.name: moments for layer, moments in zip(stage, found, strict=True)}


def compensating_layers(graph: Graph, stage: Sequence[Layer]) -> set[str]:
    """The layers of a stage that may compensate for the errors before them: those downstream of no other of the stage.

    The inputs of all were seen with none of them compensating: if two in a row compensated for the same error, the
    stage would overshoot, the next one still further, and a network of fifty layers would end in ruin.
    """
    own, upstream = {layer.name for layer in stage}, {layer.name: set[str]() for layer in stage}
    depends_on: dict[str, set[str]] = {}  # tensor -> layers of the stage that it depends on
    for node in graph.nodes:
        met = set().union(*(depends_on.get(name, set()) for name in (*node.input, *captured(node))))
        if node.name in own:
            upstream[node.name] = met
            met = met | {node.name}
        depends_on.update({name: met for name in node.output if met})
    return {name for name, met in upstream.items() if not met}


def _rows(K: int) -> int:
    """Rows of K values that are enough for their second moments."""
    return min(max(ROWS_PER_COLUMN * K, min(FEWEST_ROWS, ENOUGH_PER_COLUMN * K)), MOST_ROWS)
