"""The range of every rounded activation: observed once, chosen per tensor by the error on its readers' outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenModel, InvalidOption
from .calibration import Calibration, first_examples, watch
from .graph import Graph, Layer
from .mapping import rounding_error
from .observers import OBSERVERS, Histogram, MinMax, Range, range_by_name, squared_error
from .patches import sampled_patches
from .placement import Placement
from .plan import Mapping

COUNTED_AT_ONCE = 2**16  # values of a tensor and piece that enter its histogram; all enter its smallest and largest
COMPARED_EXAMPLES = 16
COMPARED_ROWS = 32  # patches of each example on which observers are compared

AUTO = "auto"
DEFAULT = "least_squares"
CLEARLY = 0.9  # another observer must lose this much less: few rows represent rare values badly
AT_MOST = 1.5  # times the default's squared error over all values seen: the histogram knows the rare ones as well


@dataclass
class Observed:
    """What was seen of one tensor, and the range that was chosen for it."""

    seen: MinMax
    observer: str = "min_max"
    low: float = 0.0
    high: float = 0.0

    def set_range(self, observer: str, chosen: Range) -> None:
        """Choose the range that an observer found."""
        self.observer, (self.low, self.high) = observer, chosen

    @property
    def saturation(self) -> float:
        """The fraction of values that the chosen range clips, estimated from the histogram; 0 for min/max."""
        if not isinstance(self.seen, Histogram) or self.observer == "min_max":
            return 0.0
        outside = (self.seen.centres < self.low) | (self.seen.centres > self.high)
        return float(self.seen.counts[outside].sum() / max(self.seen.counts.sum() + self.seen.zeros, 1))

    def relative_error(self, low: float, high: float) -> float | None:
        """Lost power over power of the values, for a range; None where no histogram was kept."""
        if not isinstance(self.seen, Histogram):
            return None
        power = float(self.seen.counts @ self.seen.centres**2)
        return squared_error(self.seen, low, high, 8) / power if power else 0.0


def observe(
    graph: Graph, tensors: Sequence[str], calibration: Calibration, observer: str, *, threads: int = 0
) -> dict[str, Observed]:
    """Run the float model once over the calibration data and watch the tensors. Only min_max keeps no histograms."""
    if observer not in (AUTO, *OBSERVERS):
        raise InvalidOption(f"observer must be one of {', '.join((AUTO, *OBSERVERS))}, not {observer!r}")
    observer_type = MinMax if observer == "min_max" else Histogram
    observed = {name: Observed(observer_type()) for name in tensors}

    def see(place: int, values: list[NDArray[Any]]) -> None:
        try:
            _update(observed[tensors[place]].seen, np.asarray(values[0]))
        except BrokenModel as error:
            raise BrokenModel(f"tensor {tensors[place]!r}: {error}") from error

    watch([(graph.model, tensors)], calibration, see, threads=threads)
    return observed


def _update(seen: MinMax, values: NDArray[Any]) -> None:
    if isinstance(seen, Histogram):
        seen.update(values, every=max(1, values.size // COUNTED_AT_ONCE) | 1)
    else:
        seen.update(values)


def choose(
    graph: Graph,
    placement: Placement,
    observed: dict[str, Observed],
    calibration: Calibration,
    observer: str,
    *,
    signed: bool,
    threads: int = 0,
) -> None:
    """Set the range of every observed tensor: that of the given observer, or (auto) the best one.

    The best has the least error on the outputs of the layers that read the tensor; without such readers, on the tensor.
    """
    name = DEFAULT if observer == AUTO else observer
    for tensor in observed.values():
        tensor.set_range(name, range_by_name(name, tensor.seen, 8, signed=signed))
    if observer == AUTO:
        comparison = ObserverComparison(graph, placement, observed, signed)
        comparison.run(calibration, threads)
        for winner, (name, chosen) in comparison.winners().items():
            observed[winner].set_range(name, chosen)


@dataclass
class ObserverComparison:
    """Squared errors of layers' outputs, for every tensor and observer."""

    graph: Graph
    placement: Placement
    observed: dict[str, Observed]
    signed: bool
    ranges: dict[str, dict[str, Range]] = field(default_factory=dict)
    losses: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # tensor -> for each reading layer

    def run(self, calibration: Calibration, threads: int) -> None:
        """Compare on the first COMPARED_EXAMPLES examples."""
        readers = [layer for layer in self.graph.layers if layer.name in self.placement.nodes]
        layers = [layer for layer in readers if self._tensor(layer) in self.observed]
        if not layers:
            return
        for layer in layers:
            tensor = self._tensor(layer)
            if tensor not in self.ranges:
                self.ranges[tensor] = self._all_ranges(self.observed[tensor])
        totals: list[dict[str, float]] = [dict.fromkeys(OBSERVERS, 0.0) for _ in layers]

        def see(place: int, values: list[NDArray[Any]]) -> None:
            self._add(totals[place], layers[place], np.asarray(values[0], np.float32))

        few = first_examples(calibration, COMPARED_EXAMPLES, self.graph.model)
        watch([(self.graph.model, [layer.input for layer in layers])], few, see, threads=threads)
        for layer, total in zip(layers, totals, strict=True):
            self.losses.setdefault(self._tensor(layer), []).append(total)

    def _all_ranges(self, tensor: Observed) -> dict[str, Range]:
        """The range of every observer; that of the tensor's own is known."""
        known = {tensor.observer: (tensor.low, tensor.high)}
        return {name: known.get(name) or range_by_name(name, tensor.seen, 8, signed=self.signed) for name in OBSERVERS}

    def _tensor(self, layer: Layer) -> str:
        """The tensor whose range the layer's input has."""
        return self.placement.source.get(layer.input, layer.input)

    def _add(self, total: dict[str, float], layer: Layer, x: NDArray[np.float32]) -> None:
        rows = input_rows(self.graph, layer, x, COMPARED_ROWS * len(x), np.random.default_rng(0))
        W = layer.matrix(self.graph.constants[layer.weight]).astype(np.float32)
        stacked = np.ascontiguousarray(rows.transpose(1, 0, 2))
        found: dict[Range, float] = {}  # observers often agree
        for name, chosen in self.ranges[self._tensor(layer)].items():
            if chosen not in found:
                m = Mapping.of_range(*chosen, signed=self.signed)
                error = _products(rounding_error(stacked, m.S, m.Z, signed=m.signed), W)
                found[chosen] = float(error.var(axis=1, dtype=np.float64).sum()) * error.shape[1]
            total[name] += found[chosen]

    def winners(self) -> dict[str, tuple[str, Range]]:
        """For each tensor the observer whose loss, relative to each reader's best, is least in sum."""
        chosen = {}
        for tensor, readers in self.losses.items():
            relative = {
                name: sum(total[name] / max(min(total.values()), 1e-30) for total in readers) for name in OBSERVERS
            }
            best = min(self._fair(tensor), key=lambda name: relative[name])
            if relative[best] > CLEARLY * relative[DEFAULT]:
                best = DEFAULT
            chosen[tensor] = best, self.ranges[tensor][best]
        return chosen

    def _fair(self, tensor: str) -> list[str]:
        """The observers that do not clip rare values which the rows compared may not hold: DEFAULT is one of them."""
        errors = {name: self.observed[tensor].relative_error(*self.ranges[tensor][name]) or 0.0 for name in OBSERVERS}
        return [name for name in OBSERVERS if errors[name] <= AT_MOST * errors[DEFAULT]]


def _products(x: NDArray[np.float32], W: NDArray[np.float32]) -> NDArray[np.float32]:
    """x: (groups, rows, K), W: (groups, outputs, K). Returns (groups, rows, outputs)."""
    if W.shape[1] == 1:  # depthwise: a thousand products of a matrix with a vector
        return np.asarray(np.einsum("grk,gok->gro", x, W), np.float32)
    return x @ W.transpose(0, 2, 1)


def row_count(graph: Graph, layer: Layer, x: NDArray[Any]) -> int:
    """The rows that a layer multiplies with its weights, of its input x."""
    if layer.op == "Conv":
        return len(x) * math.prod(graph.geometry(layer, x.shape[2:]).positions(x.shape[2:]))
    return int(x.size // x.shape[-1])


def input_rows(
    graph: Graph, layer: Layer, x: NDArray[Any], limit: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """At most `limit` rows that a layer multiplies with its weights, (rows, groups, K), from its input x."""
    if layer.op == "Conv":
        return np.asarray(sampled_patches(x, graph.geometry(layer, x.shape[2:]), limit, random), np.float32)
    rows = x.reshape(-1, 1, x.shape[-1])
    if len(rows) > limit:
        rows = rows[np.sort(random.choice(len(rows), limit, replace=False))]
    return np.asarray(rows, np.float32)
