"""Ship: put the best candidate into RUN/best, with its card and a `predict.py` that needs no microbudget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..judge.budget import Budget
from ..kinds.language_modelling import ollama
from ..machine.files import whole_folder
from ..model import GGUF_NAME, ONNX_NAME, Model
from ..runs.candidates import Candidate
from ..runs.run import Run
from ..units import format_bytes, format_change, format_seconds

PLAN_KEY = "microbudget.plan"


def deliver(
    run: Run, model: Model, candidate: Candidate, budget: Budget, reference: Candidate | None = None, *, photos: bool
) -> Path:
    """Replace RUN/best by this model as a whole; what stood there before stays until the new one is complete.

    photos: whether its inputs are photos that went through its own preprocessing; then predict.py is written too.
    """
    with whole_folder(run.best) as partial:
        for file in model.files:
            shutil.copyfile(file, partial / _name(file, model))
        model.record.save(partial)
        if model.record.preprocessing is not None and not (partial / "preprocessor_config.json").is_file():
            text = json.dumps(model.record.preprocessing, indent=1)
            (partial / "preprocessor_config.json").write_text(text, encoding="utf-8")
        if model.labels is not None:
            (partial / "labels.txt").write_text("\n".join(model.labels) + "\n", encoding="utf-8")
        if model.format == "gguf":
            ollama.write(partial)
        plan = _plan(model) if photos else None
        if plan is not None:
            _write_plan(partial / ONNX_NAME, model, plan)
            script = resources.files(__name__).joinpath("predict.py").read_text(encoding="utf-8")
            (partial / "predict.py").write_text(script, encoding="utf-8")
        card = _card(run, model, candidate, budget, reference, predicts=plan is not None)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return run.best


def _runtime_notes(model: Model) -> Iterator[str]:
    """What the steps say of the runtimes that take their result as it is."""
    for report in model.record.history.values():
        told = report.get("runtimes", ()) if isinstance(report, dict) else ()
        yield from ((told,) if isinstance(told, str) else map(str, told))


def _name(file: Path, model: Model) -> str:
    """What a file is called in RUN/best: one name for the weights of a format, whatever they were called."""
    known = {"onnx": ONNX_NAME, "gguf": GGUF_NAME}
    return known.get(model.format, file.name) if file == model.weights else file.name


def _plan(model: Model) -> dict[str, Any] | None:
    """The preprocessing in its plainest form, so that predict.py need not know the processors.

    None for a model that predict.py cannot serve: no ONNX file, no labels, or a limit on the longer side.
    """
    from ..images.geometry import Exact, ShortestEdge
    from ..images.preprocess import Preprocessing

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
        "table": parsed.table.tolist(),  # to the bit: int8 makes steps of what float32 rounds away
        "flipped": parsed.flipped,
    }


def _write_plan(path: Path, model: Model, plan: dict[str, Any]) -> None:
    """Labels, preprocessing and plan into the file, so that it alone is enough."""
    import onnx

    from ..runtimes.onnx.session import write_metadata

    proto = onnx.load(str(path), load_external_data=False)
    write_metadata(proto, model.labels, model.record.preprocessing)
    kept = [(prop.key, prop.value) for prop in proto.metadata_props if prop.key != PLAN_KEY]
    del proto.metadata_props[:]
    for key, value in [*kept, (PLAN_KEY, json.dumps(plan))]:
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, str(path))


def _card(
    run: Run, model: Model, candidate: Candidate, budget: Budget, reference: Candidate | None, *, predicts: bool
) -> str:
    """The model card: recipe, data, numbers, versions."""
    import jinja2

    source = resources.files(__name__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update(bytes=format_bytes, seconds=format_seconds, change=format_change)
    facts: dict[str, Any] = {
        "settings": run.settings,
        "record": model.record,
        "labels": model.labels or (),
        "candidate": candidate,
        "reference": reference,
        "limits": {key: value for key, value in budget.as_dict().items() if value not in (None, False)},
        "predicts": predicts,
        "runtime_notes": list(_runtime_notes(model)),
    }
    return environment.from_string(source).render(facts)
