"""The ladder: the levels at which a language model is tried, from the one that costs nothing to the one that hurts."""

from __future__ import annotations

from collections.abc import Iterator

from .methods import Method
from .methods.export import Export
from .methods.quantize import LEVEL_OF_BITS, Quantize
from .model import Model
from .recipe import Recipe

# By bytes, but the first three bracket what most people want: should the time end early, these are known.
LEVELS = ("Q8_0", "Q4_K_M", "Q2_K", "Q6_K", "Q5_K_M", "Q3_K_M", "IQ4_XS", "IQ3_M", "IQ3_XXS", "IQ2_M", "IQ2_XS")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def level(recipe: Recipe) -> str | None:
    """The level that a recipe ends at: "Q4_K_M", or "F16" where nothing is quantized; None for other formats."""
    last = recipe.steps[-1] if recipe.steps else None
    if isinstance(last, Export):
        return DTYPES[last.dtype or "float16"] if last.format == "gguf" else None
    if isinstance(last, Quantize) and (last.type or recipe.formats("hf")[-1] == "gguf"):
        return last.type or LEVEL_OF_BITS[last.bits]
    return None


def ladder(given: Model) -> Iterator[Recipe]:
    """A recipe for each level, for a Hugging Face folder or a GGUF file."""
    export: tuple[Method, ...] = (Export(format="gguf"),) if given.format == "hf" else ()
    for level in LEVELS:
        yield Recipe((*export, Quantize(type=level)))
