"""Build a recipe like `make`: each step's folder is named by the hash of what made it, and made only once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

from ..machine.files import explain_full_disk, whole_folder
from ..methods import Context, Method
from ..model import Model, Record
from ..units import format_seconds
from .recipe import Recipe

CHECKPOINTS = "checkpoints"  # in the cache: what unfinished steps go on from, by their fingerprint
_RECORDED_VERSIONS = (
    "microbudget", "numpy", "onnx", "onnxruntime", "openvino", "torch", "transformers", "ctranslate2", "soxr", "jiwer",
    "scikit-learn", "tokenizers",
)  # fmt: skip


def build(model: Model, recipe: Recipe, context: Context, store: Path) -> tuple[Model, ...]:
    """The Models after each step of the recipe, from folders in `store` where those exist already.

    The caller holds the run's lock. Raises what the methods raise, and DiskFull.
    """
    recipe.formats(model.format)  # before any work is done
    made = []
    for step in recipe.steps:
        model = build_step(model, step, context, store)
        made.append(model)
    return tuple(made)


def build_step(model: Model, step: Method, context: Context, store: Path) -> Model:
    """The Model of one step; the folder appears in `store` only when it is whole."""
    fingerprint = step_fingerprint(model, step, context)
    folder = store / fingerprint
    output_format = step.output_format(model.format)
    record = Record.read(folder) if folder.is_dir() else None
    if record is not None:
        return Model(folder, output_format, record)
    started = time.monotonic()
    context.progress.doing(f"building {step.short()}")
    context = replace(context, checkpoints=context.cache / CHECKPOINTS / fingerprint)
    full = f"no space left while writing {folder}: free some and give the same command again; finished steps are kept"
    with explain_full_disk(full), whole_folder(folder) as partial:
        record = step.apply(model, context, partial).after(model.record, step.name())
        text = f"{model.record.recipe} > {step}" if model.record.recipe else str(step)
        record = replace(record, recipe=text, fingerprint=fingerprint, versions=versions())
        record.save(partial)
    shutil.rmtree(context.cache / CHECKPOINTS / fingerprint, ignore_errors=True)
    context.progress.detail(f"{step.name():<9} {format_seconds(time.monotonic() - started):>8}  {folder.name}")
    return Model(folder, output_format, record)


def step_fingerprint(model: Model, step: Method, context: Context) -> str:
    """Hash of the input, the method with all options and its revision, the data and the seed."""
    made_of = {
        "input": model.fingerprint,
        "step": str(step),
        "revision": step.revision,
        "data": context.task.fingerprint,
        "seed": context.seed,
        **step.extra_inputs(context),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def planned(model: Model, recipe: Recipe, context: Context, store: Path) -> Model:
    """The Model that the recipe has made or will make, with its fingerprint; nothing is built."""
    for step in recipe.steps:
        fingerprint = step_fingerprint(model, step, context)
        model = Model(store / fingerprint, step.output_format(model.format), Record(fingerprint=fingerprint))
    return model


def versions() -> dict[str, str]:
    """Versions of the libraries that took part. They are recorded, not hashed: an update does not void a run."""
    found = {}
    for name in _RECORDED_VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def clean(store: Path, keep: frozenset[str]) -> None:
    """Remove the steps in `store` that are not named in `keep`, and what a killed process left half made."""
    for folder in store.iterdir() if store.is_dir() else ():
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)
