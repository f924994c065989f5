"""Passages: a text file in pieces of about equal length, each cut at the beginning of a line if possible.

The place of a cut depends only on the bytes around it, so that a file of any size is never read as a whole, and the
same text gives the same pieces for every tokenizer. A passage is read alone: its first part is the context in which the
rest is judged, so that every byte is read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...data.metadata import refuse_wide
from ...errors import BadData

UTF8_MARK = b"\xef\xbb\xbf"
NEWLINES, SPACES = b"\n", b" \t\r\n"
LONGEST = 4  # bytes of a character in UTF-8
LEAD = 4  # the first quarter of a passage is read and not judged


@dataclass(frozen=True)
class Passage:
    """Bytes of a file, from `start` to `end`."""

    path: Path
    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class TextFile:
    """A file of text, cut into passages of about `stride` bytes."""

    path: Path
    size: int
    stride: int
    start: int = 0  # after the byte order mark that some editors write

    @classmethod
    def open(cls, path: Path, stride: int) -> TextFile:
        """Check a file's beginning. Raises BadData for one that is empty or no text."""
        try:
            size = path.stat().st_size
            with path.open("rb") as stream:
                head = stream.read(4096)
        except OSError as error:
            raise BadData(f"{path} cannot be read: {error.strerror or error}") from error
        refuse_wide(head[:4], path)
        start = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
        if not head[start:].strip():
            raise BadData(f"{path} is {'empty' if size == start else 'blank at its beginning'}: give a text to read")
        _check_text(head[: _whole(head)], path, 0)
        return cls(path, size, stride, start)

    @property
    def count(self) -> int:
        """The number of passages; the last is at most 1.5 strides long."""
        return max(1, round((self.size - self.start) / self.stride))

    def passage(self, index: int) -> Passage:
        """One of `count` passages; together they are the file."""
        end = self.size if index == self.count - 1 else self._border(index + 1)
        return Passage(self.path, self._border(index), end)

    def judged(self, passage: Passage) -> Passage:
        """The part of a passage that is judged: all of it where the file begins, else what follows its context."""
        if passage.start == self.start:
            return passage
        length = passage.length // LEAD
        place = self._cut(passage.start + length, length) if length else passage.start
        return Passage(self.path, min(place, passage.end), passage.end)

    def _border(self, index: int) -> int:
        return self.start if index == 0 else self._cut(self.start + index * self.stride, self.stride // 2)

    def _cut(self, place: int, reach: int) -> int:
        """The first beginning of a line from `place` on, within `reach` bytes; else of a word; else of a character."""
        with self.path.open("rb") as stream:
            stream.seek(place - 1)
            around = stream.read(1 + max(reach, LONGEST - 1))
        for marks in (NEWLINES, SPACES):
            found = [
                at for at in (around.find(mark, 0, reach + 1) for mark in (bytes([byte]) for byte in marks)) if at >= 0
            ]
            if found:
                return place + min(found)
        inside = 0
        while inside < min(LONGEST - 1, len(around) - 1) and around[1 + inside] & 0xC0 == 0x80:
            inside += 1
        return place + inside


def read(passage: Passage) -> bytes:
    """The bytes of a passage. Raises BadData when they are no UTF-8 text."""
    with passage.path.open("rb") as stream:
        stream.seek(passage.start)
        raw = stream.read(passage.length)
    if len(raw) < passage.length:
        raise BadData(f"{passage.path} became shorter during reading")
    _check_text(raw, passage.path, passage.start)
    return raw


def _check_text(raw: bytes, path: Path, offset: int) -> None:
    if b"\0" in raw:
        raise BadData(f"{path} is binary (a zero byte at {offset + raw.index(0)}): give a text")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadData(
            f"{path} is no UTF-8 text (byte {offset + error.start}): convert it (iconv -f latin1 -t utf-8)"
        ) from error


def _whole(head: bytes) -> int:
    """The number of bytes up to the end of the last whole character."""
    for back in range(1, min(4, len(head)) + 1):
        byte = head[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character
            length = 1 if byte < 0x80 else 2 if byte >> 5 == 6 else 3 if byte >> 4 == 14 else 4
            return len(head) if length <= back else len(head) - back
    return len(head)
