"""What the page and a kind's `trying.py` have in common: a medium, its limits, and a model's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from ..judge.worker import Worker
from ..kind import facet
from ..model import Model

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Medium:
    """What is put in. component: how the page takes it; right: what is right of it, as the page asks for it."""

    noun: str
    component: Literal["photo", "recording", "text"]
    right: str
    largest_bytes: int  # of an upload, or of a text
    writes: bool = False  # an answer takes a while, and is shown as it comes
    placeholder: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model answers, or has written so far. seconds: of the model alone, without what is prepared for it."""

    text: str = ""
    labels: tuple[tuple[str, float], ...] = ()  # with probabilities, the most likely first
    picture: bytes = b""  # PNG: the input as the model sees it
    about_picture: str = ""
    seconds: float = 0.0
    speed: str = ""  # where seconds alone say little
    failure: str = ""
    note: str = ""
    going: bool = False  # more of it follows

    @property
    def short(self) -> str:
        """The label, or the text."""
        return self.labels[0][0] if self.labels else self.text


class Part(Protocol):
    """A kind's `trying.py`."""

    MEDIUM: Medium

    def check(self, given: str) -> None:
        """Raise BadData for an input that nobody should open: too large, too long, or not of the medium."""
        ...

    def answers(self, worker: Worker, model: Model, given: str) -> Iterator[Answer]:
        """The answer; a text that is written piece by piece comes in pieces, each with all of it so far."""
        ...

    def keep(self, folder: Path, given: str, right: str) -> Path:
        """Keep an input with what is right of it, in a layout that is DATA of the kind. Returns the file."""
        ...


def part_of(kind: str) -> Part:
    """A kind's `trying.py`. Raises UnsupportedModel with the kinds that have one."""
    module: ModuleType = facet(kind, "trying")
    return module


def warm(part: Part, worker: Worker, model: Model) -> None:
    """Let a model answer something once, where the kind has something."""
    function: Callable[[Worker, Model], None] | None = getattr(part, "warm", None)
    if function is not None:
        function(worker, model)


def called(part: Part, recipe: str) -> str:
    """What a kind calls the models of some recipes; "" where it has no name of its own."""
    name: Callable[[str], Any] | None = getattr(part, "name_of", None)
    return "" if name is None else str(name(recipe))
