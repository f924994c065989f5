"""Signature: what a model's file asks for and answers, by name, type and shape; arrays are fitted to it.

Exporters call the one input of an image classifier `input.1`, `images` or `x`, want it in float16 or as bytes, or with
the channels last. Inputs are therefore found by their place and fed what they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedModel

Arrays = dict[str, NDArray[Any]]
Shape = tuple[int | None, ...]

CHANNELS = 3
CAST = {"float16", "float32", "float64", "uint8"}  # the types that pixels are converted to
MIXED = 0.05  # of the spread of the answers: by how much those of a batch may differ from single ones


@dataclass(frozen=True)
class Port:
    """An input or output of a graph. shape: None for a free dimension, and as a whole where nothing is known."""

    name: str
    dtype: str  # as NumPy names it
    shape: Shape | None
    channels_last: bool = False  # an input of pixels (batch, height, width, 3)

    @property
    def width(self) -> int | None:
        """The last dimension that is not 1: of (batch, 1000, 1, 1) it is 1000. None where it is not known."""
        if not self.shape or len(self.shape) < 2:
            return None
        sides = list(self.shape[1:])
        while len(sides) > 1 and sides[-1] == 1:
            sides.pop()
        return sides[-1]

    def __str__(self) -> str:
        sides = "any shape" if self.shape is None else ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.name} ({self.dtype}, {sides})"

    def fitted(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array in the layout and type that this input asks for.

        Raises UnsupportedModel where an input of bytes would get other numbers than 0 to 255.
        """
        if self.channels_last and array.ndim == 4 and array.shape[1] == CHANNELS and array.shape[3] != CHANNELS:
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        if array.dtype == self.dtype or self.dtype not in CAST or array.dtype.name not in CAST:
            return array
        if self.dtype == "uint8" and array.size and (array.min() < 0 or array.max() > 255):
            raise UnsupportedModel(
                f"the input {self.name} takes bytes, but the preprocessing gives numbers from {array.min():.3g} to"
                f" {array.max():.3g}: set do_rescale and do_normalize to false in its preprocessor_config.json"
            )
        return (np.rint(array) if self.dtype == "uint8" else array).astype(self.dtype)


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph, in its order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def feed(self, given: Arrays) -> Arrays:
        """The arrays by the graph's own names, in the types that it asks for. Others' names are matched by place.

        Raises UnsupportedModel where the numbers of inputs differ.
        """
        if all(port.name in given for port in self.inputs):
            return {port.name: port.fitted(given[port.name]) for port in self.inputs}
        if len(given) != len(self.inputs):
            raise UnsupportedModel(
                f"the model has {len(self.inputs)} inputs ({listed(self.inputs)}), and is given {len(given)}"
                f" ({', '.join(given)})"
            )
        strange = iter([array for name, array in given.items() if name not in {port.name for port in self.inputs}])
        return {
            port.name: port.fitted(given[port.name] if port.name in given else next(strange)) for port in self.inputs
        }

    @property
    def batch(self) -> int | None:
        """The one number of examples that the graph takes at once; None where it is free."""
        sizes = {port.shape[0] for port in self.inputs if port.shape}
        return sizes.pop() if len(sizes) == 1 else None

    def scores(self, classes: int | None, chosen: str | None = None) -> Port:
        """The output that holds the scores of the classes.

        classes: how many there are, where that is known. chosen: by the user. Raises UnsupportedModel with all the
        outputs where none is found, or more than one.
        """
        if chosen is not None:
            for port in self.outputs:
                if port.name == chosen:
                    return port
            raise UnsupportedModel(f"there is no output {chosen!r}; the outputs are {listed(self.outputs)}")
        if len(self.outputs) == 1:
            return self.outputs[0]
        found = [port for port in self.outputs if classes and port.width == classes and "float" in port.dtype]
        if len(found) == 1:
            return found[0]
        which = (
            "several outputs"
            if classes is None
            else f"{len(found) or 'no'} outputs with {classes} numbers for the {classes} classes"
        )
        raise UnsupportedModel(
            f"it has {which}, and which of them are the scores is not known: name it with --output NAME (in Python"
            f" output=NAME); the outputs are {listed(self.outputs)}"
        )


def has_channels_last(shape: Shape | None) -> bool | None:
    """Whether an input of that shape wants (batch, height, width, 3); None where the shape does not tell."""
    if shape is None or len(shape) != 4 or shape[1] == CHANNELS:
        return False
    if shape[3] == CHANNELS or (shape[3] is None and shape[1] is not None):
        return True
    return None if shape[1] is None and shape[3] is None else False


def listed(ports: Iterable[Port]) -> str:
    """Names, types and shapes in a sentence."""
    return ", ".join(map(str, ports))


class Batching:
    """Runs a graph on any number of examples, also where its batch is fixed, in its inputs or by a Reshape inside."""

    def __init__(self, run: Callable[[Arrays], NDArray[Any]], size: int | None) -> None:
        self._run, self.size, self._tried = run, size, False

    def __call__(self, inputs: Arrays) -> NDArray[Any]:
        """The output for all the examples. Raises what `run` raises for a single one."""
        count = _count(inputs)
        if self.size is None and count > 1 and not self._tried:
            return self._try(inputs, count)
        if count <= 0 or count == self.size or self.size is None:
            return self._run(inputs)
        return np.concatenate([self._part(inputs, start, count) for start in range(0, count, self.size)])

    def _part(self, inputs: Arrays, start: int, count: int) -> NDArray[Any]:
        """The answers from `start` on; the last part is filled up with its last example."""
        assert self.size is not None
        rows = np.minimum(np.arange(start, start + self.size), count - 1)
        return self._run({name: array[rows] for name, array in inputs.items()})[: count - start]

    def _try(self, inputs: Arrays, count: int) -> NDArray[Any]:
        """A first batch shows whether the graph takes several examples at once and answers each by itself."""
        self._tried = True
        alone = [self._run({name: array[row : row + 1] for name, array in inputs.items()}) for row in (0, count - 1)]
        try:
            answered = self._run(inputs)
        except Exception:  # the runtimes' exceptions share no base class
            answered = None
        if answered is not None and _same(answered, count, alone):
            return answered
        self.size = 1
        return self(inputs)


def _count(inputs: Arrays) -> int:
    """How many examples there are; 0 where the inputs do not agree."""
    counts = {len(array) if array.ndim else 0 for array in inputs.values()}
    return counts.pop() if len(counts) == 1 else 0


def _same(answered: NDArray[Any], count: int, alone: list[NDArray[Any]]) -> bool:
    """Whether the first and the last answer of a batch are those of the examples alone."""
    if not answered.ndim or len(answered) != count:
        return not alone[0].ndim or len(alone[0]) != 1  # its outputs are no rows of examples: not ours to repair
    pairs = [(answered[:1], alone[0]), (answered[-1:], alone[1])]
    if any(one.shape != other.shape for one, other in pairs):
        return False
    if not np.issubdtype(answered.dtype, np.floating):
        return all(np.array_equal(one, other) for one, other in pairs)
    spread = max(float(np.ptp(other)) for _, other in pairs) if alone[0].size else 0.0
    if not np.isfinite(spread):
        return True  # of a broken model: reported as such
    return all(np.allclose(one, other, rtol=0, atol=max(MIXED * spread, 1e-6)) for one, other in pairs)
