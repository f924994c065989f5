"""Mixed precision: bits for every layer from its own effect on the answers, under a limit of size or of divergence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import InvalidOption
from .allocate import Allocation, Choice, least_bytes, least_loss
from .calibration import Samples
from .divergence import mean_kl
from .graph import Graph, Layer
from .layer_rounding import ONCE, Steps, round_layers
from .plan import FLOAT_BITS, Plan, Scheme, WeightFormat, Weights
from .sensitivity import EXAMPLES, weight_losses
from .slim import slim
from .write import write

LOW_BITS = 4
TIGHTENINGS = 3  # times that the written file is checked against the limit and the limit tightened
SIZE_ATTEMPTS = 6  # bytes are not exactly sums over layers, and a new attempt costs no inference


@dataclass(frozen=True)
class MixedBits:
    """The bits of every layer, the loss of each layer with only that one rounded, and the decision in words."""

    bits: dict[str, int]
    losses: dict[str, float]
    note: str


class MixedPrecision:
    """The ways to store every layer with their bytes and losses, and the best combination under a limit.

    full: how each layer is stored as integers where bytes do not matter, with 8 bits or 7. samples: those on which the
    losses are measured. corrections: what will be done to the weights, which decides which layers get a bias. steps:
    where the losses are reported and kept.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        full: Mapping[str, WeightFormat],
        samples: Samples,
        corrections: Collection[str],
        steps: Steps = ONCE,
    ) -> None:
        self.graph, self.plan, self.full = graph, plan, full
        self.layers = [layer for layer in graph.layers if plan.schemes[layer.name] != "float"]
        self.sharing = _sharing(self.layers)
        self._corrects_bias = "bias" in corrections
        few = samples.first(EXAMPLES, graph.model)
        self.losses = self._losses(few, steps)
        self.fixed_bytes, self.choices = self._choices()
        unrounded = write(graph, self.plan_for(self._all(FLOAT_BITS)))
        self.activation_kl = mean_kl(graph.model, [unrounded], few.batches, threads=few.threads, fused=True)[0]

    def _losses(self, few: Samples, steps: Steps) -> dict[tuple[str, int], float]:
        """KL with only one layer rounded, for each layer and number of bits, rounded for the float model's inputs."""
        candidates = []
        for bits in ({layer.name: self.full[layer.name].bits for layer in self.layers}, self._all(LOW_BITS)):
            plan = self.plan_for(bits)
            round_layers(self.graph, plan, self.formats(bits), ("scales", "gptq", "bias"), few, Steps(stages=1))
            candidates += list(plan.weights.items())
        return weight_losses(self.graph, candidates, few, steps)

    def formats(self, bits: Mapping[str, int]) -> dict[str, WeightFormat]:
        """The formats of the layers that these bits do not leave in float."""
        return {name: replace(self.full[name], bits=n) for name, n in bits.items() if n != FLOAT_BITS}

    def _choices(self) -> tuple[int, list[list[Choice]]]:
        """The bytes that every file has, and the ways to store each of `sharing` with what they add.

        Bytes are those of files in which all other layers have LOW_BITS: with their nodes, scales and biases.
        """
        low = self._all(LOW_BITS)
        base = fixed = self.file_bytes(low)
        choices = []
        for layers in self.sharing:
            ways = dict.fromkeys((FLOAT_BITS, min(self.full[layer.name].bits for layer in layers), LOW_BITS))
            sizes = {bits: self.file_bytes(low | {layer.name: bits for layer in layers}) for bits in ways}
            least = min(sizes.values())
            choices.append([Choice(bits, size - least, self._loss(layers, bits)) for bits, size in sizes.items()])
            fixed += least - base
        return fixed, choices

    def _loss(self, layers: Sequence[Layer], bits: int) -> float:
        return sum(max(self.losses.get((layer.name, bits), 0.0), 0.0) for layer in layers)

    def plan_for(self, bits: dict[str, int]) -> Plan:
        """The plan for these bits, still without weights.

        A layer that stays float is no integer node: onnxruntime would quantize the float weights of a layer between
        integers by itself, per tensor.
        """
        floats = {name for name, n in bits.items() if n == FLOAT_BITS}
        schemes: dict[str, Scheme] = {n: "float" if n in floats else s for n, s in self.plan.schemes.items()}
        return Plan(schemes, self.plan.activations, self.plan.integer_nodes - floats, table_bits=self.plan.table_bits)

    def file_bytes(self, bits: dict[str, int]) -> int:
        """The size of the file with these bits: zeros for weights take the bytes of any others."""
        plan, stored = self.plan_for(bits), dict[tuple[Any, ...], Weights]()
        for layer in self.layers:
            if bits[layer.name] == FLOAT_BITS:
                continue
            shape, group = self.graph.constants[layer.weight].shape, self.full[layer.name].group
            outputs = shape[layer.outputs_axis]
            K = int(np.prod(shape)) // outputs
            S = np.ones(outputs if group is None else (outputs, -(-K // group)), np.float32)
            weights = Weights(np.zeros(shape, np.int8), S, bits[layer.name], group)
            same = (layer.weight, layer.outputs_axis, plan.schemes[layer.name], weights.bits, group)
            plan.weights[layer.name] = stored.setdefault(same, weights)
            if layer.bias is not None or (self._corrects_bias and layer.op != "MatMul"):
                plan.biases[layer.name] = np.zeros(outputs, np.float32)
        proto = write(self.graph, plan)
        slim(proto)
        return int(proto.ByteSize())

    def within_bytes(self, size_bytes: int) -> MixedBits:
        """Least loss for a file of at most `size_bytes`; raises InvalidOption with the smallest that is possible."""
        smallest, least = self._smallest()
        if least > size_bytes:
            raise InvalidOption(f"size_bytes={size_bytes} cannot be met: the smallest file has {least} bytes")
        limit, best = size_bytes - self.fixed_bytes, None
        for _ in range(SIZE_ATTEMPTS):
            try:
                found = least_loss(self.choices, limit)
            except InvalidOption:
                break
            spare = size_bytes - self.file_bytes(self._bits(found))
            if spare >= 0 and (best is None or found.loss < best.loss):
                best = found
            elif best is not None:
                break
            limit += spare
        if best is None:
            return self._mixed(smallest, f"at most {size_bytes} bytes", exact=False)
        return self._mixed(self._bits(best), f"at most {size_bytes} bytes", exact=best.exact)

    def _smallest(self) -> tuple[dict[str, int], int]:
        """The bits of the smallest file, and its bytes: in a tiny network 4 bits' nodes take more than floats."""
        every = {
            layer.name: min(choices, key=lambda choice: choice.size_bytes).bits
            for layers, choices in zip(self.sharing, self.choices, strict=True)
            for layer in layers
        }
        full = {layer.name: self.full[layer.name].bits for layer in self.layers}
        candidates = [every, self._all(LOW_BITS), full, self._all(FLOAT_BITS)]
        sizes = [self.file_bytes(bits) for bits in candidates]
        return min(zip(candidates, sizes, strict=True), key=lambda pair: pair[1])

    def within_kl(self, max_kl: float, tightened: float = 1.0) -> MixedBits:
        """Fewest bytes for weights that lose no more than `max_kl` leaves for them after the activations.

        All float where it leaves nothing; the finished file will show whether that is enough.
        """
        try:
            found = least_bytes(self.choices, (max_kl - self.activation_kl) * tightened)
        except InvalidOption:
            return self.all_float(max_kl)
        return self._mixed(self._bits(found), f"a KL divergence of at most {max_kl:g}", exact=found.exact)

    def all_float(self, max_kl: float) -> MixedBits:
        """All weights in float, which loses least."""
        return self._mixed(self._all(FLOAT_BITS), f"a KL divergence of at most {max_kl:g}", exact=True)

    def _all(self, bits: int) -> dict[str, int]:
        return {layer.name: bits for layer in self.layers}

    def _bits(self, found: Allocation) -> dict[str, int]:
        return {layer.name: n for layers, n in zip(self.sharing, found.bits, strict=True) for layer in layers}

    def _mixed(self, bits: dict[str, int], limit: str, *, exact: bool) -> MixedBits:
        losses = {layer.name: self._loss([layer], bits[layer.name]) for layer in self.layers}
        chosen = list(bits.values())
        counts = ", ".join(
            f"{chosen.count(n)} layers {'float' if n == FLOAT_BITS else f'{n} bits'}"
            for n in sorted(set(chosen), reverse=True)
        )
        return MixedBits(bits, losses, f"{limit}: {counts}" + ("" if exact else " (not proven optimal)"))


def _sharing(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The layers by their weights: those that share them have the same bits, and are stored once."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.weight, []).append(layer)
    return list(found.values())
