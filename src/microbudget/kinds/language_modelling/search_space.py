"""What `shrink` tries for language models: the levels of GGUF files, from the safest to the smallest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel
from ...judge.ceilings import ceilings
from ...machine.files import check_space
from ...machine.processor import thread_count
from ...methods import Method
from ...methods.export import Export
from ...methods.quantize import Quantize
from ...model import Model
from ...recipes.recipe import Recipe
from ...runs.candidates import NOT_BUILT, Candidate
from ...runtimes.gguf.convert import DTYPES, plan
from ...runtimes.gguf.token_check import settle
from ...runtimes.hf.checkpoint import Checkpoint
from ...search import space
from ...search.space import Pace
from ...task import Inputs, Task
from ...units import Drop, format_bytes
from .fits import LADDER, Anatomy, anatomy, levels, of_recipe, predictable, what_fits
from .questions.task import QuestionTask
from .speeds import PREFILL_S

PREDICTED = ("size_bytes", "memory_bytes", "decode_tokens_per_s")  # of a level, by `fits`
FIRST = ("Q8_0", "Q4_K_M", "Q2_K")  # they bracket what most people want: should the time end early, these are known
LEVELS = (*FIRST, *(kind for kind in LADDER if kind not in ("F16", *FIRST)))
# Seconds of one thread for a weight, on an EPYC of 2021: the forecast is corrected by what the first levels take.
ROUNDED_S, SEARCHED_S = 6e-8, 1.2e-6
DISK_BYTES_PER_S = 2e8
TABLES_S = 5.0  # to compute a codebook's neighbours
MUCH_SMALLER = 0.8  # of the bytes of another level: one of a codebook has them at the same loss
WRITING_S = 2.0  # to write what the report shows of each model


def middle_first(chain: Sequence[Recipe]) -> list[Recipe]:
    """The order in which a chain is bisected: its middle, then the middles of both halves, and so on."""
    order, parts = [], [list(chain)]
    while parts:
        part = parts.pop(0)
        if part:
            middle = len(part) // 2
            order.append(part[middle])
            parts += [part[:middle], part[middle + 1 :]]
    return order


def level(recipe: Recipe) -> str | None:
    """The level that a recipe ends at: "Q4_K_M", or "F16" where nothing is quantized; None for other formats."""
    last = recipe.steps[-1] if recipe.steps else None
    if isinstance(last, Export):
        return DTYPES[last.dtype or "float16"] if last.format == "gguf" else None
    if isinstance(last, Quantize) and (last.type or recipe.formats("hf")[-1] == "gguf"):
        return last.level
    return None


def is_gguf_export(recipe: Recipe) -> bool:
    """Whether a recipe begins with the export of the given folder, whose files are then known before it is built."""
    first = recipe.steps[0] if recipe.steps else None
    return isinstance(first, Export) and first.format == "gguf"


class SearchSpace(space.SearchSpace):
    """A recipe for each level of a Hugging Face folder or a GGUF file."""

    default_drop = Drop(0.01, relative=True)
    further_s = PREFILL_S + WRITING_S
    size_margin = 1.0  # sizes follow from the shapes, to the byte

    def __init__(self, given: Model, task: Task) -> None:
        super().__init__(given, task)
        if isinstance(task, QuestionTask):  # judged by accuracy
            self.default_drop = Drop(0.01)

    @cached_property
    def _anatomy(self) -> Anatomy:
        return anatomy(self.given)

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The levels that make the model smaller in another way than those before them.

        Where rows fit few types, levels come out the same: only the first of these is tried. Raises UnsupportedModel
        for a file that no level makes smaller.
        """
        given = self.given
        export: tuple[Method, ...] = (Export(format="gguf"),) if given.format == "hf" else ()
        possible = [one for one in levels(self._anatomy, LEVELS) if export or one.size_bytes < given.size_bytes]
        if not possible:
            raise UnsupportedModel(
                f"{given.path} has {format_bytes(given.size_bytes)}, and no level is smaller: give the model in F16"
            )
        seen: set[tuple[str, ...]] = set()
        for one in possible:
            if one.types not in seen:
                yield Recipe((*export, Quantize(type=one.type)))
            seen.add(one.types)

    def forecast(self, threads: int) -> Iterator[str]:
        """What each level takes, from the shapes alone."""
        for one in what_fits(self.given, threads=threads):
            yield (
                f"{one.type:<8} {format_bytes(one.size_bytes):>8} file, {format_bytes(one.memory_bytes)} memory"
                f" with {one.context} tokens, at most {one.decode_tokens_per_s or 0:,.0f} tokens/s"
            )

    def check(self, recipes: Sequence[Recipe], path_of: Callable[[Recipe], Path], folder: Path) -> None:
        """Whether the model can have the types, and all files fit on the disk."""
        if any(is_gguf_export(recipe) for recipe in recipes):
            conversion, _ = settle(plan(self.given.path))  # a tokenizer that llama.cpp lacks; then the weights' names
            conversion.check(Checkpoint(self.given.path))
        known = [recipe for recipe in recipes if predictable(recipe)]
        if not known:
            return
        wanted: dict[Path, int] = {}
        largest = 0  # it may be the one that is copied to RUN/best
        for recipe in known:
            made = of_recipe(self._anatomy, recipe)
            for place, one in enumerate(made, 1):
                path = path_of(Recipe(recipe.steps[:place]))
                if not path.exists():
                    wanted[path] = one.size_bytes
            largest = max(largest, made[-1].size_bytes)
        if wanted:
            what = f"{len(wanted)} models and a copy of the best take"
            check_space(folder, sum(wanted.values()) + largest, what)

    def settled(self, recipe: Recipe, found: Sequence[Candidate]) -> str:
        """Levels are a chain, in which fewer bytes lose more: those beyond what is shown are not built.

        Codebooks (IQ) are better than the types of their size, so a level counts as worse than another one only where
        it is much smaller.
        """
        size = self.size_bytes(recipe)
        if size is None or self.budget.goal != "size":
            return ""
        for row in found:
            other = row.measurement
            if other is None or row.verdict is None or other.format != "gguf":
                continue
            name = level(Recipe.parse(row.recipe)) or row.recipe
            if row.verdict.decision == "within" and not row.broken_limits(self.budget) and size > other.size_bytes:
                return f"{NOT_BUILT}it is larger than {name}, which holds the limits"
            if row.verdict.decision == "exceeds" and size < MUCH_SMALLER * other.size_bytes:
                return f"{NOT_BUILT}it is much smaller than {name}, whose loss is beyond the limit"
        return ""

    def promising_first(self, recipes: Sequence[Recipe], best_bytes: int) -> list[Recipe]:
        """Levels below the best so far, the middle one first; then the others."""
        smaller = [recipe for recipe in recipes if (self.size_bytes(recipe) or 0) < best_bytes]
        smaller.sort(key=lambda recipe: -(self.size_bytes(recipe) or 0))
        return [*middle_first(smaller), *(recipe for recipe in recipes if recipe not in smaller)]

    def size_bytes(self, recipe: Recipe) -> int | None:
        """Of the file that a recipe makes; None where the shapes do not tell."""
        return of_recipe(self._anatomy, recipe)[-1].size_bytes if predictable(recipe) else None

    def memory_bytes(self, recipe: Recipe) -> int | None:
        """Of a level with a context of a few tokens."""
        return of_recipe(self._anatomy, recipe)[-1].memory_bytes if predictable(recipe) else None

    def build_s(self, recipe: Recipe, pace: Pace) -> float:
        """To write the weights once a step, and to round them; codebooks (IQ) are searched, which takes longer."""
        moved = len(recipe.steps) * pace.parameters * 2 / DISK_BYTES_PER_S
        kind = level(recipe) or ""
        rounded = pace.parameters * (SEARCHED_S if kind.startswith("IQ") else ROUNDED_S) / thread_count(0)
        return moved + rounded + (TABLES_S if kind.startswith(("IQ1", "IQ2")) else 0.0)

    def predicted(self, recipe: Recipe, model: Model, inputs: Inputs, threads: int) -> dict[str, Any]:
        """What the given model's shapes say of a level, next to what is measured."""
        if model.format != "gguf" or not predictable(recipe):
            return {}
        rate = ceilings(threads).bandwidth(model.size_bytes)
        tokens = int(inputs["depth"][0]) + 1
        one = of_recipe(self._anatomy, recipe, context=tokens, read_bytes_per_s=rate)[-1]
        return {"predicted": {name: getattr(one, name) for name in PREDICTED}}
