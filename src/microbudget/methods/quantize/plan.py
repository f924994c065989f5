"""The plan of a quantized model: for each tensor its mapping, for each layer its integers, scales and bias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .mapping import affine, integer_range

Scheme = Literal["static", "dynamic", "weights", "float"]
FLOAT_BITS = 32


@dataclass(frozen=True)
class Mapping:
    """How one activation tensor is mapped onto 8-bit integers: real = S * (q - Z)."""

    S: float
    Z: int
    signed: bool = False

    @classmethod
    def of_range(cls, low: float, high: float, *, signed: bool) -> Mapping:
        """The affine mapping of [low, high] onto 0 to 255 or, signed, -128 to 127.

        Signed ones have a zero point too: a ReLU's output then begins at the smallest integer, so that rounding clips
        as the ReLU does (onnxruntime fuses it only then), and all 256 integers are used.
        """
        S, Z = affine(np.asarray(low), np.asarray(high), 8, signed=signed)
        return cls(float(S), int(Z), signed)

    @property
    def integer_type(self) -> type[np.int8] | type[np.uint8]:
        """The type of the integers."""
        return np.int8 if self.signed else np.uint8

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest real that it can represent."""
        low, high = integer_range(8, signed=self.signed)
        return self.S * (low - self.Z), self.S * (high - self.Z)


@dataclass(frozen=True)
class WeightFormat:
    """How a layer's weights are to be stored."""

    bits: int
    group: int | None = None  # inputs per scale; None: one scale for each output


@dataclass(frozen=True)
class Weights:
    """A layer's weights as integers, in the file's own shape, with one scale per output or per group of inputs."""

    q: NDArray[np.int8]  # as the float weights
    S: NDArray[np.float32]  # (outputs,), or (outputs, groups) along the inputs
    bits: int
    group: int | None = None  # inputs per scale

    @property
    def format(self) -> WeightFormat:
        """Bits and group."""
        return WeightFormat(self.bits, self.group)


@dataclass
class Plan:
    """What to write. A static layer that has no weights here yet is written with its float weights."""

    schemes: dict[str, Scheme]  # layer -> how it computes
    activations: dict[str, Mapping] = field(default_factory=dict)  # tensor -> mapping
    integer_nodes: frozenset[str] = frozenset()  # nodes that compute on integers
    weights: dict[str, Weights] = field(default_factory=dict)  # layer -> integers
    biases: dict[str, NDArray[Any]] = field(default_factory=dict)  # layer -> (outputs,)
    table_bits: int = 8  # of tables of embeddings

    def with_real_activations(self) -> Plan:
        """The same weights on float activations: what later layers are corrected against.

        Rounded activations are noise; weights fitted to noisy inputs shrink, and the answers with them.
        """
        schemes: dict[str, Scheme] = {name: "float" if s == "float" else "weights" for name, s in self.schemes.items()}
        return Plan(schemes, weights=self.weights, biases=self.biases, table_bits=self.table_bits)
