"""What `shrink` tries for Whisper, the safest first: integers in a window that fits, fewer words, fewer layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...audio.log_mel import FittedWindow
from ...audio.sound import RATE_HZ
from ...errors import InvalidOption
from ...judge.footprint.ct2 import FLOAT_BYTES, activation_bytes, memory_bytes
from ...methods import Method
from ...methods.distill import Distill
from ...methods.export import Export
from ...methods.trim import AUTO, Trim
from ...methods.window import EACH, MARGIN_S, SHORTEST_S, Window
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.hf.checkpoint import Checkpoint
from ...runtimes.speech.tokenizer import read_json
from ...runtimes.speech.whisper import front_end
from ...search import space
from ...task import SPLITS, Split, Task
from .amount import Amount
from .task import SpokenTask

FITTED = 0.95  # of the utterances fit into the window
ROOM_S = 0.5  # of silence after the longest of them
WORTH = 0.8  # of the window: a longer one saves too little
LEAST_S = 2
EPOCHS = 5  # of the fine-tuning for a shorter window
INT8 = Export(format="ct2", type="int8_float16")
SEEN: tuple[Split, ...] = tuple(split for split in SPLITS if split != "test")


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder of Whisper."""

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The safest first: what trains nothing. Layers are trained only where there is enough to learn from.

        Raises InvalidOption for a model that is exported already.
        """
        given = self.given
        if given.format != "hf":
            raise InvalidOption(
                f"{given.path} is exported already ({given.format}): give the Hugging Face folder that it was made from"
            )
        fitted = self._fitted()
        yield Recipe((*fitted, INT8))
        yield Recipe((*fitted, Trim(keep=AUTO), INT8))
        if not Amount.of(self.task).teaches:
            return
        seconds = window_s(given, self.task)
        shorter: tuple[Method, ...] = (Window(seconds=seconds),) if seconds else fitted
        if seconds:
            yield Recipe((*shorter, INT8))
            yield Recipe((Window(seconds=seconds, epochs=EPOCHS), Trim(), INT8))
        for layers in fewer_layers(given):
            # A small vocabulary makes an epoch cheap; few recordings need small batches and some patience.
            yield Recipe((*shorter, Trim(), Distill(decoder_layers=layers, epochs=60, batch_size=16), INT8))

    def fallbacks(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """Of the first recipe: integers in the whole window, and floats. Nothing else is safer."""
        fitted = self._fitted()
        if recipe != Recipe((*fitted, INT8)):
            return ()
        floats = Recipe((*fitted, Export(format="ct2", type="float32")))
        return (Recipe((INT8,)), floats) if fitted else (floats,)

    def forecast(self, threads: int) -> Iterator[str]:
        """Why nothing is trained, where that is so."""
        amount = Amount.of(self.task)
        if self.given.format == "hf" and not amount.teaches:
            yield f"nothing is trained: {amount.lack()}"

    def memory_bytes(self, recipe: Recipe) -> int | None:
        """Of an export of the given network, with its window or one for each recording."""
        *before, last = recipe.steps or (None,)
        if self.given.format != "hf" or not isinstance(last, Export) or before not in ([], [Window(seconds=EACH)]):
            return None
        front = front_end(self.given.path)
        front = replace(front, fitted=FittedWindow(SHORTEST_S, MARGIN_S)) if before else front
        weights = sum(math.prod(each.shape) for each in Checkpoint(self.given.path).tensors.values())
        width = int(read_json(self.given.path / "config.json").get("d_model", 0))
        lengths = _lengths(self.task)
        median = [round(lengths[len(lengths) // 2] * RATE_HZ)] if lengths else []
        bytes_each = 1 if (last.type or INT8.type or "").startswith("int8") else FLOAT_BYTES
        return memory_bytes(self.given.path, bytes_each * weights, activation_bytes(front, width, median))

    def _fitted(self) -> tuple[Method, ...]:
        """A window for each recording, where that saves time."""
        lengths, longest = _lengths(self.task), front_end(self.given.path).seconds
        if not lengths or WORTH * longest < SHORTEST_S:
            return ()
        fitted = FittedWindow(SHORTEST_S, MARGIN_S)
        windows = [min(longest, fitted.samples(round(length * RATE_HZ)) / RATE_HZ) for length in lengths]
        return (Window(seconds=EACH),) if sum(windows) <= WORTH * longest * len(windows) else ()


def window_s(given: Model, task: Task) -> int:
    """Whole seconds into which 19 of 20 utterances of train and validation fit; 0 where that saves too little.

    One recording that is much longer than the others must not cost all of them their time: it is transcribed in pieces.
    """
    lengths = _lengths(task)
    if not lengths:
        return 0
    wanted = max(LEAST_S, math.ceil(lengths[math.ceil(FITTED * len(lengths)) - 1] + ROOM_S))
    return wanted if wanted <= WORTH * front_end(given.path).seconds else 0


def _lengths(task: Task) -> list[float]:
    """Seconds of the recordings of train and validation, ascending."""
    if not isinstance(task, SpokenTask):
        return []
    return sorted(task.seconds(example) for split in SEEN for example in task.examples(split))


def fewer_layers(given: Model) -> list[int]:
    """Numbers of decoder layers to try: half of them, and one."""
    layers = int(read_json(given.path / "config.json").get("decoder_layers", 1))
    return sorted({max(1, layers // 2), 1} - {layers}, reverse=True)
