"""Kinds of models: a folder in `kinds` for each, whose facets are found by name. Generic code knows none of them.

A kind's name in files and messages is `image-classification`, its folder `kinds/image_classification`. Inside, the same
facets lie under the same file names (`data`, `network`, `judging`, `search_space`, `page`, ...) beside its parts of the
methods (`distill`, `finetune`, ...).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from .errors import BadData, UnsupportedModel
from .model import LANGUAGE_MODELLING, TRANSCRIPTION
from .progress import SILENT, Progress
from .task import Task

PACKAGE = f"{__package__}.kinds"


def names() -> tuple[str, ...]:
    """The kinds there are, alphabetically, as files and messages write them."""
    folders = importlib.import_module(PACKAGE).__path__
    return tuple(sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(folders) if info.ispkg))


def find_facet(kind: str, name: str) -> ModuleType | None:
    """A module of a kind's folder, imported when it is first asked for; None where the kind has no such module."""
    path = f"{PACKAGE}.{kind.replace('-', '_')}"
    if kind not in names() or importlib.util.find_spec(f"{path}.{name}") is None:
        return None
    return importlib.import_module(f"{path}.{name}")


def facet(kind: str, name: str) -> ModuleType:
    """As `find_facet`. Raises UnsupportedModel with the kinds that have such a module."""
    found = find_facet(kind, name)
    if found is None:
        raise UnsupportedModel(f"{name} does not support {kind}; it supports {', '.join(having(name)) or 'nothing'}")
    return found


def having(name: str) -> tuple[str, ...]:
    """The kinds with a module of that name."""
    return tuple(kind for kind in names() if find_facet(kind, name) is not None)


def open_data(
    path: str | Path,
    kind: str | None = None,
    *,
    seed: int = 0,
    splits: bool = True,
    leave_out: frozenset[str] = frozenset(),
    cache: Path | None = None,
    threads: int = 0,
    normalizer: str = "basic",
    progress: Progress = SILENT,
) -> Task:
    """The task of a kind (`Model.task`; None: image classification) on the data at a path, to train or to judge on.

    The options are those of the task's `open`; normalizer: of transcripts. Raises BadData.
    """
    if kind == LANGUAGE_MODELLING and _holds_conversations(Path(path)):
        from .kinds.language_modelling.chats import ChatTask

        chats: Task = ChatTask.open(path, seed=seed, splits=splits, leave_out=leave_out, progress=progress)
        return chats
    if kind == LANGUAGE_MODELLING:
        from .kinds.language_modelling.text import TextTask

        text: Task = TextTask.open(path, seed=seed, splits=splits, leave_out=leave_out, progress=progress)
        return text
    if kind == TRANSCRIPTION:
        from .kinds.transcription.data import TranscriptionTask

        spoken: Task = TranscriptionTask.open(
            path,
            seed=seed,
            splits=splits,
            leave_out=leave_out,
            cache=cache,
            threads=threads,
            normalizer=normalizer,
            progress=progress,
        )
        return spoken
    from .kinds.image_classification.data import ImageTask

    images: Task = ImageTask.open(
        path, seed=seed, splits=splits, leave_out=leave_out, cache=cache, threads=threads, progress=progress
    )
    return images


def _holds_conversations(path: Path) -> bool:
    """Whether a path is a `.jsonl` file, or a folder with such files. Raises BadData where it has `.txt` files too."""
    if path.is_dir():
        chats, texts = (next(path.rglob(f"*.{suffix}"), None) for suffix in ("jsonl", "txt"))
        if chats and texts:
            raise BadData(
                f"{path} holds conversations ({chats.name}) and text ({texts.name}), which are judged differently: give"
                " one of them, in a folder of its own"
            )
        return chats is not None
    return path.suffix.lower() == ".jsonl"
