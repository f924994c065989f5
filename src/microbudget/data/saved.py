"""Data sets as the `datasets` library keeps them: Parquet and Arrow files, saved folders, objects, ids of the hub.

They are unpacked once into the user's cache folder, as the files and lists that microbudget reads anyway: the report
shows photos, players play recordings, and a run is resumed, as with a folder of the user's own. Columns are found by
their feature's type. Nothing is written next to the data.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ..errors import BadData, MissingExtra
from ..machine.files import whole_folder
from ..progress import SILENT, Progress
from .cache import default_folder, failing_clearly
from .splitting import SPLIT_FOLDERS, some, walk

SUFFIXES = (".parquet", ".arrow")
MARKS = ("dataset_dict.json", "state.json")  # of `save_to_disk`
LABELS = ("label", "labels", "label_name", "class", "category")
FILES = (*SUFFIXES, ".txt", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".onnx", ".gguf", ".safetensors")
REVISION = 1  # of what is unpacked
KEY_DIGITS = 16
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(?::[\w.-]+)?")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?(?::[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """A data set and one split of it, such as `--data owner/name --split test`. config: owner/name:config."""

    name: str | Path
    split: str

    def __str__(self) -> str:
        return str(self.name)


@dataclass(frozen=True)
class Columns:
    """What a kind of model reads of a row.

    media: the feature that holds a file, or None for text alone. suffix: of a file that comes without a name.
    texts: names of the column with the text, the first that is there. conversations: lists of columns; a row that has
    all of one is a conversation. rows: all columns are kept, as JSON lines.
    """

    media: Literal["Image", "Audio"] | None
    suffixes: Collection[str] = ()
    suffix: str = ""
    texts: tuple[str, ...] = ()
    conversations: tuple[tuple[str, ...], ...] = ()
    rows: bool = False


def folder_of(data: Any, columns: Columns, progress: Progress = SILENT) -> Path:
    """The folder to read: of plain data the path itself, of a saved data set what it was unpacked to.

    Raises BadData, MissingExtra.
    """
    if not is_saved(data):
        return Path(str(data))
    with tempfile.TemporaryDirectory(prefix="microbudget-") as scratch:
        found = _opened(data, Path(scratch))
        splits = _splits(found, str(data) if isinstance(data, (str, Path, Source)) else "the data set", progress)
        name = [[split, str(part._fingerprint)] for split, part in splits]
        key = hashlib.sha256(json.dumps([REVISION, _identity(data) or name, repr(columns)]).encode()).hexdigest()
        target = default_folder() / "datasets" / key[:KEY_DIGITS]
        if not target.is_dir():
            _unpack(splits, columns, target, progress)
        return target


def is_saved(data: Any) -> bool:
    """Whether data are a data set of the `datasets` library, by their type, their file's name or their folder."""
    if isinstance(data, Source):
        return True
    if not isinstance(data, (str, Path)):
        return type(data).__module__.split(".")[0] == "datasets"
    path = Path(data)
    if path.is_dir():
        return any((path / name).is_file() for name in MARKS) or next(_tables(path), None) is not None
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return isinstance(data, str) and _HUB_ID.fullmatch(data) is not None and not is_path(data) and _library_is_there()


def is_path(name: str) -> bool:
    """Whether a name of nothing that is there is a mistyped path, for which the hub is not asked.

    It begins as a path, its folder is there, or it ends as a file.
    """
    if name.startswith((".", "~", "/", "\\")):
        return True
    path = Path(name)
    return (len(path.parts) > 1 and path.parent.exists()) or path.suffix.lower() in FILES


def no_such_path(name: str) -> str:
    """The message about a mistyped path."""
    parent = Path(name).parent
    there = f"; {parent} is there, so the hub is not asked for it" if parent.name and parent.exists() else ""
    return f"there is no folder or file {name}: check the path{there}"


def _tables(folder: Path) -> Iterator[Path]:
    """Parquet and Arrow files where repositories of the hub have them: in the folder, or one deeper."""
    return (path for suffix in SUFFIXES for depth in ("", "*/") for path in folder.glob(f"{depth}*{suffix}"))


def _library_is_there() -> bool:
    import importlib.util

    return importlib.util.find_spec("datasets") is not None


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("Parquet, Arrow and data sets need datasets: pip install 'microbudget[data]'") from error
    datasets.disable_progress_bars()
    return datasets


def _identity(data: Any) -> list[Any] | None:
    """Of files: their names, sizes and times; None where the data set's own fingerprint has to do."""
    split = data.split if isinstance(data, Source) else None
    name = data.name if isinstance(data, Source) else data
    if not isinstance(name, (str, Path)) or not Path(name).exists():
        return None
    root = Path(name)
    files = [root] if root.is_file() else [path for path in walk(root) if path.suffix in (*SUFFIXES, ".json")]
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [split, stamps]


def _opened(data: Any, scratch: Path) -> Any:
    """The Dataset or DatasetDict. scratch: for the library's own copies of what it reads."""
    library = _library()
    if not isinstance(data, (str, Path, Source)):
        return data
    name, split = (data.name, data.split) if isinstance(data, Source) else (data, None)
    path = Path(name)
    try:
        if path.is_dir() and any((path / mark).is_file() for mark in MARKS):
            found = library.load_from_disk(str(path))
            return found if split is None else _chosen(found, split, path)
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            builder, files = path.suffix.lower().removeprefix("."), {"data_files": str(path), "split": split or "train"}
            return library.load_dataset(builder, cache_dir=str(scratch), **files)
        if path.is_dir():
            return library.load_dataset(str(path.resolve()), split=split, cache_dir=str(scratch))
        if not path.exists() and is_path(str(name)):
            raise BadData(no_such_path(str(name)))
        if path.exists() or not _HUB_NAME.fullmatch(str(name)):
            raise BadData(f"{name} has no splits to choose from: give Parquet, Arrow, a saved folder or a hub id")
        owner, _, config = str(name).partition(":")
        return library.load_dataset(owner, config or None, split=split)
    except BadData:
        raise
    except Exception as error:  # of the hub's client, pyarrow, the file system: it has its own words for each
        hint = "" if path.exists() else f"there is no folder or file {name}, and as a data set of the hub "
        raise BadData(f"{hint}{name} cannot be opened: {str(error).strip() or type(error).__name__}") from error


def _chosen(found: Any, split: str, path: Path) -> Any:
    if not isinstance(found, Mapping) or split not in found:
        there = ", ".join(found) if isinstance(found, Mapping) else "no splits"
        raise BadData(f"{path} has {there}, not the split {split!r}")
    return found[split]


def _splits(found: Any, name: str, progress: Progress) -> list[tuple[str, Any]]:
    """The parts with their folders' names: "" for one that is no split. Raises BadData without a known split."""
    if not isinstance(found, Mapping):
        return [("", found)]
    if len(found) == 1:
        return [("", part) for part in found.values()]
    known = [(SPLIT_FOLDERS[key.lower()], part) for key, part in found.items() if key.lower() in SPLIT_FOLDERS]
    if not known or len(dict(known)) < len(known):
        raise BadData(f"{name} has the splits {', '.join(found)}: choose one with --split")
    if left := [key for key in found if key.lower() not in SPLIT_FOLDERS]:
        progress.warn(f"{some(left)} in {name}: not used, because of the splits {', '.join(dict(known))}; see --split")
    return known


def _unpack(splits: Sequence[tuple[str, Any]], columns: Columns, target: Path, progress: Progress) -> None:
    """Write all files; the folder appears when it is complete."""
    write = _rows if columns.rows else _conversations_or_text if columns.media is None else _media
    with failing_clearly(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if target.is_dir():  # another process was faster
                return
            with whole_folder(target) as made:
                for split, part in splits:
                    write(split, part, columns, made, progress)


def _media(split: str, part: Any, columns: Columns, out: Path, progress: Progress) -> None:
    """A file for each row, and a list with labels or texts."""
    library = _library()
    place = out / split
    place.mkdir(parents=True, exist_ok=True)
    media = _one(part, lambda feature: type(feature).__name__ == columns.media, f"of the type {columns.media}")
    read = _label(part, library) if columns.media == "Image" else _text(part, columns.texts)
    rows = part.cast_column(media, getattr(library, str(columns.media))(decode=False))
    with (place / "metadata.jsonl").open("w", encoding="utf-8") as stream:
        for number, row in enumerate(progress.track(rows, f"unpacking {split or 'rows'}", len(rows))):
            file = row[media] or {}
            ending = Path(file.get("path") or "").suffix.lower()
            name = f"{number:07}{ending if ending in columns.suffixes else columns.suffix}"
            (place / name).write_bytes(_content(file, number))
            stream.write(json.dumps({"file_name": name, **read(row)}, ensure_ascii=False) + "\n")


def _content(file: Mapping[str, Any], number: int) -> bytes:
    """The bytes of a file that a row holds or names."""
    if file.get("bytes") is not None:
        return bytes(file["bytes"])
    path = file.get("path")
    if not path:
        return b""  # reported as a file that cannot be read
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadData(f"row {number} of the data set names the file {path}: {error.strerror or error}") from error


def _label(part: Any, library: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """How the label of a row is read: of the column of classes, else of one with a label's name."""
    classes = [name for name, feature in part.features.items() if isinstance(feature, library.ClassLabel)]
    named = [name for name in LABELS if name in part.features]
    if len(classes) > 1:
        classes = [name for name in classes if name in LABELS[:2]] or classes
    if len(classes) > 1:
        raise BadData(f"the data set has the columns of classes {', '.join(classes)}: keep one (remove_columns)")
    if not classes and not named:
        have = ", ".join(part.features)
        raise BadData(f"the data set has no column of classes, and none called {', '.join(LABELS)}; it has {have}")
    column = (classes or named)[0]
    if not classes:
        return lambda row: {"label": row[column]}
    names = part.features[column].names

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        index = row[column]
        return {"label": None} if index is None or index < 0 else {"label": index, "label_name": names[index]}

    return read


def _text(part: Any, names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """How the text of a row is read; of a data set without any, nothing."""
    named = next((name for name in names if name in part.features), None)
    strings = [name for name, feature in part.features.items() if getattr(feature, "dtype", None) == "string"]
    column = named or (strings[0] if len(strings) == 1 else None)
    if column is None and strings:
        raise BadData(f"the data set has the columns {', '.join(strings)}: call the one with the text {names[0]!r}")
    return lambda row: {names[0]: row[column] if column is not None else None}


def _one(part: Any, wanted: Callable[[Any], bool], what: str) -> str:
    found = [name for name, feature in part.features.items() if wanted(feature)]
    if len(found) != 1:
        have = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in part.features.items())
        raise BadData(f"the data set has {len(found) or 'no'} columns {what}, one is needed; it has {have}")
    return str(found[0])


def _conversations_or_text(split: str, part: Any, columns: Columns, out: Path, progress: Progress) -> None:
    """Conversations as JSON lines, texts one below the other."""
    name = split or "data"
    rows = progress.track(part, f"unpacking {name}", len(part))
    if "text" not in part.features and any(set(row) <= set(part.features) for row in columns.conversations):
        with (out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, default=str) + "\n")  # columns that are not read hold anything
        return
    read = _text(part, columns.texts)
    with (out / f"{name}.txt").open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            text = read(row)[columns.texts[0]]
            stream.write(f"{text or ''}\n")


def _rows(split: str, part: Any, _columns: Columns, out: Path, progress: Progress) -> None:
    """Every row as a JSON line; classes by their names, and none where the row has no class."""
    name = split or "data"
    classes = {
        column: feature.names for column, feature in part.features.items() if isinstance(feature, _library().ClassLabel)
    }
    with (out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
        for row in progress.track(part, f"unpacking {name}", len(part)):
            named = {
                column: None if row[column] is None or row[column] < 0 else names[row[column]]
                for column, names in classes.items()
            }
            stream.write(json.dumps({**row, **named}, ensure_ascii=False, default=str) + "\n")
