"""Ship: put a candidate into a folder, such as RUN/best, with its card and what its kind adds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..judge.budget import Budget
from ..machine.files import link_or_copy, whole_folder
from ..model import GGUF_NAME, ONNX_NAME, Model
from ..runs.candidates import Candidate
from ..runs.run import Run
from ..task import Task
from .card import card
from .shipment import Shipment
from .shipping import shipping_of

PREPROCESSOR = "preprocessor_config.json"
REWRITTEN = ("onnx",)  # formats whose file gets the plan of a script: a link would write it into the run's own model


def deliver(
    run: Run, model: Model, candidate: Candidate, budget: Budget, task: Task, reference: Candidate | None = None
) -> Path:
    """Replace RUN/best by this model as a whole; the older one stays until the new one is complete."""
    return ship(Shipment(model, candidate, budget, task, run.settings, reference), run.best)


def ship(shipment: Shipment, path: Path, *, linked: bool = False) -> Path:
    """Replace a folder by the model, its card and what its kind adds. linked: weights are not copied where links work.

    Raises OSError.
    """
    model, task = shipment.model, shipment.task
    with whole_folder(path) as folder:
        for file in model.files:
            target = folder / _name(file, model)
            target.parent.mkdir(exist_ok=True)
            place = link_or_copy if linked and model.format not in REWRITTEN else shutil.copyfile
            place(file, target)
        model.record.save(folder)
        if _lacks_preprocessor(model, task, folder):
            (folder / PREPROCESSOR).write_text(_preprocessing(model), encoding="utf-8")
        if model.labels is not None:
            (folder / "labels.txt").write_text("\n".join(model.labels) + "\n", encoding="utf-8")
        shipping_of(task.kind).add_files(folder, model, task)
        (folder / "README.md").write_text(card(folder, shipment), encoding="utf-8")
    return path


def shipped_bytes(model: Model, task: Task) -> int:
    """Bytes of the files in RUN/best that opening the model reads, with what delivering adds to them."""
    size = model.size_bytes + shipping_of(task.kind).added_bytes(model, task)
    if model.format != "hf" or not _lacks_preprocessor(model, task, model.folder):
        return size
    return size + len(_preprocessing(model).encode())


def _lacks_preprocessor(model: Model, task: Task, folder: Path) -> bool:
    """Whether the file is missing that says how the model's inputs are prepared."""
    wanted = model.record.preprocessing is not None and shipping_of(task.kind).has_preprocessor
    return wanted and not (folder / PREPROCESSOR).is_file()


def _preprocessing(model: Model) -> str:
    return json.dumps(model.record.preprocessing, indent=1)


def _name(file: Path, model: Model) -> str:
    """The name of a file in RUN/best: one name for the weights of a format, whatever they were called."""
    known = {"onnx": ONNX_NAME, "gguf": GGUF_NAME}
    return known.get(model.format, file.name) if file == model.weights else model.name_of(file)
