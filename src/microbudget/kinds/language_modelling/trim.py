"""trim of a language model: the texts that decide which tokens stay."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...methods import Context
from ...model import Model


def texts(model: Model, context: Context) -> Iterable[str]:
    """The training passages, or conversations."""
    del model
    task: Any = context.task
    return [task.text(example) for split in ("train", "unlabelled") for example in task.examples(split)]


def runtimes(folder: Path, rows: int) -> list[str]:
    """What opens the trimmed model as it is, for its card."""
    del folder, rows
    return ["transformers opens the trimmed model as it is"]
