"""What `shrink` tries for image classifiers: 8-bit integers at full size, float, then smaller and smaller inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...images.preprocess import Preprocessing
from ...methods import Method
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
SAME_LAYERS = ("finetune", "lora", "resize")  # steps after which the network has the layers that it had
SMALLEST = 8  # pixels, that `resize` makes
# Forward passes over the training photos, as many as take the time of a step; and what a step takes besides.
CALIBRATED, TRAINED, STEP_S = 1, 2, 1.5


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder or an `.onnx` file."""

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The safest first."""
        export: tuple[Method, ...] = (Export(),) if self.given.format == "hf" else ()
        yield Recipe((*first, *export, Quantize()))
        if first or export:
            yield Recipe((*first, *export))
        for pixels in self.smaller_inputs():
            yield Recipe((Resize(pixels=pixels), *first, *export, Quantize()))

    def smaller_inputs(self) -> list[int]:
        """Sides of smaller square inputs, largest first."""
        side = max(Preprocessing.parse(self.given.record.preprocessing or {}).input_size)
        step = max(1, side // STEPS)
        sizes = {round(side * scale / step) * step for scale in SCALES}
        return sorted((size for size in sizes if SMALLEST <= size < side), reverse=True)

    def check(self, recipes: Sequence[Recipe], path_of: Callable[[Recipe], Path], folder: Path) -> None:
        """A network whose channels `prune` cannot remove is refused before hours of training, not after them."""
        if self.given.format == "hf" and any(map(_prunes_the_given_layers, recipes)):
            from .prune import check_groups

            check_groups(self.given)

    def build_s(self, recipe: Recipe, pace: Pace) -> float:
        """By forward passes over the training photos: to calibrate, or for the features that a new head learns from.

        A training of the whole network watches the clock itself.
        """
        passes = {"quantize": CALIBRATED, "finetune": TRAINED, "distill": TRAINED, "lora": TRAINED}
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
