"""What ships with a text classifier: `predict.py`, and in the model's file all that the script needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model import Model
from ...runtimes.text.encoding import INPUTS, MAX_LENGTH, PAD
from ...ship.plan import added_bytes, deliver_script
from ...ship.shipping import Shipping
from ...task import Task
from .data import TextTask
from .page import PREDICT


def _add_files(folder: Path, model: Model, task: Task) -> None:
    """Write predict.py, where it can serve the model: not for a task of the user's own."""
    plan = _plan(model, task)
    if plan is None:
        return
    deliver_script(folder, model, plan, (__package__, PREDICT))


def _plan(model: Model, task: Task) -> dict[str, Any] | None:
    """How predict.py reads a text and what the model answers; None for a model that it cannot serve."""
    if not isinstance(task, TextTask) or model.format != "onnx" or model.labels is None:
        return None
    from ...runtimes.onnx.interface import read_signature, scale_of_model

    reading = model.record.preprocessing or {}
    output = read_signature(model.weights).scores(len(model.labels), model.record.output)
    return {
        "max_length": reading[MAX_LENGTH],
        "inputs": reading[INPUTS],
        "pad": reading.get(PAD, 0),
        "output": output.name,
        "scale": scale_of_model(model),
    }


def _added_bytes(model: Model, task: Task) -> int:
    """How much larger the file becomes by what is written into it."""
    return added_bytes(model, _plan(model, task))


SHIPPING = Shipping(
    pipeline_tag="text-classification", add_files=_add_files, added_bytes=_added_bytes, has_preprocessor=False
)
