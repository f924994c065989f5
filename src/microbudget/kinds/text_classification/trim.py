"""trim of a text encoder: the texts that decide which tokens stay. Half of a small encoder is its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...methods import Context
from ...model import Model
from .data import TextTask
from .network import reading_of


def texts(model: Model, context: Context) -> Iterable[str]:
    """The texts of the train split and the unlabelled ones."""
    del model
    task = context.task
    if isinstance(task, TextTask):
        for split in ("train", "unlabelled"):
            for example in task.examples(split):
                yield from task.text_of(example)


def reading(folder: Path) -> dict[str, Any] | None:
    """How the trimmed model reads texts: the padding token has another id."""
    return reading_of(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))


def runtimes(folder: Path, rows: int) -> list[str]:
    """What opens the trimmed model as it is, for its card."""
    del folder, rows
    return ["transformers and tokenizers open the trimmed model as it is"]
