"""Run: a folder that holds candidates, models, the best one and the report; it can be resumed and is locked in use."""

from __future__ import annotations

import contextlib
import json
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .. import __version__
from ..errors import AlreadyExists, BadInput, InvalidOption, RunLocked, RunMismatch
from ..judge.budget import Budget
from ..machine import files
from ..model import Model
from ..progress import SILENT, Progress
from ..task import Split, Task, Use
from . import candidates
from .candidates import Candidate
from .latencies import agreeing
from .manifest import Changes, Manifest
from .timings import Timings

OF_THE_ROWS = (
    "answers", "candidates.jsonl", "report.html", "result.json", "budget.json", "data.json", "prompts.json",
    "timings.json",
)  # fmt: skip
LAYOUT = 2  # of rows and answers: since 2 answers are in the order of reading, and rows have the reference's time

BEGINNING = "choose.json"


@dataclass(frozen=True)
class Run:
    """The paths in a run's folder."""

    folder: Path
    place: str = ""  # of answers, which begins their files' names: answers to other data are kept apart

    def apart(self, place: str) -> Run:
        """The same run, with the answers to other data."""
        return replace(self, place=f"{place}-")

    @property
    def models(self) -> Path:
        """One folder per built step, named by its hash."""
        return self.folder / "models"

    @property
    def cache(self) -> Path:
        """Decoded pixels, features, predictions, checkpoints of unfinished steps; removed when the run is complete."""
        return self.folder / "cache"

    @property
    def best(self) -> Path:
        """The model to ship."""
        return self.folder / "best"

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.folder / "report.html"

    @property
    def rows(self) -> Path:
        """The candidates, a JSON line each."""
        return self.folder / "candidates.jsonl"

    @property
    def manifest(self) -> Path:
        """Which examples its splits have."""
        return self.folder / "examples.json"

    @property
    def settings(self) -> dict[str, Any]:
        """The content of `run.toml`."""
        table: dict[str, Any] = tomllib.loads((self.folder / "run.toml").read_text(encoding="utf-8"))
        return table

    @property
    def seed(self) -> int:
        """Of the splits, the order of reading, and training."""
        return int(self.settings["seed"])

    @property
    def beginning(self) -> dict[str, Any] | None:
        """Which of several networks to begin with, as `choose` wrote it; None where none was chosen."""
        path = self.folder / BEGINNING
        kept: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return kept

    def save_beginning(self, found: dict[str, Any]) -> None:
        """Write which of several networks to begin with, and why."""
        files.write_text(self.folder / BEGINNING, json.dumps(found, indent=1, ensure_ascii=False))

    @property
    def result(self) -> Path:
        """What the last command that ended found."""
        return self.folder / "result.json"

    @property
    def budget(self) -> dict[str, Any] | None:
        """The budget of the last command, as `Budget.as_dict` wrote it; None before the first."""
        path = self.folder / "budget.json"
        kept: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return kept

    def save_budget(self, budget: Budget) -> None:
        """Write the budget of a command that begins, and remove the result of an earlier one."""
        files.write_text(self.folder / "budget.json", json.dumps(budget.as_dict(), indent=1))
        self.result.unlink(missing_ok=True)

    def save_result(self, result: dict[str, Any]) -> None:
        """Write what the command found."""
        files.write_text(self.result, json.dumps(result, indent=1, ensure_ascii=False))

    @property
    def timings(self) -> Timings | None:
        """Those of another machine, by which the last command chose; None where it chose by this machine's."""
        path = self.folder / "timings.json"
        return Timings.read(path) if path.is_file() else None

    def save_timings(self, given: str | Path | None) -> None:
        """Keep the timings that a command chooses by; None: it chooses by this machine's. Raises BadInput."""
        path = self.folder / "timings.json"
        if given is None:
            path.unlink(missing_ok=True)
        else:
            files.write_text(path, json.dumps(Timings.read(Path(given)).content, indent=1, ensure_ascii=False))

    @property
    def front(self) -> Path:
        """The models that no other of the run beats in size, latency and quality at once, one folder each."""
        return self.folder / "front"

    @property
    def data_options(self) -> dict[str, Any]:
        """How the data of the last command were read, as `save_data_options` wrote it; empty before the first."""
        path = self.folder / "data.json"
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return kept

    def save_data_options(self, options: dict[str, Any]) -> None:
        """Write how the data are read, for those who open them again: the report, and `deliver`."""
        files.write_text(self.folder / "data.json", json.dumps(options, indent=1, ensure_ascii=False))

    @property
    def prompts(self) -> dict[str, Any] | None:
        """The prompts of its language models; None before there are any."""
        path = self.folder / "prompts.json"
        kept: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return kept

    def save_prompts(self, prompts: dict[str, Any]) -> None:
        """Write the prompts of its language models."""
        files.write_text(self.folder / "prompts.json", json.dumps(prompts, indent=1, ensure_ascii=False))

    def written(self, fingerprint: str) -> dict[str, Any] | None:
        """What a model wrote, with the prompts; None where it wrote nothing."""
        path = self._written(fingerprint)
        found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return found

    def save_written(self, fingerprint: str, found: dict[str, Any]) -> None:
        """Keep what a model wrote."""
        files.write_text(self._written(fingerprint), json.dumps(found, indent=1, ensure_ascii=False))

    def _written(self, fingerprint: str) -> Path:
        return self.folder / "answers" / f"{fingerprint}.written.json"

    def answers_file(self, fingerprint: str, split: Split) -> Path:
        """The file with a model's outputs on a split."""
        return self.folder / "answers" / f"{self.place}{fingerprint}.{split}.npy"

    def answers(self, fingerprint: str, split: Split) -> NDArray[Any] | None:
        """A model's outputs on what it has read of a split, (examples, ...), in the order of reading; None: nothing."""
        return _loaded(self.answers_file(fingerprint, split))

    def save_answers(self, fingerprint: str, split: Split, outputs: NDArray[Any]) -> NDArray[Any]:
        """Keep a model's outputs on what it has read of a split; returns them."""
        return _saved(self.answers_file(fingerprint, split), outputs)

    def divergence(self, fingerprint: str, split: Split) -> NDArray[Any] | None:
        """What `save_divergence` has kept of a model and a split; None: nothing."""
        return _loaded(self.answers_file(fingerprint, split).with_suffix(".divergence.npy"))

    def save_divergence(self, fingerprint: str, split: Split, sums: NDArray[Any]) -> NDArray[Any]:
        """Keep the sums, (examples, ...), that compare a model's predictions with the reference's; returns them."""
        return _saved(self.answers_file(fingerprint, split).with_suffix(".divergence.npy"), sums)

    def candidates(self) -> list[Candidate]:
        """The newest row of each recipe, in the order in which the recipes first appeared; their latencies agree.

        With what they cost on another machine, where the last command chose by its timings.
        """
        newest: dict[str, Candidate] = {}
        for row in candidates.read(self.rows):
            newest[row.fingerprint] = row
        return self.timed(agreeing(list(newest.values())))

    def timed(self, rows: list[Candidate]) -> list[Candidate]:
        """Rows with what they cost on the machine that the run is chosen for, where that is another one."""
        timings = self.timings
        return rows if timings is None else timings.laid_over(rows)

    def add(self, candidate: Candidate) -> None:
        """Append a row."""
        candidates.append(self.rows, candidate)


def _loaded(path: Path) -> NDArray[Any] | None:
    if not path.is_file():
        return None
    kept: NDArray[Any] = np.load(path)
    return kept


def _saved(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    with files.open_whole(path) as stream:
        np.save(stream, array)
    return array


@contextlib.contextmanager
def open_run(
    folder: Path,
    model: Model,
    data: str,
    task: Task,
    seed: int,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Iterator[Run]:
    """Begin a run or go on with it, holding its lock.

    Where a part of its data has changed the files are named and the run goes on: features and answers to the other
    examples are still there. Raises RunLocked while another process has it, RunMismatch when it was made from another
    model, other data or another seed (`force` starts again), AlreadyExists for a folder that is no run.
    """
    run = Run(folder)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        _begin(run, model, data, task, seed, force, progress)
        yield run


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raises RunLocked while another process has it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLocked(f"{folder} is in use by another process: wait for it, or give another --out") from error
    try:
        yield
    finally:
        lock.release()


def kept_use(folder: Path) -> Use:
    """What the recipes of a run have learnt from its data, which decided how these were cut; "nothing" where no run is.

    Runs of earlier versions have the cut of a training.
    """
    run = Run(folder)
    found: Use = run.settings.get("use", "training") if (folder / "run.toml").is_file() else "nothing"
    return found


def check_folder(folder: Path) -> None:
    """Raise AlreadyExists for a folder that cannot become a run; nothing is written."""
    if folder.exists() and not folder.is_dir():
        raise AlreadyExists(f"{folder} is a file: give a folder for the run")
    if folder.is_dir() and not (folder / "run.toml").is_file() and any(_strangers(folder)):
        raise AlreadyExists(f"{folder} holds files and is no run: give a new or empty folder")


def check_place(folder: Path, **given: object) -> None:
    """Raise InvalidOption for a run's folder that lies in a folder that the user gave: nothing is written into these.

    given: paths by what they are, such as `data`; what is no folder is passed over.
    """
    for what, path in given.items():
        if not isinstance(path, (str, Path)) or not Path(path).is_dir():
            continue
        if folder.resolve().is_relative_to(Path(path).resolve()):
            raise InvalidOption(
                f"--out {folder} lies in the {what} {path}, into which nothing is written: give a folder outside of it"
            )


@contextlib.contextmanager
def without_trace(folder: Path) -> Iterator[None]:
    """Check the folder; where the block refuses its input before anything is measured, remove what it has written."""
    check_folder(folder)
    created = [path for path in (folder / "cache", folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BadInput:
        if folder in created and not (folder / "candidates.jsonl").is_file():
            shutil.rmtree(folder, ignore_errors=True)
        elif folder / "cache" in created and not (folder / "run.toml").is_file():
            shutil.rmtree(folder / "cache", ignore_errors=True)
        for path in created[1:]:
            with contextlib.suppress(OSError):  # others have put something there
                path.rmdir()
        raise


def _strangers(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name not in (".lock", "cache", "models", BEGINNING))


def _begin(run: Run, model: Model, data: str, task: Task, seed: int, force: bool, progress: Progress) -> None:
    identity = {
        "model": str(model.record.source or model.path),
        "model_path": str(model.path.resolve()),
        "model_fingerprint": model.fingerprint,
        "data": data,
        "data_fingerprint": task.fingerprint,
        "seed": seed,
        "use": getattr(task, "use", "training"),
        "layout": LAYOUT,
    }
    if (questions := getattr(task, "questions", None)) is not None:
        identity["questions"] = str(Path(questions).resolve())
    path, manifest = run.folder / "run.toml", Manifest.of(task)
    if path.is_file():
        before = run.settings
        changed = [key for key in ("model_fingerprint", "data_fingerprint", "seed") if before.get(key) != identity[key]]
        if not changed and before.get("layout") == LAYOUT:
            if before.get("questions") != identity.get("questions"):  # whose answers are kept apart
                _write(path, identity)
            return
        changes = Changes.between(Manifest.read(run.manifest), manifest)
        use = kept_use(run.folder)
        now: Use = getattr(task, "use", "training")
        if use != now and not force and changes is not None and changes.only_moved:
            raise RunMismatch(_more_is_learnt(run.folder, use, now))
        if force:
            _remove(run, ("models", "cache", "best", "front"))
        elif not changed:
            progress.warn(f"{run.folder} was made by an earlier version: its models stay, and are measured again")
        elif changed == ["data_fingerprint"] and before.get("data") == data and changes is not None and changes.small:
            progress.warn(f"since {run.folder} began, {changes}. What depends on the data is built again")
        else:
            reasons = "; ".join(_reasons(before, identity, changed, changes))
            raise RunMismatch(f"{run.folder} was made {reasons}: give another --out, or --force to start again")
        _remove(run, OF_THE_ROWS)
    manifest.save(run.manifest)
    _write(path, identity)


def _write(path: Path, identity: dict[str, Any]) -> None:
    """As TOML, in which a JSON text and a whole number are values too."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in identity.items()]
    files.write_text(path, "\n".join([*lines, f'microbudget = "{__version__}"', ""]))


def _reasons(before: dict[str, Any], now: dict[str, Any], changed: list[str], changes: Changes | None) -> Iterator[str]:
    """In what a run differs from what is asked, each after "was made"."""
    for key in changed:
        what = key.removesuffix("_fingerprint")
        if before.get(what) != now[what]:
            yield f"with another {what}, {before.get(what)}, and not {now[what]}"
        elif what == "data" and changes is not None:
            yield f"with another data set in {now[what]}: {changes}"
        else:
            yield f"with another {what}: what {now[what]} holds has changed since"


def _remove(run: Run, names: tuple[str, ...]) -> None:
    for name in names:
        path = run.folder / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _more_is_learnt(folder: Path, before: Use, now: Use) -> str:
    purpose = {"calibration": "calibrate with", "training": "train on"}[now]
    return (
        f"{folder} was made by recipes that learn {before} from the data, so the others were kept to judge by; this"
        f" one needs more of them to {purpose}, and models are compared on the same examples only: give another --out,"
        " or --force to start again"
    )
