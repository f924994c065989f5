"""Mixed precision: bits for every layer from its own effect on the answers, under a limit of size or of divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import InvalidOption
from ...progress import SILENT, Progress
from .activations import Calibration, First, fixed_batch, input_shapes
from .allocate import Allocation, Choice, least_bytes, least_loss
from .divergence import mean_kl
from .graph import Graph
from .packing import packed_size
from .plan import FLOAT_BITS, Plan, Scheme
from .repair import round_layers
from .sensitivity import EXAMPLES, weight_losses
from .slim import slim
from .write import write

BITS = (FLOAT_BITS, 8, 4)
CORRECTIONS = 3  # times that the answer is checked against the written file and the limit tightened


@dataclass(frozen=True)
class Mixed:
    """The bits of every layer, the loss of each layer alone at them, and the decision in words."""

    bits: dict[str, int]
    losses: dict[str, float]
    note: str


class Mixer:
    """The choices of every layer with their bytes and losses; answers what to choose under a limit."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        calibration: Calibration,
        *,
        threads: int,
        seed: int,
        progress: Progress = SILENT,
    ) -> None:
        self.graph, self.plan = graph, plan
        self.layers = [layer for layer in graph.layers if plan.schemes[layer.name] != "float"]
        few = First(calibration, EXAMPLES, fixed_batch(input_shapes(graph.model)))
        losses = self._losses(few, threads, seed, progress)
        self.choices = [
            [Choice(bits, self._bytes(layer, bits), losses.get((layer.name, bits), 0.0)) for bits in BITS]
            for layer in self.layers
        ]
        self.activation_kl = mean_kl(graph.model, [write(graph, self._unrounded())], few, threads=threads)[0]

    def _losses(self, few: Calibration, threads: int, seed: int, progress: Progress) -> dict[tuple[str, int], float]:
        """KL of each layer alone at each number of bits, rounded against the float model's inputs."""
        candidates = []
        for bits in BITS[1:]:
            plan = Plan(self.plan.schemes, self.plan.activations, self.plan.integer_nodes)
            wanted = {layer.name: bits for layer in self.layers}
            round_layers(
                self.graph,
                plan,
                wanted,
                {},
                few,
                EXAMPLES,
                ("scales", "gptq", "bias"),
                stages=1,
                threads=threads,
                seed=seed,
            )
            candidates += list(plan.weights.items())
        return weight_losses(self.graph, candidates, few, threads=threads, progress=progress)

    def _bytes(self, layer: Any, bits: int) -> int:
        W = self.graph.constants[layer.weight]
        if bits == FLOAT_BITS:
            return 4 * int(W.size)
        return packed_size(int(W.size), bits) + 8 * int(W.shape[layer.outputs_axis])

    def _unrounded(self) -> Plan:
        """All weights float, all activations rounded."""
        schemes: dict[str, Scheme] = dict.fromkeys(self.plan.schemes, "float")
        return Plan(schemes, self.plan.activations, self.plan.integer_nodes)

    def file_bytes(self, bits: dict[str, int]) -> int:
        """The size of the file with these bits; what the weights are does not matter for it."""
        schemes: dict[str, Scheme] = {
            n: "float" if bits.get(n) == FLOAT_BITS else s for n, s in self.plan.schemes.items()
        }
        plan = Plan(schemes, self.plan.activations, self.plan.integer_nodes)
        wanted = {name: n for name, n in bits.items() if n != FLOAT_BITS}
        round_layers(self.graph, plan, wanted, {}, [], 1, ())
        proto = write(self.graph, plan)
        slim(proto)
        return int(proto.ByteSize())

    def within_bytes(self, size_bytes: int) -> Mixed:
        """Least loss for a file of at most `size_bytes`; raises InvalidOption with the smallest that is possible."""
        every = [min(layer, key=lambda choice: choice.size_bytes) for layer in self.choices]
        fixed = self.file_bytes(self._named(every)) - sum(choice.size_bytes for choice in every)
        limit = size_bytes - fixed
        for _ in range(CORRECTIONS):
            try:
                found = least_loss(self.choices, limit)
            except InvalidOption as error:
                raise InvalidOption(
                    f"size_bytes={size_bytes} cannot be met: the smallest file is about "
                    f"{fixed + sum(choice.size_bytes for choice in every)} bytes"
                ) from error
            excess = self.file_bytes(self._bits(found)) - size_bytes
            if excess <= 0:
                break
            limit -= excess
        return self._mixed(found, f"at most {size_bytes} bytes")

    def within_kl(self, max_kl: float, tightened: float = 1.0) -> Mixed:
        """Fewest bytes for weights that lose what `max_kl` leaves them beside the activations."""
        room = (max_kl - self.activation_kl) * tightened
        try:
            return self._mixed(least_bytes(self.choices, room), f"a KL divergence of at most {max_kl:g}")
        except InvalidOption:
            every = [min(layer, key=lambda choice: choice.loss) for layer in self.choices]
            note = f"max_kl={max_kl:g} cannot be met: the activations alone lose {self.activation_kl:.2g}; try finer"
            return Mixed(self._named(every), {}, note)

    def _named(self, choices: list[Choice]) -> dict[str, int]:
        return {layer.name: choice.bits for layer, choice in zip(self.layers, choices, strict=True)}

    def _bits(self, found: Allocation) -> dict[str, int]:
        return {layer.name: bits for layer, bits in zip(self.layers, found.bits, strict=True)}

    def _mixed(self, found: Allocation, limit: str) -> Mixed:
        bits = self._bits(found)
        losses = {
            layer.name: next(choice.loss for choice in choices if choice.bits == bits[layer.name])
            for layer, choices in zip(self.layers, self.choices, strict=True)
        }
        counts = ", ".join(
            f"{list(bits.values()).count(n)} layers {'float' if n == FLOAT_BITS else f'{n} bits'}"
            for n in BITS
            if n in bits.values()
        )
        return Mixed(bits, losses, f"{limit}: {counts}" + ("" if found.exact else " (not proven optimal)"))
