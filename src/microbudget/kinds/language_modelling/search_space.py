"""The ladder: the levels at which a language model is tried, from the one that costs nothing to the one that hurts."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import UnsupportedModel
from ...methods import Method
from ...methods.export import Export
from ...methods.quantize import Quantize
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.gguf.convert import DTYPES
from ...units import format_bytes
from .fits import LADDER, anatomy, levels

FIRST = ("Q8_0", "Q4_K_M", "Q2_K")  # they bracket what most people want: should the time end early, these are known
LEVELS = (*FIRST, *(kind for kind in LADDER if kind not in ("F16", *FIRST)))


def level(recipe: Recipe) -> str | None:
    """The level that a recipe ends at: "Q4_K_M", or "F16" where nothing is quantized; None for other formats."""
    last = recipe.steps[-1] if recipe.steps else None
    if isinstance(last, Export):
        return DTYPES[last.dtype or "float16"] if last.format == "gguf" else None
    if isinstance(last, Quantize) and (last.type or recipe.formats("hf")[-1] == "gguf"):
        return last.level
    return None


def ladder(given: Model) -> Iterator[Recipe]:
    """A recipe for each level of a Hugging Face folder or a GGUF file that makes it smaller in another way.

    Where rows fit few types, levels come out the same: only the first of these is tried. Raises UnsupportedModel for a
    file that no level makes smaller.
    """
    export: tuple[Method, ...] = (Export(format="gguf"),) if given.format == "hf" else ()
    possible = [one for one in levels(anatomy(given), LEVELS) if export or one.size_bytes < given.size_bytes]
    if not possible:
        raise UnsupportedModel(
            f"{given.path} has {format_bytes(given.size_bytes)}, and no level is smaller: give the model in F16"
        )
    seen: set[tuple[str, ...]] = set()
    for one in possible:
        if one.types not in seen:
            yield Recipe((*export, Quantize(type=one.type)))
        seen.add(one.types)
