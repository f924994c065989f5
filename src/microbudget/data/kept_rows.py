"""Rows that were computed from examples, on disk by the examples' keys: other examples do not void them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..machine.files import open_whole

Rows = NDArray[Any]


class KeptRows:
    """A folder with a file for each list of keys that was asked for; a file that exists is complete.

    All rows in a folder were computed in the same way. Of a new list only the keys that no file has are computed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, keys: Sequence[str]) -> bool:
        """Whether all of them are here."""
        return self._path(keys).is_file() or set(keys) <= {key for there, _ in self._stored() for key in there}

    def complete(self, keys: Sequence[str], compute: Callable[[list[int]], Rows]) -> Rows:
        """The rows (keys, ...). compute: gives those of the places in `keys` that are not here; they are kept."""
        return self.complete_in_parts(keys, lambda places: iter([compute(places)]), kept=False)

    def complete_in_parts(
        self, keys: Sequence[str], compute: Callable[[list[int]], Iterator[Rows]], *, kept: bool = True
    ) -> Rows:
        """As `complete`, of rows that take long: compute gives them part by part, in the order of the places.

        kept: each part is on disk as soon as it is computed, so that a kill loses one.
        """
        path = self._path(keys)
        if path.is_file():
            return _array(path, "rows")
        found = self._found(keys)
        missing = [place for place, key in enumerate(keys) if key not in found]
        done = 0
        for rows in compute(missing) if missing else ():
            part = [keys[place] for place in missing[done : done + len(rows)]]
            found |= zip(part, rows, strict=True)
            done += len(rows)
            if kept:
                _write(self._path(part), part, rows)
        rows = np.array([found[key] for key in keys])
        _write(path, keys, rows)
        return rows

    def _found(self, keys: Sequence[str]) -> dict[str, Any]:
        """Each of the keys that a file has, with its row."""
        wanted = set(keys)
        found: dict[str, Any] = {}
        for there, path in self._stored():
            places = [place for place, key in enumerate(there) if key in wanted and key not in found]
            if places:
                found |= zip((there[place] for place in places), _array(path, "rows")[places], strict=True)
        return found

    def _stored(self) -> Iterator[tuple[list[str], Path]]:
        for path in sorted(self._folder.glob("*.npz")):
            with contextlib.suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # damaged
                yield _array(path, "keys").tolist(), path

    def _path(self, keys: Sequence[str]) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:24]}.npz"


def _write(path: Path, keys: Sequence[str], rows: Rows) -> None:
    with open_whole(path, same_bytes=True) as stream:
        np.savez(stream, keys=np.array(keys), rows=rows)


def _array(path: Path, name: str) -> Rows:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:  # numpy leaves damaged files open
        rows: Rows = stored[name]
    return rows
