"""How much sound a file's header promises, against how much the file holds.

A program that writes into a pipe cannot go back to write the length: ffmpeg leaves 0xFFFFFFFF, sox 0x7FFFF000, others
0x80000000 or 0, and a FLAC then has no number of samples. Such a length means "up to the end of the file". libsndfile
knows some of these values, reads others as an empty file, and takes a file that was cut off for a shorter one.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MISCOUNTED = 128  # bytes: some programs count the header too, which is no missing sound
_UNKNOWN_32 = (range(0, 1), range(0x7FFF_E000, 0x8000_1000), range(0xFFFF_E000, 0x1_0000_0000))
_BEYOND = 1 << 62  # no file has as many bytes
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a"
_W64_HEADER = 24  # bytes of a chunk's name and size, which the size counts too


@dataclass(frozen=True)
class Extent:
    """Bytes of samples. promised: None where the header says that the file goes on up to its end."""

    promised: int | None
    held: int
    patches: tuple[tuple[int, bytes], ...] = ()  # of the header: what libsndfile has to read in its place

    @property
    def cut_off(self) -> bool:
        """Whether the file ends before its header says so."""
        return self.promised is not None and self.promised > self.held + MISCOUNTED


class Patched(io.RawIOBase):
    """A stream, some of whose bytes are others. It stays open when this one is closed."""

    def __init__(self, stream: BinaryIO, patches: tuple[tuple[int, bytes], ...]) -> None:
        self._stream, self._patches = stream, patches

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` has it."""
        view = memoryview(buffer).cast("B")
        start = self._stream.tell()
        found = self._stream.read(len(view))
        view[: len(found)] = found
        for place, patch in self._patches:
            first, last = max(place, start), min(place + len(patch), start + len(found))
            if first < last:
                view[first - start : last - start] = patch[first - place : last - place]
        return len(found)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As `io.RawIOBase` has it."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As `io.RawIOBase` has it."""
        return self._stream.tell()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True


def extent(stream: BinaryIO) -> Extent | None:
    """What the header of a WAV, RF64, W64, AU, AIFF or CAF promises; None for other formats, and without a header.

    The stream is left at its beginning.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(32)
    try:
        found = _extent(stream, head, size)
    except struct.error:  # the header itself is cut off: libsndfile has its own words for that
        found = None
    stream.seek(0)
    return found


def _extent(stream: BinaryIO, head: bytes, size: int) -> Extent | None:
    name, form = head[:4], head[8:12]
    if name in (b"RIFF", b"RIFX") and form == b"WAVE":
        return _wav(stream, size, "<" if name == b"RIFF" else ">")
    if name == b"RF64" and form == b"WAVE":
        return _rf64(stream, size)
    if name == b"riff" and head[24:28] == b"wave":
        return _wave64(stream, size)
    if name in (b".snd", b"dns."):
        return _au(head, size, ">" if name == b".snd" else "<")
    if name == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _aiff(stream, size)
    return _caf(stream, size) if name == b"caff" else None


def _chunks(stream: BinaryIO, start: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the content and size of each chunk of the formats of the IFF family, up to the one that overruns.

    A chunk whose size is 0 is passed over.
    """
    place = start
    while place + 8 <= end:
        stream.seek(place)
        name, length = struct.unpack(f"{order}4sI", stream.read(8))
        yield name, place + 8, length
        place += 8 + length + length % 2


def _wav(stream: BinaryIO, size: int, order: str) -> Extent | None:
    for name, place, length in _chunks(stream, 12, size, order):
        if name == b"data":
            held = size - place
            if not _is_unknown(length, held) or (length == 0 and _is_chunks(stream, place, size, order)):
                return Extent(length, held)
            return Extent(None, held, ((place - 4, struct.pack(f"{order}I", min(held, 0xFFFF_FFFF))),))
    return None


def _is_unknown(length: int, held: int) -> bool:
    return length != held and any(length in values for values in _UNKNOWN_32)


def _is_chunks(stream: BinaryIO, place: int, size: int, order: str) -> bool:
    """Whether nothing but whole chunks follows, as behind a recording that really is empty."""
    end = place
    for name, start, length in _chunks(stream, place, size, order):
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        end = start + length
    return end in (size, size + 1) or (place == size)


def _rf64(stream: BinaryIO, size: int) -> Extent | None:
    """The sizes of 64 bits stand in a chunk of their own, ds64: of the file, of the samples, and their number."""
    sizes, align = None, 0
    for name, place, length in _chunks(stream, 12, size, "<"):
        stream.seek(place)
        if name == b"ds64":
            sizes = place + 8
        elif name == b"fmt ":
            align = struct.unpack("<12xH", stream.read(14))[0]
        elif name == b"data":
            held, promised = size - place, length
            if sizes is not None and length == 0xFFFF_FFFF:
                stream.seek(sizes)
                (promised,) = struct.unpack("<Q", stream.read(8))
            if sizes is None or 0 < promised < _BEYOND:
                return Extent(promised, held)
            frames = held // align if align else 0
            return Extent(None, held, ((sizes - 8, struct.pack("<QQQ", size - 8, held, frames)),))
    return None


def _wave64(stream: BinaryIO, size: int) -> Extent | None:
    place = 40
    while place + _W64_HEADER <= size:
        stream.seek(place)
        name, length = struct.unpack("<16sQ", stream.read(_W64_HEADER))
        held = size - place - _W64_HEADER
        if name == _W64_DATA:
            if _W64_HEADER < length < _BEYOND:
                return Extent(length - _W64_HEADER, held)
            return Extent(None, held, ((place + 16, struct.pack("<Q", held + _W64_HEADER)),))
        place += max(_W64_HEADER, (min(length, _BEYOND) + 7) // 8 * 8)
    return None


def _au(head: bytes, size: int, order: str) -> Extent:
    start, length = struct.unpack(f"{order}II", head[4:12])
    held = max(0, size - start)
    if _is_unknown(length, held):
        return Extent(None, held, ((8, b"\xff" * 4),))
    return Extent(length, held)


def _aiff(stream: BinaryIO, size: int) -> Extent | None:
    for name, place, length in _chunks(stream, 12, size, ">"):
        if name == b"SSND":
            held = size - place - 8  # an offset and a block size stand before the samples
            if length == 8 or _is_unknown(length, held + 8):
                return Extent(None, held, ((place - 4, struct.pack(">I", min(held + 8, 0xFFFF_FFFF))),))
            return Extent(length - 8, held)
    return None


def _caf(stream: BinaryIO, size: int) -> Extent | None:
    place = 8
    while place + 12 <= size:
        stream.seek(place)
        name, length = struct.unpack(">4sq", stream.read(12))
        held = size - place - 12
        if name == b"data":
            if 4 < length < _BEYOND:
                return Extent(length - 4, held - 4)
            return Extent(None, held - 4, ((place + 4, struct.pack(">q", held)),))
        place += 12 + max(0, length)
    return None
