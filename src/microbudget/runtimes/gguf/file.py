"""Read GGUF files. Nothing in them is trusted: every count and offset is checked against the bytes that are there."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelNotFound, UnsupportedModel
from .types import BY_ID, GgmlType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_WHOLE = 2**31 - 1  # of layers, heads, widths, tokens
MAX_NAME_BYTES = 63  # of a tensor: ggml keeps 64 with the end mark
STRING, ARRAY = 8, 9
# The id of a value's type -> struct's letter.
SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_ENTRY = 8 + 4 + 1
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a GGUF file. shape: rows first, (rows, columns), as in numpy; the file has it reversed."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int = 0  # from the start of the file's data section

    @property
    def size_bytes(self) -> int:
        """Bytes of its values, without padding."""
        return self.type.bytes_of(self.shape)

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Rows of all matrices together."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def parameters(self) -> int:
        """Values."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Entry:
    """One key with its value, as the bytes in the file."""

    key: str
    value_type: int
    raw: bytes  # key, type and value


class GgufFile:
    """An open GGUF file: `entries` and `tensors` are read; the data stay on disk until `read`."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises ModelNotFound, and UnsupportedModel for a file that is damaged or no GGUF."""
        self.path = path
        if not path.is_file():
            raise ModelNotFound(f"there is no file {path}")
        self.size_bytes = path.stat().st_size
        self._stream = path.open("rb")
        try:
            self._read_header()
        except BaseException:
            self._stream.close()
            raise

    def _read_header(self) -> None:
        if self.size_bytes < 24:
            raise UnsupportedModel(f"{self.path} is no GGUF file: it has {self.size_bytes} bytes, a header has 24")
        with mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            cursor = _Cursor(mapped, self.path)
            self.version, tensor_count, entry_count = _preamble(cursor)
            self.entries = _read_entries(cursor, entry_count)
            self.alignment = self._alignment()
            self.tensors = _read_tensors(cursor, tensor_count)
            self.data_start = -(-cursor.position // self.alignment) * self.alignment
        _check_offsets(self)

    def _alignment(self) -> int:
        value = self.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        if type(value) is not int or value <= 0 or value & (value - 1) or value > 2**20:
            raise UnsupportedModel(f"{self.path} is damaged: {ALIGNMENT_KEY} is {value!r}, not a power of two")
        return value

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key: a number, bool or text, a list of texts, or an array of numbers; else the default."""
        entry = self.entries.get(key)
        return default if entry is None else _decode(entry)

    def require(self, key: str) -> Any:
        """The value of a key that must be there. Raises UnsupportedModel."""
        if key not in self.entries:
            raise UnsupportedModel(f"{self.path} has no {key!r} in its metadata: it is no model for llama.cpp")
        return _decode(self.entries[key])

    @property
    def architecture(self) -> str:
        """`general.architecture`: "llama", "qwen2"."""
        self.require("general.architecture")
        return self.text("general.architecture") or ""

    def text(self, key: str) -> str | None:
        """A text; None where the key is not there. Raises UnsupportedModel for a value of another type."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self._strange(key, "a text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where the key is not there. Raises UnsupportedModel for a value of another type."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise self._strange(key, "a list of texts")
        return value

    def wholes(self, key: str, default: int | None = None, *, low: int = 0) -> list[int]:
        """Whole numbers from `low` on: one for all layers, or one for each.

        Raises UnsupportedModel for a value of another type, and where the key is missing and there is no default.
        """
        value = self.require(key) if default is None else self.get(key, default)
        found = value.tolist() if isinstance(value, np.ndarray) else [value]
        if not found or not all(type(number) is int and low <= number <= MAX_WHOLE for number in found):
            raise self._strange(key, f"a whole number from {low} to {MAX_WHOLE}")
        return found

    def whole(self, key: str, default: int | None = None, *, low: int = 0) -> int:
        """The same, the largest of them."""
        return max(self.wholes(key, default, low=low))

    def _strange(self, key: str, expected: str) -> UnsupportedModel:
        shown = repr(self.get(key))
        short = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return UnsupportedModel(f"{self.path} is damaged: {key} is {short}, not {expected}. Convert it again")

    def read(self, tensor: TensorInfo, first_row: int = 0, rows: int | None = None) -> NDArray[np.uint8]:
        """The bytes of some rows of a tensor, by default all of it. Raises UnsupportedModel when the file shrank."""
        row_bytes = tensor.type.bytes_of((tensor.columns,))
        count = tensor.rows - first_row if rows is None else rows
        self._stream.seek(self.data_start + tensor.offset + first_row * row_bytes)
        buffer = np.empty(count * row_bytes, np.uint8)
        if self._stream.readinto(buffer.data) != buffer.nbytes:
            raise UnsupportedModel(f"{self.path} ends within {tensor.name}: it was changed while it was read")
        return buffer


class _Cursor:
    """A place in the header that never goes past the end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.position = 0
        self.size = len(data)

    def damaged(self, reason: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{self._path} is damaged at byte {self.position}: {reason}. Download or convert it again"
        )

    def need(self, size: int, what: str) -> None:
        if size > self.size - self.position:
            left = self.size - self.position
            raise self.damaged(f"{what} takes {size} bytes, but only {left} are left in the file")

    def number(self, letter: str, what: str) -> Any:
        size = struct.calcsize("<" + letter)
        self.need(size, what)
        value = struct.unpack_from("<" + letter, self._data, self.position)[0]
        self.position += size
        return value

    def skip_string(self, what: str) -> None:
        length = self.number("Q", what)
        self.need(length, what)
        self.position += length

    def string(self, what: str) -> str:
        length = self.number("Q", f"the length of {what}")
        self.need(length, what)
        raw = self._data[self.position : self.position + length]
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} is not UTF-8") from error

    def since(self, start: int) -> bytes:
        return self._data[start : self.position]


def _preamble(cursor: _Cursor) -> tuple[int, int, int]:
    """Version, number of tensors, number of entries."""
    magic = cursor.number("4s", "the magic")
    if magic != MAGIC:
        raise UnsupportedModel(f"{cursor._path} is no GGUF file: it begins with {magic!r}, not with {MAGIC!r}")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        order = "its bytes are in big-endian order" if version & 0xFFFF == 0 else f"it is of version {version}"
        known = " and ".join(map(str, VERSIONS))
        raise UnsupportedModel(f"{cursor._path} cannot be read: {order}; versions {known}, little-endian, are known")
    tensors, entries = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of entries")
    for count, smallest, what in ((tensors, _SMALLEST_TENSOR, "tensors"), (entries, _SMALLEST_ENTRY, "entries")):
        if count * smallest > cursor.size:
            raise cursor.damaged(f"it claims {count} {what}, more than its {cursor.size} bytes can hold")
    return version, tensors, entries


def _read_entries(cursor: _Cursor, count: int) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for _ in range(count):
        start = cursor.position
        key = cursor.string("a key")
        if key in found:
            raise cursor.damaged(f"the key {key!r} occurs twice")
        value_type = cursor.number("I", f"the type of {key!r}")
        _skip_value(cursor, value_type, key)
        found[key] = Entry(key, value_type, cursor.since(start))
    return found


def _skip_value(cursor: _Cursor, value_type: int, key: str) -> None:
    what = f"the value of {key!r}"
    if value_type == STRING:
        cursor.skip_string(what)
    elif value_type == ARRAY:
        element, count = cursor.number("I", what), cursor.number("Q", what)
        if element == STRING:
            cursor.need(8 * count, what)
            for _ in range(count):
                cursor.skip_string(what)
        else:
            _skip_bytes(cursor, count * _scalar_bytes(cursor, element, key), what)
    else:
        _skip_bytes(cursor, _scalar_bytes(cursor, value_type, key), what)


def _skip_bytes(cursor: _Cursor, size: int, what: str) -> None:
    cursor.need(size, what)
    cursor.position += size


def _scalar_bytes(cursor: _Cursor, value_type: int, key: str) -> int:
    if value_type not in SCALARS:
        raise cursor.damaged(f"{key!r} is of the unknown type {value_type}")
    return struct.calcsize("<" + SCALARS[value_type])


def _read_tensors(cursor: _Cursor, count: int) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in found:
            raise cursor.damaged(f"the tensor {tensor.name!r} occurs twice")
        found[tensor.name] = tensor
    return found


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    name = cursor.string("a tensor's name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise cursor.damaged(f"a tensor's name has {len(name.encode())} bytes; {MAX_NAME_BYTES} are allowed")
    dimensions = cursor.number("I", f"the dimensions of {name!r}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.damaged(f"{name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are allowed")
    shape = tuple(cursor.number("Q", f"the shape of {name!r}") for _ in range(dimensions))[::-1]
    type_id, offset = cursor.number("I", f"the type of {name!r}"), cursor.number("Q", f"the offset of {name!r}")
    if type_id not in BY_ID:
        raise cursor.damaged(f"{name!r} is of type {type_id}, which is unknown here")
    tensor_type = BY_ID[type_id]
    if 0 in shape or not tensor_type.fits(shape[-1]):
        raise cursor.damaged(
            f"{name!r} of shape {shape} does not fit {tensor_type.name}, whose blocks have {tensor_type.block} values"
        )
    return TensorInfo(name, shape, tensor_type, offset)


def _check_offsets(file: GgufFile) -> None:
    """Tensors must follow one another, each aligned, and end within the file: llama.cpp demands the same."""
    expected = 0
    for tensor in file.tensors.values():
        if tensor.offset != expected:
            raise UnsupportedModel(
                f"{file.path} is damaged: {tensor.name!r} has offset {tensor.offset} where {expected} was expected."
                " Download or convert it again"
            )
        expected += -(-tensor.size_bytes // file.alignment) * file.alignment
        end = file.data_start + tensor.offset + tensor.size_bytes
        if end > file.size_bytes:
            raise UnsupportedModel(
                f"{file.path} is truncated: {tensor.name!r} ends at byte {end}, the file at {file.size_bytes}."
                " Download or copy it again"
            )


def length_of(entry: Entry | None) -> int:
    """Elements of an array without reading them; 0 for anything else."""
    if entry is None or entry.value_type != ARRAY:
        return 0
    return int(struct.unpack_from("<Q", entry.raw, 8 + len(entry.key.encode()) + 8)[0])


def _decode(entry: Entry) -> Any:
    """The value in an entry whose bytes have been checked."""
    start = 8 + len(entry.key.encode()) + 4
    if entry.value_type == STRING:
        return entry.raw[start + 8 :].decode("utf-8", "surrogateescape")
    if entry.value_type != ARRAY:
        return struct.unpack_from("<" + SCALARS[entry.value_type], entry.raw, start)[0]
    element, count = struct.unpack_from("<IQ", entry.raw, start)
    if element == STRING:
        return list(_strings(entry.raw, start + 12, count))
    return np.frombuffer(entry.raw, np.dtype("<" + SCALARS[element]), count, start + 12)


def _strings(raw: bytes, position: int, count: int) -> Iterator[str]:
    for _ in range(count):
        length = struct.unpack_from("<Q", raw, position)[0]
        yield raw[position + 8 : position + 8 + length].decode("utf-8", "surrogateescape")
        position += 8 + length
