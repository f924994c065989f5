"""What ships with a photo classifier: `predict.py`, and in the model's file all that the script needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model import Model
from ...ship.plan import added_bytes, deliver_script
from ...ship.shipping import Shipping
from ...task import Task
from .data import ImageTask
from .page import PREDICT


def _add_files(folder: Path, model: Model, task: Task) -> None:
    """Write predict.py, where it can serve the model: not for a task of the user's own, which has its own inputs."""
    plan = _plan(model) if isinstance(task, ImageTask) else None
    if plan is None:
        return
    deliver_script(folder, model, plan, (__package__, PREDICT))


def _plan(model: Model) -> dict[str, Any] | None:
    """The preprocessing in its plainest form, which predict.py reads.

    None for a model that predict.py cannot serve: no ONNX file, no labels, or a limit on the longer side.
    """
    from ...images.geometry import Exact, ShortestEdge
    from ...images.preprocess import Preprocessing

    if model.format != "onnx" or model.labels is None or model.record.preprocessing is None:
        return None
    parsed = Preprocessing.parse(model.record.preprocessing)
    resize = parsed.geometry.resize
    if isinstance(resize, ShortestEdge) and resize.longest is not None:
        return None
    return {
        "size": [resize.height, resize.width] if isinstance(resize, Exact) else None,
        "edge": resize.edge if isinstance(resize, ShortestEdge) else None,
        "crops": [list(crop) for crop in parsed.geometry.crops],
        "resample": parsed.geometry.resample,
        "flipped": parsed.flipped,
        **parsed.levels.as_dict(),
        **_asked_and_answered(model),
    }


def _asked_and_answered(model: Model) -> dict[str, Any]:
    """Which input of the graph is fed, and how; which output is read, and what its numbers are."""
    from ...runtimes.onnx.interface import read_signature, scale_of_model

    signature = read_signature(model.weights)
    pixels = signature.inputs[0]
    scores = signature.scores(len(model.labels or ()) or None, model.record.output)
    return {
        "input": pixels.name,
        "dtype": pixels.dtype,
        "channels_last": pixels.channels_last,
        "batch": signature.batch or 1,
        "output": scores.name,
        "scale": scale_of_model(model),
    }


def _added_bytes(model: Model, task: Task) -> int:
    """How much larger the file becomes by what is written into it."""
    return added_bytes(model, _plan(model) if isinstance(task, ImageTask) else None)


SHIPPING = Shipping(pipeline_tag=ImageTask.kind, add_files=_add_files, added_bytes=_added_bytes)
