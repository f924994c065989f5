"""Memory that is predicted before anything is built: what a recipe's model takes at least, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import UnsupportedModel
from ..judge.footprint import tokenizer_bytes
from ..judge.footprint.onnx import Weights, weights_of, weights_of_checkpoint
from ..methods.quantize import Quantize
from ..model import Model
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runtimes.hf.checkpoint import Checkpoint
from ..units import format_bytes

SAME_SHAPES = ("finetune", "lora", "resize", "export")  # steps after which the weights have the shapes that they had
FAR = 1.5  # times the limit: beyond it a recipe is not built. Predictions are within 15 %


class Predicts(Protocol):
    """What knows the memory of recipes: a SearchSpace."""

    def memory_bytes(self, recipe: Recipe) -> int | None:
        """At least about so many; None: unknown."""
        ...


def float_weights(given: Model) -> Weights | None:
    """The weights of a model as a float ONNX graph; None where its files do not tell."""
    try:
        if given.format == "hf":
            return weights_of_checkpoint(Checkpoint(given.path))
        return weights_of(given) if given.format == "onnx" else None
    except UnsupportedModel:
        return None


def exported_memory(given: Model, weights: Weights, recipe: Recipe) -> int | None:
    """At least about so many bytes in ONNX Runtime, without activations; None where steps change the shapes.

    weights: `float_weights` of the given model.
    """
    steps = recipe.steps
    last = steps[-1] if steps and isinstance(steps[-1], Quantize) else None
    if any(step.name() not in SAME_SHAPES for step in (steps[:-1] if last else steps)):
        return None
    if last is not None and last.size is None and last.max_kl is None:
        weights = weights.rounded(last.bits)
    elif last is not None:  # each layer has bits of its own
        return None
    return weights.memory_bytes + tokenizer_bytes(given.folder)


def too_large(space: Predicts, recipes: Sequence[Recipe], limit_bytes: int | None) -> dict[Recipe, str]:
    """The recipes that are predicted far beyond the limit on memory, with the reason why they are not built.

    Where all of them are, the smallest is built: a prediction is no measurement.
    """
    if limit_bytes is None:
        return {}
    known = {recipe: size for recipe in recipes if (size := space.memory_bytes(recipe)) is not None}
    far = {recipe: size for recipe, size in known.items() if size > FAR * limit_bytes}
    if len(far) == len(recipes):
        far.pop(min(far, key=far.__getitem__), None)
    return {
        recipe: f"not built: about {format_bytes(size)} of memory are predicted, and the limit is"
        f" {format_bytes(limit_bytes)}"
        for recipe, size in far.items()
    }


def left_out(recipe: Recipe, reason: str) -> Candidate:
    """The row of a recipe that is not built."""
    return Candidate(str(recipe), "", "", failure=reason)
