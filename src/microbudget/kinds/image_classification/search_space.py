"""What `shrink` tries for image classifiers: 8-bit integers at full size, float, then smaller and smaller inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import MicrobudgetError
from ...images.preprocess import Preprocessing
from ...methods import Method
from ...methods.distill import Distill
from ...methods.export import Export
from ...methods.prune import Prune
from ...methods.quantize import Quantize
from ...methods.resize import Resize
from ...progress import Progress
from ...recipes.recipe import Recipe
from ...search import space
from ...search.space import Pace
from .data import ImageTask

SCALES = (1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7)  # of the input's side: 224, 192, 160, 128 and 96 pixels
# Sizes are rounded to multiples of a seventh of the side, 32 pixels of 224: as often as networks halve their input. For
# sizes between those, such as 112, both constants have to change.
STEPS = 7
# Shares of the parameters that pruned networks keep, each as it is after the repair; and of the one that is taught.
PRUNED, TAUGHT_SHARE = (0.5,), 0.35
TAUGHT_SCALE = 5 / 7  # of the input of the one that is taught: 160 pixels, where a step takes half the time
SAMPLES = 32  # photos by which `prune` measures
SAME_LAYERS = ("finetune", "lora", "resize")  # steps after which the network has the layers that it had
SMALLEST = 8  # pixels, that `resize` makes
# Forward passes over the training photos, as many as take the time of a step; and what a step takes besides.
CALIBRATED, TRAINED, MEASURED, STEP_S = 1, 2, 6, 1.5


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder or an `.onnx` file."""

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The safest first."""
        export: tuple[Method, ...] = (Export(),) if self.given.format == "hf" else ()
        yield Recipe((*first, *export, Quantize()))
        if first or export:
            yield Recipe((*first, *export))
        smaller = self.smaller_inputs()
        for pixels in smaller:
            yield Recipe((Resize(pixels=pixels), *first, *export, Quantize()))
        if export and self._prunable():
            yield from self._pruned(first)

    def _pruned(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """Fewer channels: repaired without training; and, where the data are cut for training anyway, taught."""
        rest, taught = (Export(), Quantize()), self._scaled(TAUGHT_SCALE)
        smaller = (Resize(pixels=taught),) if taught in self.smaller_inputs() else ()
        for share in PRUNED:
            yield Recipe((*first, self._cut(share), *rest))
            if smaller:
                yield Recipe((*smaller, *first, self._cut(share), *rest))
        if PRUNED and first:  # last: it takes the time that is left
            yield Recipe((*smaller, *first, self._cut(TAUGHT_SHARE), Distill(), *rest))

    def _prunable(self) -> bool:
        """Whether nothing says already that no channel can be removed."""
        from .prune import check_groups

        try:
            check_groups(self.given)
        except MicrobudgetError:  # what cannot be opened is said where it must be
            return False
        return True

    def _cut(self, share: float) -> Prune:
        return Prune(size=f"{share:g}x", samples=SAMPLES)

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


def _prunes_the_given_layers(recipe: Recipe) -> bool:
    """Whether the first step that changes the layers removes channels, and steps that take long come before it."""
    names = [step.name() for step in recipe.steps]
    place = next((place for place, name in enumerate(names) if name not in SAME_LAYERS), 0)
    step = recipe.steps[place]
    return place > 0 and isinstance(step, Prune) and step.structure == "channels"
