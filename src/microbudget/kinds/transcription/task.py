"""What a transcription task has besides a Task's members; a task of the user's own may have them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...task import Example, Inputs, Task

LONG_S = 60.0  # a longer recording is passed as its path, and read block by block


@runtime_checkable
class SpokenTask(Task, Protocol):
    """A Task whose examples are recordings. What differs from other tasks:

    * a model's outputs are texts, (examples,) of NumPy's unicode type;
    * what is timed is one recording of median length, from waveform to text;
    * what is counted besides the metric needs the examples: characters, insertions, hallucinated texts.
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
        """The reference text; None where nobody has transcribed the recording."""
        ...

    def extra(self, outputs: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What a Measurement reports besides the metric."""
        ...
