"""Plan: what a delivered `predict.py` reads from the model's file, and the script next to it.

A plan is what the script needs besides labels and preprocessing; a kind makes it in its `shipping.py`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ..model import ONNX_NAME, Model

PLAN_KEY = "microbudget.plan"
Plan = dict[str, Any]


def deliver_script(folder: Path, model: Model, plan: Plan, script: tuple[str, str]) -> None:
    """Put the plan into the file in a folder, and the script next to it. script: its package, its name."""
    import onnx

    package, name = script
    onnx.save(with_plan(folder / ONNX_NAME, model, plan), str(folder / ONNX_NAME))
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")


def added_bytes(model: Model, plan: Plan | None) -> int:
    """How much larger the file becomes by what is written into it; nothing without a plan."""
    if plan is None:
        return 0
    return int(with_plan(model.weights, model, plan).ByteSize()) - model.weights.stat().st_size


def with_plan(path: Path, model: Model, plan: Plan) -> Any:
    """The model of a file with labels, preprocessing and plan, so that the file alone is enough."""
    import onnx

    from ..runtimes.onnx.session import write_metadata

    proto = onnx.load(str(path), load_external_data=False)
    write_metadata(proto, model.labels, model.record.preprocessing)
    kept = [(prop.key, prop.value) for prop in proto.metadata_props if prop.key != PLAN_KEY]
    del proto.metadata_props[:]
    for key, value in [*kept, (PLAN_KEY, json.dumps(plan, separators=(",", ":")))]:
        proto.metadata_props.add(key=key, value=value)
    return proto
