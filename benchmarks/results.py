"""What a benchmark has measured so far: rows by key in a JSON file, so that a call goes on where the last one ended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from microbudget.machine import files


class Results:
    """Saved at every change; several processes may measure parts of one benchmark at once."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, FileLock(path.with_suffix(".lock"))
        self.rows: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}

    def get(self, key: str, stamp: str | None = None) -> Any:
        """The row of a key; None where there is none, or where it was made by other sources than the stamp says."""
        row = self.rows.get(key)
        return row if row is not None and (stamp is None or row["stamp"] == stamp) else None

    def put(self, key: str, row: Any, stamp: str | None = None) -> None:
        """Keep a row, with what other processes have put there meanwhile, and print it."""
        kept = row if stamp is None else {**row, "stamp": stamp}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self.rows = {**self._read(), key: kept}
            files.write_text(self.path, json.dumps(self.rows, indent=1, sort_keys=True))
        print(key, json.dumps(row)[:300], file=sys.stderr, flush=True)

    def fill(self, key: str, make: Callable[[], Any], deadline: float) -> bool:
        """Make a row unless it is there without a failure; whether the time (of `time.monotonic`) is up before it."""
        row = self.rows.get(key)
        if row is not None and "failure" not in row:
            return False
        if time.monotonic() > deadline:
            print(f"the time is up before {key}: the same call goes on", file=sys.stderr)
            return True
        self.put(key, make())
        return False

    def parts(self) -> dict[str, dict[str, Any]]:
        """The rows of keys `PART/NAME`, by part and name."""
        found: dict[str, dict[str, Any]] = {}
        for key, row in self.rows.items():
            part, _, name = key.partition("/")
            found.setdefault(part, {})[name] = row
        return found
