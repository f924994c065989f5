"""Questions with a text or conversations. One of the two decides, and the other is secondary."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ...errors import InvalidOption
from ...task import DataOptions
from .chats import ChatTask
from .questions.task import QuestionTask
from .text import TextTask


def with_questions(
    task: TextTask | ChatTask | QuestionTask, file: Path, options: DataOptions
) -> TextTask | ChatTask | QuestionTask:
    """The task with the questions of a file; these decide, and the task is secondary, where the limit is in points.

    Whatever learns, learns from the task: all questions are evidence. Raises BadData, InvalidOption.
    """
    if isinstance(task, QuestionTask):
        raise InvalidOption(
            f"the data are questions already ({task.root}): give text or conversations with --questions"
        )
    asked = QuestionTask.open(file, replace(options, use="nothing"))
    if options.limit is None or options.limit.relative:
        return replace(task, secondary=asked, questions=file)
    both = hashlib.sha256(f"{asked.fingerprint} {task.fingerprint}".encode()).hexdigest()[:16]
    return replace(
        asked, root=task.root, fingerprint=both, use=task.use, warnings=task.warnings, secondary=task, questions=file
    )
