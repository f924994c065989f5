from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from microbudget.errors import BrokenModel, DiskFull
from microbudget.machine import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_complete_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "größe.json"
    with pytest.raises(TypeError), files.open_whole(path) as stream:
        stream.writelines([b"half", 0])  # type: ignore[list-item]
    assert names(path.parent) == []
    with files.open_whole(path, durable=True) as stream:
        stream.write(b"whole")
        stream.flush()
        assert not path.exists()
        assert all(name.endswith(files.TEMPORARY) for name in names(path.parent))
    assert path.read_bytes() == b"whole"
    with pytest.raises(ValueError, match="no"), files.open_whole(path) as stream:
        raise ValueError("no")
    assert path.read_bytes() == b"whole"
    files.write_text(path, "ä\n")
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert names(path.parent) == [path.name]


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with files.open_whole(path) as first:
        files.write_bytes(path, b"second")
        first.write(b"first")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_a_folder_is_complete_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "store" / "step"
    with pytest.raises(FileNotFoundError), files.whole_folder(path) as partial:
        shutil.copyfile(tmp_path / "none", partial / "half")
    assert names(path.parent) == []
    for content in ("one", "two"):
        with files.whole_folder(path) as partial:
            (partial / content).touch()
        assert names(path) == [content]
    assert names(path.parent) == ["step"]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best"
    path.mkdir()
    (path / "old").touch()
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(files.TEMPORARY):
            raise PermissionError(errno.EACCES, "in use")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), files.whole_folder(path) as partial:
        (partial / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["best"]


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Killed between its two renames, with a new folder half done before that."""
    path = tmp_path / "best"
    (tmp_path / f"{files.REPLACED}best").mkdir()
    (tmp_path / f"{files.REPLACED}best" / "old").touch()
    (tmp_path / f"{files.TEMPORARY}-best").mkdir()
    (tmp_path / f"{files.TEMPORARY}-best" / "half").touch()
    with pytest.raises(FileNotFoundError), files.whole_folder(path) as partial:
        (partial / "half").rename(tmp_path / "other")  # it is not the killed process's folder
    assert names(path) == ["old"]
    assert names(tmp_path) == ["best"]


def test_which_errors_say_that_the_disk_is_full() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    over = RuntimeError("cannot write")
    over.__cause__ = full
    diverged = BrokenModel("it diverged")
    diverged.__cause__ = full
    rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert all(map(files.is_disk_full, (full, over, rust)))
    others = (
        OSError(errno.EACCES, "no"),
        RuntimeError("no"),
        diverged,
        SafetensorError("Error while serializing: NaN"),
    )
    assert not any(map(files.is_disk_full, others))
    with pytest.raises(DiskFull, match="free some"), files.explain_full_disk("free some"):
        raise over
