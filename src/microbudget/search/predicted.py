"""Memory and size that are predicted before anything is built, and the recipes that are left out for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import UnsupportedModel
from ..judge.budget import Budget
from ..judge.footprint import tokenizer_bytes
from ..judge.footprint.onnx import Weights, weights_of, weights_of_checkpoint
from ..methods.quantize import Quantize
from ..model import Model
from ..recipes.recipe import Recipe
from ..runs.candidates import NOT_BUILT, Candidate
from ..runtimes.hf.checkpoint import Checkpoint
from ..units import format_bytes

SAME_SHAPES = ("finetune", "lora", "resize", "export")  # steps after which the weights have the shapes that they had
FAR = 1.5  # times the limit on memory: beyond it a recipe is not built. Predictions are within 15 %


class Predicts(Protocol):
    """What knows the memory and the size of recipes' models: a SearchSpace."""

    @property
    def size_margin(self) -> float:
        """Times the limit on size, beyond which a recipe is not built."""
        ...

    def memory_bytes(self, recipe: Recipe) -> int | None:
        """At least about so many; None: unknown."""
        ...

    def size_bytes(self, recipe: Recipe) -> int | None:
        """About so many; None: unknown."""
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


def too_large(space: Predicts, recipes: Sequence[Recipe], budget: Budget) -> dict[Recipe, str]:
    """The recipes that are predicted beyond a limit on memory or size, with the reason why they are not built.

    Where all of them are, the one that is least beyond is built: a prediction is no measurement.
    """
    sizes = _beyond(recipes, space.size_bytes, budget.max_size_bytes, space.size_margin)
    memory = _beyond(recipes, space.memory_bytes, budget.max_memory_bytes, FAR)
    times = {recipe: max(found.get(recipe, 0.0) for found in (sizes, memory)) for recipe in {**sizes, **memory}}
    if len(times) == len(recipes):
        times.pop(min(times, key=times.__getitem__), None)
    return {recipe: _reason(recipe, space, budget, recipe in sizes) for recipe in times}


def _beyond(
    recipes: Sequence[Recipe], predict: Callable[[Recipe], int | None], limit: int | None, margin: float
) -> dict[Recipe, float]:
    """How many times the limit each recipe beyond it is predicted to have."""
    if limit is None:
        return {}
    known = {recipe: size / limit for recipe in recipes if (size := predict(recipe)) is not None}
    return {recipe: times for recipe, times in known.items() if times > margin}


def _reason(recipe: Recipe, space: Predicts, budget: Budget, by_size: bool) -> str:
    if by_size:
        return (
            f"{NOT_BUILT}its file would have about {format_bytes(space.size_bytes(recipe) or 0)}, and the limit is"
            f" {format_bytes(budget.max_size_bytes or 0)}"
        )
    return (
        f"{NOT_BUILT}about {format_bytes(space.memory_bytes(recipe) or 0)} of memory are predicted, and the limit is"
        f" {format_bytes(budget.max_memory_bytes or 0)}"
    )


def left_out(recipe: Recipe, reason: str) -> Candidate:
    """The row of a recipe that is not built."""
    return Candidate(str(recipe), "", "", failure=reason)
