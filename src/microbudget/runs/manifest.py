"""Manifest: which examples a run was made with, and what has changed in them since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data.folders import some
from ..machine import files
from ..task import Split, Task

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "unlabelled")
MOST_CHANGED = 0.5  # of the examples: with more it is another data set in the same place


@dataclass(frozen=True)
class Entry:
    """An example: its split, the hash of its content, its label."""

    split: str
    key: str
    label: int | None


@dataclass(frozen=True)
class Manifest:
    """The examples of a data set by their names."""

    labels: tuple[str, ...]
    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, task: Task) -> Manifest:
        """Of all splits of a task."""
        return cls(
            tuple(task.labels),
            {each.name: Entry(split, each.key, each.label) for split in SPLITS for each in task.examples(split)},
        )

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """From a run; None where it has none that can be read."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(stored["labels"]), {name: Entry(*row) for name, row in stored["examples"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, path: Path) -> None:
        """Write it into a run."""
        rows = {name: (entry.split, entry.key, entry.label) for name, entry in self.entries.items()}
        files.write_text(path, json.dumps({"labels": self.labels, "examples": rows}, ensure_ascii=False))

    def label_of(self, name: str) -> str | None:
        """The label of an example as a person knows it; its number where the task names none."""
        label = self.entries[name].label
        return None if label is None else self.labels[label] if label < len(self.labels) else str(label)


@dataclass(frozen=True)
class Changes:
    """What has changed between two manifests, by the names of examples."""

    total: int  # examples before
    contents: tuple[str, ...]  # the name has another content
    vanished: tuple[str, ...]
    appeared: tuple[str, ...]
    renamed: tuple[str, ...]  # "old to new": another name for the same content
    relabelled: tuple[str, ...]
    moved: int  # into another split, with the same content

    @classmethod
    def between(cls, before: Manifest | None, after: Manifest) -> Changes | None:
        """None without a manifest of before."""
        if before is None:
            return None
        old, new = before.entries, after.entries
        both = [name for name in old if name in new]
        same = [name for name in both if old[name].key == new[name].key]
        gone, come = [name for name in old if name not in new], [name for name in new if name not in old]
        names = {new[name].key: name for name in come}
        renamed = {name: names[old[name].key] for name in gone if old[name].key in names}
        return cls(
            total=len(old),
            contents=tuple(name for name in both if old[name].key != new[name].key),
            vanished=tuple(name for name in gone if name not in renamed),
            appeared=tuple(name for name in come if name not in renamed.values()),
            renamed=tuple(f"{name} to {there}" for name, there in renamed.items()),
            relabelled=tuple(name for name in same if before.label_of(name) != after.label_of(name)),
            moved=sum(old[name].split != new[name].split for name in same),
        )

    @property
    def only_moved(self) -> bool:
        """Whether the examples are the same in other splits."""
        return bool(self.moved) and not any((self.contents, self.vanished, self.appeared, self.relabelled))

    @property
    def small(self) -> bool:
        """Whether it is still the same data set."""
        return len(self.contents) + len(self.vanished) + len(self.appeared) <= MOST_CHANGED * self.total

    def __str__(self) -> str:
        """A clause: "2 of 90 examples have changed (a.jpg, b.jpg), 1 is gone (c.jpg)"."""
        parts = [
            _part(self.contents, "has another content", "have other contents"),
            _part(self.vanished, "is gone", "are gone"),
            _part(self.appeared, "is new", "are new"),
            _part(self.renamed, "is renamed", "are renamed"),
            _part(self.relabelled, "has another label", "have other labels"),
        ]
        said = [part for part in parts if part]
        if not said:
            said = ["the files are the same, and are read otherwise (transcripts, normalizer, number of passages)"]
        if self.moved:
            said.append(f"{self.moved} others are in another split")
        return f"of {self.total} examples " + ", ".join(said) if any(parts) else ", ".join(said)


def _part(names: Iterable[str], one: str, several: str) -> str:
    listed = list(names)
    return f"{len(listed)} {one if len(listed) == 1 else several} ({some(listed)})" if listed else ""
