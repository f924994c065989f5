"""What ships with a text classifier: `predict.py`, and in the model's file all that the script needs."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ...model import ONNX_NAME, Model
from ...runtimes.text.encoding import INPUTS, MAX_LENGTH, PAD
from ...ship.shipping import Shipping
from ...task import Task
from .data import TextTask
from .page import PREDICT

PLAN_KEY = "microbudget.plan"


def _add_files(folder: Path, model: Model, task: Task) -> None:
    """Write predict.py, where it can serve the model: not for a task of the user's own."""
    plan = _plan(model, task)
    if plan is None:
        return
    import onnx

    onnx.save(_with_plan(folder / ONNX_NAME, model, plan), str(folder / ONNX_NAME))
    script = resources.files(__package__).joinpath(PREDICT).read_text(encoding="utf-8")
    (folder / PREDICT).write_text(script, encoding="utf-8")


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
    plan = _plan(model, task)
    if plan is None:
        return 0
    return int(_with_plan(model.weights, model, plan).ByteSize()) - model.weights.stat().st_size


def _with_plan(path: Path, model: Model, plan: dict[str, Any]) -> Any:
    """The model of a file with labels and plan."""
    import onnx

    from ...runtimes.onnx.session import write_metadata

    proto = onnx.load(str(path), load_external_data=False)
    write_metadata(proto, model.labels, model.record.preprocessing)
    kept = [(prop.key, prop.value) for prop in proto.metadata_props if prop.key != PLAN_KEY]
    del proto.metadata_props[:]
    for key, value in [*kept, (PLAN_KEY, json.dumps(plan, separators=(",", ":")))]:
        proto.metadata_props.add(key=key, value=value)
    return proto


SHIPPING = Shipping(
    pipeline_tag="text-classification", add_files=_add_files, added_bytes=_added_bytes, has_preprocessor=False
)
