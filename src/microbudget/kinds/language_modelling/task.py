"""The members of a language modelling task besides those of a Task; a user's own task may have them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ...task import Example, Inputs, Task


class Sampled(Protocol):
    """What all tasks of language models have: the text after which one token is timed."""

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs with which a session's `answer` writes one token."""
        ...


@runtime_checkable
class LanguageTask(Task, Sampled, Protocol):
    """A Task whose examples are passages of text. Differences from other tasks:

    * a model's outputs are (examples, 2), the nats of a passage and its number of tokens;
    * what is timed is one token, not one example: `sample` gives the inputs for it;
    * a request is one passage, since a large model takes seconds for each, and two models are compared token by token.
    """

    context: int  # tokens that a model reads at once, at most
    stride: int  # bytes of a passage, about

    def extra(self, outputs: NDArray[Any]) -> dict[str, Any]:
        """What a Measurement reports besides the metric, from the outputs of all examples: perplexity."""
        ...
