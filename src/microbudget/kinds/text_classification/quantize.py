"""The part of `quantize` that is text classification's: texts become the graph's tokens."""

from __future__ import annotations

from ...methods import Context
from ...model import Model
from .teaching import in_tokens


def with_inputs(model: Model, context: Context) -> Context:
    """The context whose task collates to the inputs of the model's graph."""
    return in_tokens(model, context)
