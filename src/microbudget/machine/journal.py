"""Journal: what a long step has found so far, each part on disk as soon as it is known: a kill costs one part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import files

T = TypeVar("T")


class Journal:
    """Values by name, as lines of JSON: numbers come back to the bit. Without a path nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        if path is not None and path.is_file():
            self._read(path)

    @property
    def lasts(self) -> bool:
        """Whether what it has outlives the process."""
        return self._path is not None

    def _read(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        *whole, rest = text.split("\n")  # a text may hold U+2028, where splitlines would cut
        for line in whole:
            try:
                name, value = json.loads(line)
            except ValueError:  # of a disk that was full
                continue
            self._values[name] = value
        if rest:  # a kill cut the last line short: the next must not continue it
            files.write_text(path, "".join(f"{line}\n" for line in whole))

    def value(self, name: str, find: Callable[[], T]) -> T:
        """The value that the journal has, else the one that `find` finds: JSON-ready, and kept from now on."""
        if name in self._values:
            known: T = self._values[name]
            return known
        found = find()
        self._values[name] = found
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with (
                files.explain_full_disk(f"no space left for {self._path}"),
                self._path.open("a", encoding="utf-8") as f,
            ):
                f.write(json.dumps([name, found]) + "\n")
        return found
