"""Text, conversations or questions as a Task, by the files at a path."""

from __future__ import annotations

from pathlib import Path

from ...data import saved
from ...errors import BadData
from ...task import DataOptions
from .chats import ChatTask, files
from .layouts import COLUMNS_OF_A_ROW
from .questions.task import QuestionTask, are_questions
from .secondary import with_questions
from .text import TextTask

COLUMNS = saved.Columns(None, texts=("text", "content", "sentence"), conversations=COLUMNS_OF_A_ROW)


def open_task(path: str | Path, options: DataOptions) -> TextTask | ChatTask | QuestionTask:
    """The task of `.txt` files, of conversations or questions in JSON lines, or of a saved data set.

    With `questions` in the options, these are asked too; with a limit in points they are what decides. Raises BadData,
    InvalidOption.
    """
    task = _open(path, options)
    return task if options.questions is None else with_questions(task, options.questions, options)


def _open(path: str | Path, options: DataOptions) -> TextTask | ChatTask | QuestionTask:
    given, path = path, saved.folder_of(path, COLUMNS, options.progress)
    if path == Path(str(given)) and are_questions(files(path)):  # what was unpacked holds conversations
        _refuse_text(path, "questions")
        return QuestionTask.open(path, options)
    if _holds_conversations(path):
        return ChatTask.open(path, options)
    return TextTask.open(path, options)


def _holds_conversations(path: Path) -> bool:
    """Whether a path has files of conversations. Raises BadData where it has `.txt` files too."""
    if not files(path):
        return False
    _refuse_text(path, "conversations")
    return True


def _refuse_text(path: Path, what: str) -> None:
    if path.is_dir() and (text := next(path.rglob("*.txt"), None)):
        raise BadData(
            f"{path} holds {what} ({files(path)[0].name}) and text ({text.name}), which are judged differently: give"
            " one of them, in its own folder"
        )
