"""Progress: what is said once, whole and on the right stream."""

from __future__ import annotations

import io

from microbudget.progress import Progress


def test_a_warning_is_said_once() -> None:
    """Every level of a model has the same to say."""
    stream = io.StringIO()
    progress = Progress(stream)
    for size in (8, 4, 4):
        progress.warn("no matrix")
        progress.warn(f"{size} tensors have odd rows", about="odd rows")
        progress.say_once(f"level {size}")
    assert stream.getvalue().splitlines() == [
        "warning: no matrix",
        "warning: 8 tensors have odd rows",
        "level 8",
        "level 4",
    ]
