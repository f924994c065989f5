"""Write GGUF files: first the layout, so that the size is known to the byte, then tensor by tensor."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ...errors import Failed
from ...machine.files import check_space, open_whole
from .file import ARRAY, DEFAULT_ALIGNMENT, MAGIC, STRING, Entry, TensorInfo

ValueType = Literal["u32", "i32", "f32", "bool", "str", "[str]", "[i32]", "[f32]"]
VERSION = 3
_IDS = {"u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": STRING}
_LETTERS = {"u32": "I", "i32": "i", "f32": "f", "bool": "?"}


def entry(key: str, value: Any, value_type: ValueType) -> Entry:
    """A key and its value as bytes of the file. The type of an array is in brackets: "[f32]"."""
    head = _text(key)
    if not value_type.startswith("["):
        body = _text(value) if value_type == "str" else struct.pack("<" + _LETTERS[value_type], value)
        return Entry(key, _IDS[value_type], head + struct.pack("<I", _IDS[value_type]) + body)
    element = value_type[1:-1]
    if element == "str":
        body = b"".join(map(_text, value))
    else:
        body = np.asarray(value, np.dtype("<" + _LETTERS[element])).tobytes()
    return Entry(key, ARRAY, head + struct.pack("<IIQ", ARRAY, _IDS[element], len(value)) + body)


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


@dataclass(frozen=True)
class Layout:
    """A GGUF file before its data: entries, tensors in their order (offsets are computed), alignment."""

    entries: tuple[Entry, ...]
    tensors: tuple[TensorInfo, ...]
    alignment: int = DEFAULT_ALIGNMENT

    @cached_property
    def header(self) -> bytes:
        """Everything before the first tensor's data, padding included."""
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self.tensors), len(self.entries))]
        parts += [item.raw for item in self.entries]
        offset = 0
        for tensor in self.tensors:
            shape = tensor.shape[::-1]
            parts.append(_text(tensor.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            parts.append(struct.pack("<IQ", tensor.type.id, offset))
            offset += self._padded(tensor.size_bytes)
        raw = b"".join(parts)
        return raw + bytes(self._padded(len(raw)) - len(raw))

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(self._padded(tensor.size_bytes) for tensor in self.tensors)

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment

    def write(self, path: Path, data: Callable[[TensorInfo], Iterable[Any]]) -> None:
        """Write the file, which appears when it is complete: half a model would look like one.

        data(tensor) gives the bytes of a tensor in pieces (bytes or contiguous arrays).
        Raises DiskFull before the start when the file cannot fit, and Failed when `data` gives another number of bytes.
        """
        check_space(path.parent, self.size_bytes, "the model takes")
        with open_whole(path) as stream:
            self._write(stream, data)

    def _write(self, stream: BinaryIO, data: Callable[[TensorInfo], Iterable[Any]]) -> None:
        stream.write(self.header)
        for tensor in self.tensors:
            written = sum(stream.write(memoryview(piece).cast("B")) for piece in data(tensor))
            if written != tensor.size_bytes:
                raise Failed(f"{tensor.name}: {written} bytes were made, {tensor.size_bytes} were expected")
            stream.write(bytes(self._padded(written) - written))


def order(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The tensors as llama.cpp's quantizer writes them: those of no layer, then layer by layer, each by name."""
    return tuple(sorted(tensors, key=lambda tensor: (layer_of(tensor.name), tensor.name.encode())))


def layer_of(name: str) -> int:
    """The layer in a tensor's name, "blk.12.attn_q.weight" -> 12; -1 outside of layers."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) > 2 and parts[0] == "blk" and parts[1].isdigit() else -1
