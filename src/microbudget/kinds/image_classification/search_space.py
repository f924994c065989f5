"""What `shrink` tries for image classifiers: integers, float, smaller inputs, fewer channels, fewer bits.

Under a limit on size that 8 bits do not meet, the cuts and the bits are those that do: see `sized`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from ...errors import MicrobudgetError
from ...images.preprocess import Preprocessing
from ...judge.budget import Measurement
from ...methods import Method
from ...methods.distill import Distill
from ...methods.export import Export
from ...methods.prune import Prune
from ...methods.quantize import Quantize
from ...methods.resize import Resize
from ...model import Model
from ...progress import Progress
from ...recipes.recipe import Recipe
from ...runs.candidates import Candidate
from ...search import space
from ...search.space import Pace
from ...task import Task
from .data import ImageTask
from .sized import HALF_BITS, ROOM, WHOLE_BITS, Bytes, about, size_of

SCALES = (1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7)  # of the input's side: 224, 192, 160, 128 and 96 pixels
# Sizes are rounded to multiples of a seventh of the side, 32 pixels of 224: as often as networks halve their input. For
# sizes between those, such as 112, both constants have to change.
STEPS = 7
# Shares of the parameters that pruned networks keep, each as it is after the repair; and of the one that is taught.
PRUNED, TAUGHT_SHARE = (0.5,), 0.35
TAUGHT_SCALE = 5 / 7  # of the input of the one that is taught: 160 pixels, where a step takes half the time
FEWER_BITS = (HALF_BITS,)  # of the whole network's weights
SAMPLES = 32  # photos by which `prune` measures
SAME_LAYERS = ("finetune", "lora", "resize")  # steps after which the network has the layers that it had
SMALLEST = 8  # pixels, that `resize` makes
# Forward passes over the training photos, as many as take the time of a step; and what a step takes besides.
CALIBRATED, TRAINED, MEASURED, STEP_S = 1, 2, 6, 1.5


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder or an `.onnx` file."""

    def __init__(self, given: Model, task: Task) -> None:
        super().__init__(given, task)
        self._first: tuple[Method, ...] = ()  # the steps that teach the labels
        self._bytes: Bytes | None = None  # of the whole network in 8 bits, once it is weighed
        self._cuts: list[Recipe] = []  # those to the limit, in 8 bits first

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The safest first."""
        self._first = tuple(first)
        yield self._whole
        if first or self._export:
            yield Recipe((*first, *self._export))
        for pixels in self.smaller_inputs():
            yield Recipe((Resize(pixels=pixels), *first, *self._export, Quantize()))
        yield from (Recipe((*first, *self._export, Quantize(bits=bits))) for bits in FEWER_BITS)
        if self._prunable:
            yield from self._pruned()

    @property
    def _export(self) -> tuple[Method, ...]:
        return (Export(),) if self.given.format == "hf" else ()

    @property
    def _whole(self) -> Recipe:
        """The first recipe: nothing but integers."""
        return Recipe((*self._first, *self._export, Quantize()))

    @property
    def _smaller(self) -> tuple[Method, ...]:
        """The smaller input of what is taught."""
        pixels = self._scaled(TAUGHT_SCALE)
        return (Resize(pixels=pixels),) if pixels in self.smaller_inputs() else ()

    def _pruned(self) -> Iterator[Recipe]:
        """Fewer channels: repaired without training; and, where the data are cut for training anyway, taught."""
        for share in PRUNED:
            yield self._of_width(share)
            if self._smaller:
                yield self._of_width(share, before=self._smaller)
        if PRUNED and self._first and self.budget.max_size_bytes is None:  # last: it takes the time that is left
            yield self._taught(TAUGHT_SHARE)

    def _of_width(self, share: float, bits: int = WHOLE_BITS, before: Sequence[Method] = ()) -> Recipe:
        return Recipe((*before, *self._first, self._cut(share), *self._export, Quantize(bits=bits)))

    def _taught(self, share: float, bits: int = WHOLE_BITS) -> Recipe:
        return Recipe((*self._smaller, *self._first, self._cut(share), Distill(), *self._export, Quantize(bits=bits)))

    def further(self, recipe: Recipe, candidate: Candidate) -> Iterable[Recipe]:
        """Under a limit on size that 8 bits do not meet: cuts and bits that do; then the cut in 8 bits is taught.

        A training mends a cut, and not the rounding that comes after it: MobileNetV2 with 0.7 of its parameters in 4
        bits lost 2.8 points after a training, at the size at which 0.35 of them in 8 bits lost 0.9 (flowers12). Where
        no cut in 8 bits meets the limit, the one in 4 is taught.
        """
        limit, measured = self.budget.max_size_bytes, candidate.measurement
        if limit is None:
            return ()
        if recipe == self._whole and measured is not None:
            self._bytes, self._cuts = Bytes.of(measured), []
            return list(self._sized(measured, limit))
        if recipe not in self._cuts:
            return ()
        if not self._first or recipe != self._cuts[-1]:
            return ()
        steps = self._cuts[0].steps
        cut = next(step for step in steps if isinstance(step, Prune))
        resized = [step for step in (*self._smaller, *steps) if isinstance(step, Resize)]
        smallest = sorted(resized, key=lambda step: step.pixels)[:1]
        return [Recipe((*smallest, *self._first, cut, Distill(), *self._export, steps[-1]))]

    def about_limits(self, recipe: Recipe, candidate: Candidate) -> Iterator[str]:
        """What share of the parameters meets the limit on size, once the whole network is weighed."""
        limit, measured = self.budget.max_size_bytes, candidate.measurement
        known = None if measured is None or recipe != self._whole else Bytes.of(measured)
        if limit is not None and known is not None and measured is not None and measured.size_bytes > limit:
            yield f"limit     {about(known, limit)}"

    def _sized(self, measured: Measurement, limit: int) -> Iterator[Recipe]:
        known = self._bytes
        if known is None or measured.size_bytes <= limit:
            if PRUNED and self._first and self._prunable:
                yield self._taught(TAUGHT_SHARE)
            return
        if known.at(1, HALF_BITS) <= limit:  # some layers in 8 bits, others in 4
            yield Recipe((*self._first, *self._export, Quantize(size=format_limit(limit))))
        if not self._prunable:
            return
        for share, bits in known.nearest(limit):
            recipe = self._of_width(share, bits, self._in_time(measured))
            self._cuts.append(recipe)
            yield recipe

    def _in_time(self, measured: Measurement) -> tuple[Method, ...]:
        """The largest input at which the whole network, as it was timed, is within the limit on latency."""
        limit, latency_s = self.budget.max_latency_s, measured.latency_s
        sides = self.smaller_inputs()
        if limit is None or latency_s is None or latency_s <= limit or not sides:
            return ()
        fitting = [side for side in sides if latency_s * (side / self._side) ** 2 <= limit]
        return (Resize(pixels=fitting[0] if fitting else sides[-1]),)

    def size_bytes(self, recipe: Recipe) -> int | None:
        """By the weight of the whole network in 8 bits, once that is known."""
        return None if self._bytes is None else size_of(recipe, self._bytes)

    @cached_property
    def _prunable(self) -> bool:
        """Whether nothing says already that no channel can be removed."""
        if self.given.format != "hf":
            return False
        from .prune import check_groups

        try:
            check_groups(self.given)
        except MicrobudgetError:  # what cannot be opened is said where it must be
            return False
        return True

    def _cut(self, share: float) -> Prune:
        return Prune(size=f"{math.floor(share * 100) / 100:g}x", samples=SAMPLES)

    def smaller_inputs(self) -> list[int]:
        """Sides of smaller square inputs, largest first."""
        side = self._side
        sizes = {self._scaled(scale) for scale in SCALES}
        return sorted((size for size in sizes if SMALLEST <= size < side), reverse=True)

    @property
    def _side(self) -> int:
        return max(Preprocessing.parse(self.given.record.preprocessing or {}).input_size)

    def _scaled(self, scale: float) -> int:
        """A side in whole steps."""
        step = max(1, self._side // STEPS)
        return round(self._side * scale / step) * step

    def check(self, recipes: Sequence[Recipe], path_of: Callable[[Recipe], Path], folder: Path) -> None:
        """A network whose channels `prune` cannot remove is refused before hours of training, not after them."""
        if self.given.format == "hf" and any(map(_prunes_the_given_layers, recipes)):
            from .prune import check_groups

            check_groups(self.given)

    def build_s(self, recipe: Recipe, pace: Pace) -> float:
        """By forward passes over the training photos: to calibrate, or for the features that a new head learns from.

        A training of the whole network watches the clock itself.
        """
        passes = {
            "quantize": CALIBRATED, "finetune": TRAINED, "distill": TRAINED, "lora": TRAINED, "prune": MEASURED,
            "qat": TRAINED,
        }  # fmt: skip
        return sum(STEP_S + passes.get(step.name(), 1) * pace.calibration * pace.example_s for step in recipe.steps)

    def prepare(self, recipes: Sequence[Recipe], progress: Progress) -> None:
        """Decode every photo once for all the input sizes of the recipes."""
        preprocessing = self.given.record.preprocessing
        if not recipes or preprocessing is None or not isinstance(self.task, ImageTask):
            return
        resizes = {step.pixels for recipe in recipes for step in recipe.steps if isinstance(step, Resize)}
        full = Preprocessing.parse(preprocessing)
        self.task.prepare([preprocessing, *(full.resized(pixels) for pixels in sorted(resizes))], progress=progress)


def format_limit(limit_bytes: int) -> str:
    """A limit for `quantize(size=...)`, with room for what delivering adds to the file."""
    return f"{math.floor(ROOM * limit_bytes / 1000)}kB"


def _prunes_the_given_layers(recipe: Recipe) -> bool:
    """Whether the first step that changes the layers removes channels, and steps that take long come before it."""
    names = [step.name() for step in recipe.steps]
    place = next((place for place, name in enumerate(names) if name not in SAME_LAYERS), 0)
    step = recipe.steps[place]
    return place > 0 and isinstance(step, Prune) and step.structure == "channels"
