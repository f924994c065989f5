"""What ships with a language model: a Modelfile for Ollama next to a GGUF file."""

from __future__ import annotations

from pathlib import Path

from ...model import Model
from ...ship.shipping import Shipping
from ...task import Task
from . import ollama


def _add_files(folder: Path, model: Model, _task: Task) -> None:
    if model.format == "gguf":
        ollama.write(folder)


SHIPPING = Shipping(pipeline_tag="text-generation", add_files=_add_files)
