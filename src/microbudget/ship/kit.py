"""Kit: a folder with which the models of a run are timed and checked on another machine, without microbudget.

It holds the models, the inputs of a few examples, what each model answers here, the hashes of all of that, and
`time_models.py`, which writes `timings.json` there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..judge.judging import judging_of
from ..machine.files import link_or_copy, whole_folder, write_text
from ..model import Model
from ..runs.candidates import Candidate
from ..runs.timings import VERSION, hash_of, hashes
from ..runtimes.onnx.interface import read_signature
from ..task import Inputs, Task
from . import REWRITTEN

SCRIPT = "time_models.py"
TOLERANCE = 0.02  # of the spread of the answers: other processors round sums in another order, and int8 by other steps


@dataclass(frozen=True)
class Work:
    """What a model is timed and checked with.

    calls: the inputs of one example each; the first is timed. answers: to each call, numbers or, with `tokens`, tokens.
    runtime: the package that opens it. tolerance: the difference of an answer that counts as none. settings: what the
    script needs besides to open the model.
    """

    runtime: str
    calls: Sequence[Inputs]
    answers: Sequence[Sequence[float | int | str]]
    tolerance: float
    tokens: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class Timeable:
    """A row of a run with its model and the work. name: as in the report."""

    name: str
    row: Candidate
    model: Model
    work: Work


def of_graph(task: Task, model: Model, calls: Sequence[Inputs], threads: int) -> Work:
    """The Work of an ONNX file. calls: for each example the graph's own inputs, batch first.

    A worker process answers them: a file that brings its runtime down does no harm. Raises WorkerFailed.
    """
    signature = read_signature(model.weights)
    batch = signature.batch or 1
    fed = [{name: np.repeat(array, batch, axis=0) for name, array in call.items()} for call in calls]
    with judging_of(task).start_worker() as worker:
        worker.open(model, threads=threads)
        answers = np.stack([np.asarray(worker.answer(call), np.float64)[:1].ravel() for call in fed])
    output = signature.scores(len(model.labels or ()) or None, model.record.output).name
    spread = float(np.ptp(answers))
    return Work("onnxruntime", fed, answers.tolist(), TOLERANCE * spread, False, {"output": output})


def write_kit(path: Path, run: dict[str, Any], models: Sequence[Timeable]) -> None:
    """Write the kit as a whole. run: which run it is of. models: the first is the base. Raises OSError."""
    with whole_folder(path) as folder:
        shared: dict[str, str] = {}
        entries = [_entry(folder, each, shared) for each in models]
        script = resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8")
        write_text(folder / SCRIPT, script)
        packages = sorted({"numpy", *(each.work.runtime for each in models)})
        write_text(folder / "README.md", _README.format(packages=" ".join(packages), script=SCRIPT))
        kit = {"version": VERSION, "microbudget": __version__, "run": run, "files": shared, "models": entries}
        write_text(folder / "kit.json", json.dumps(kit, indent=1, ensure_ascii=False))


def _entry(folder: Path, each: Timeable, shared: dict[str, str]) -> dict[str, Any]:
    """A model's files in the kit, and what `kit.json` says of it. shared: grows by the hashes of what is no model's."""
    model, work = each.model, each.work
    place = f"models/{each.name}/"
    for file in model.files:
        target = folder / place / model.name_of(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copyfile if model.format in REWRITTEN else link_or_copy)(file, target)
    answers = f"answers/{each.name}.json"
    write_text(folder / answers, json.dumps(work.answers, ensure_ascii=False))
    shared[answers] = hash_of(folder / answers)
    opened = place if model.weights == model.path and model.path.is_dir() else place + model.name_of(model.weights)
    return {
        "name": each.name,
        "recipe": each.row.recipe,
        "fingerprint": each.row.fingerprint,
        "runtime": work.runtime,
        "open": opened,
        "files": hashes(model, place),
        "calls": [_saved(folder, call, shared) for call in work.calls],
        "answers": answers,
        "tokens": work.tokens,
        "tolerance": work.tolerance,
        **work.settings,
    }


def _saved(folder: Path, call: Inputs, shared: dict[str, str]) -> dict[str, str]:
    """The files with the inputs of a call, by the inputs' names; models that take the same inputs share them."""
    found = {}
    for name, array in call.items():
        content = np.ascontiguousarray(array)
        key = hashlib.sha256(f"{content.dtype}{content.shape}".encode() + content.tobytes()).hexdigest()[:16]
        path = found[name] = f"inputs/{key}.npy"
        if path not in shared:
            (folder / path).parent.mkdir(exist_ok=True)
            np.save(folder / path, content)
            shared[path] = hash_of(folder / path)
    return found


_README = """# Time these models on another machine

Copy this folder there. It needs Python 3.10 or newer and no microbudget:

    python -m pip install {packages}
    python {script}                 # or --threads 4 --seconds 10 --only 1,3

It times each model in turns with the first one of kit.json, checks that it answers as where the kit was made, and
writes timings.json. Back where the run is, `microbudget shrink ... --timings timings.json` into that run chooses by it.
"""
