"""Tables on the terminal, in one style."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Prints to stdout; numbers get no colours of their own."""
    return Console(highlight=False, soft_wrap=False)


TO_THE_LEFT = ("recipe", "what it does", "formats", "default", "meaning")


def table(*columns: str, title: str | None = None) -> Table:
    """A table without lines: the first column, recipes and words to the left, numbers to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 or column in TO_THE_LEFT else "right", overflow="fold")
    return made
