"""What `shrink` tries for Whisper, the safest first: integers, a window that fits, fewer words, fewer layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ...errors import InvalidOption
from ...methods import Method
from ...methods.distill import Distill
from ...methods.export import Export
from ...methods.trim import Trim
from ...methods.window import Window
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.speech.tokenizer import read_json
from ...runtimes.speech.whisper import front_end
from ...search import space
from ...task import SPLITS, Split, Task
from .task import SpokenTask

FITTED = 0.95  # of the utterances fit into the window
ROOM_S = 0.5  # of silence after the longest of them
WORTH = 0.8  # of the window: a longer one saves too little
SHORTEST_S = 2
EPOCHS = 5  # of the fine-tuning for a shorter window
SEEN: tuple[Split, ...] = tuple(split for split in SPLITS if split != "test")


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder of Whisper."""

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """The safest first. Raises InvalidOption for a model that is exported already."""
        given = self.given
        if given.format != "hf":
            raise InvalidOption(
                f"{given.path} is exported already ({given.format}): give the Hugging Face folder that it was made from"
            )
        export = Export(format="ct2", type="int8")
        yield Recipe((export,))
        seconds = window_s(given, self.task)
        fitted: tuple[Method, ...] = (Window(seconds=seconds),) if seconds else ()
        if fitted:
            yield Recipe((*fitted, export))
        yield Recipe((*fitted, Trim(), export))
        yield Recipe((*fitted, Export(format="ct2", type="float32")))
        if fitted:
            yield Recipe((Window(seconds=seconds, epochs=EPOCHS), Trim(), export))
        for layers in fewer_layers(given):
            # A small vocabulary makes an epoch cheap; few recordings need small batches and some patience.
            yield Recipe((*fitted, Trim(), Distill(decoder_layers=layers, epochs=60, batch_size=16), export))


def window_s(given: Model, task: Task) -> int:
    """Whole seconds into which 19 of 20 utterances of train and validation fit; 0 where that saves too little.

    One recording that is much longer than the others must not cost all of them their time: it is transcribed in pieces.
    """
    if not isinstance(task, SpokenTask):
        return 0
    lengths = sorted(task.seconds(example) for split in SEEN for example in task.examples(split))
    if not lengths:
        return 0
    wanted = max(SHORTEST_S, math.ceil(lengths[math.ceil(FITTED * len(lengths)) - 1] + ROOM_S))
    return wanted if wanted <= WORTH * front_end(given.path).seconds else 0


def fewer_layers(given: Model) -> list[int]:
    """Numbers of decoder layers to try: half of them, and one."""
    layers = int(read_json(given.path / "config.json").get("decoder_layers", 1))
    return sorted({max(1, layers // 2), 1} - {layers}, reverse=True)
