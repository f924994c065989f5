"""Text or conversations as a Task, by the files at a path."""

from __future__ import annotations

from pathlib import Path

from ...data import saved
from ...errors import BadData
from ...task import DataOptions
from .chats import ChatTask
from .text import TextTask

COLUMNS = saved.Columns(None, texts=("text", "content", "sentence"))


def open_task(path: str | Path, options: DataOptions) -> TextTask | ChatTask:
    """The task of `.txt` files, of conversations in `.jsonl` files, or of a saved data set. Raises BadData."""
    path = saved.folder_of(path, COLUMNS, options.progress)
    if _holds_conversations(path):
        return ChatTask.open(path, options)
    return TextTask.open(path, options)


def _holds_conversations(path: Path) -> bool:
    """Whether a path is a `.jsonl` file, or a folder with such files. Raises BadData where it has `.txt` files too."""
    if path.is_dir():
        chats, texts = (next(path.rglob(f"*.{suffix}"), None) for suffix in ("jsonl", "txt"))
        if chats and texts:
            raise BadData(
                f"{path} holds conversations ({chats.name}) and text ({texts.name}), which are judged differently: give"
                " one of them, in its own folder"
            )
        return chats is not None
    return path.suffix.lower() == ".jsonl"
