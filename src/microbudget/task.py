"""Tasks: what a model is for. The protocol that our own kinds and the user's own object follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test", "unlabelled"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LONG_S = 60.0  # a longer recording is handed over as its path, and read block by block
Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Example:
    """One example: the hash of its content, its target (a class index, or None), and a name that a person knows."""

    key: str  # hexadecimal hash of the content, so that a renamed or copied file is the same example
    label: int | None
    name: str


@dataclass(frozen=True)
class Scores:
    """A metric as a ratio of sums over examples: `sum(numerator) / sum(denominator)`.

    Accuracy has numerator 0 or 1 and denominator 1, WER errors and words, bits per byte bits and bytes.
    Keeping the examples apart is what lets two models be judged in pairs. Both arrays: (examples,).
    """

    metric: str
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """The metric over all examples; NaN when there are none."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")


@runtime_checkable
class Task(Protocol):
    """Data, splits, metric and loss. Give your own object with these members to use your own loader and metric."""

    kind: str
    labels: tuple[str, ...]
    fingerprint: str  # hash of the data: equal fingerprints mean equal examples in equal splits

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split, in a fixed order. Calibration data are train examples; their labels are not read."""
        ...

    def collate(self, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> Inputs:
        """The model's inputs by name, batch first, for these examples. View 0 is plain, higher views are augmented."""
        ...

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """The metric, example by example, whatever else is in the batch. outputs: (examples, ...), the model's."""
        ...

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """The training loss of each example, (examples,): what early stopping reads."""
        ...


@runtime_checkable
class LanguageTask(Task, Protocol):
    """A Task whose examples are passages of text. What differs from the others, all in one place:

    * a model's outputs are (examples, 2), the nats that a passage costs and over how many tokens;
    * what is timed is one token, not one example: `sample` gives the inputs for it;
    * a request is one passage, since a large model takes seconds for each, and two models are compared token by token.
    """

    context: int  # tokens that a model reads at once, at most
    stride: int  # bytes of a passage, about

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs with which a session's `answer` writes one token."""
        ...

    def extra(self, outputs: NDArray[Any]) -> dict[str, Any]:
        """What else a Measurement tells, from the outputs of all examples: perplexity."""
        ...


@runtime_checkable
class SpokenTask(Task, Protocol):
    """A Task whose examples are recordings. What differs from the others, all in one place:

    * a model's outputs are texts, (examples,) of NumPy's unicode type;
    * what is timed is one recording of median length, from waveform to text;
    * what is counted beside the metric needs the examples: characters, insertions, made-up texts.
    """

    normalizer: str  # of texts before they are compared, by name

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs that are timed."""
        ...

    def median(self, examples: Sequence[Example]) -> Example:
        """The example that they are of."""
        ...

    def seconds(self, example: Example) -> float:
        """How long a recording is."""
        ...

    def waveform(self, example: Example, seconds: float | None = None) -> NDArray[np.float32]:
        """A recording as 16 kHz mono, (samples,): all of it, or its first seconds."""
        ...

    def text(self, example: Example) -> str | None:
        """What is said; None where nobody has transcribed it."""
        ...

    def extra(self, outputs: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What else a Measurement tells."""
        ...
