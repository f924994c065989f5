"""lora: low-rank adaptation. A few parameters added to each frozen matrix learn the new task (Hu et al. 2022).

A kind's part, `kinds/<kind>/lora.py`, gives the network and the objective to `training.train_adapters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...errors import BadData, InvalidOption
from ...model import Model, Record
from .. import Context, Method, option


@dataclass(frozen=True)
class Lora(Method):
    """Low-rank adaptation: trains a few parameters added to frozen weights; for images, texts and language models."""

    revision: ClassVar[int] = 3
    teaches: ClassVar[bool] = True
    formats: ClassVar[dict[str, str]] = {"hf": "hf"}
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (4, 8, 16)}

    rank: int = option(8, "inner width of each adapter", low=1, high=1024)
    alpha: float | None = option(
        None, "scale of the adapters; by default twice the rank, for images the rank", low=1e-3, high=1e6
    )
    targets: str | None = option(None, "names of layers, separated by commas; by default all that can be adapted")
    epochs: int = option(5, "passes over the training examples at most", low=1, high=10_000)
    patience: int = option(2, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float | None = option(
        None,
        "of AdamW at the start of the cosine; by default 0.002, for images 0.0005, for text classifiers 0.001",
        low=1e-8,
        high=1.0,
    )
    batch_size: int = option(8, "examples, or rows of tokens, in a step", low=1, high=4096)
    length: int = option(256, "language: tokens in a row", low=8, high=1_000_000)
    checkpointing: bool = option(False, "compute each block again in the backward pass: less memory, a third slower")
    merge: bool = option(
        True, "add the adapters to the weights; False writes them alone, as a small folder that needs the model"
    )

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Train adapters on the train split, stop early on validation; write the merged model, or the adapters."""
        self.part(context, model)
        if not self.merge and model.record.recipe and model.path.resolve().parent == out.resolve().parent:
            raise InvalidOption(
                "lora: merge=False leaves a folder that needs its backbone, which must be the model that you gave:"
                " put lora first in the recipe, or merge"
            )
        if not self.merge and model.record.state.get("zeros"):
            raise InvalidOption("lora: an adapter would fill the zeros of pruned weights: use merge=True")
        if not context.task.examples("train"):
            raise BadData("there are no training examples: give some")
        return super().apply(model, context, out)
