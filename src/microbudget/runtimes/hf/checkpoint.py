"""Read safetensors tensor by tensor, from one file or many, without torch; bfloat16 too."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelNotFound, UnsupportedModel
from ...model import weight_files

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_SIZES = {name: np.dtype(letters).itemsize for name, letters in _DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """The place of a tensor in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "F32", "F16", "BF16", "F64", or another that `Checkpoint.read` refuses
    path: Path
    start: int
    end: int


class Checkpoint:
    """The tensors in a folder's safetensors; only their places are read until `read`."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelNotFound when files are missing, UnsupportedModel when one is damaged."""
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        for path in _files(folder):
            for stored in _read_header(path):
                self.tensors[stored.name] = stored

    def require_float(self, name: str) -> Stored:
        """The tensor's place. Raises UnsupportedModel when it holds no floats."""
        stored = self.tensors[name]
        if stored.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise UnsupportedModel(f"{stored.path}: {name} is of type {stored.dtype}, not of {known}: is it quantized?")
        return stored

    def read(self, name: str) -> NDArray[Any]:
        """A tensor as it is stored, bfloat16 as uint16 (see `widen`). Raises UnsupportedModel for other types."""
        return self.rows(name, 0, None)

    def rows(self, name: str, first: int, count: int | None) -> NDArray[Any]:
        """As `read`, of `count` rows from the row `first` on, or fewer where the tensor ends; None: all of them."""
        stored = self.require_float(name)
        height = stored.shape[0] if stored.shape else 1
        size = _SIZES[stored.dtype]
        width = (stored.end - stored.start) // size // max(1, height)
        wanted = max(0, height - first) if count is None else max(0, min(count, height - first))
        with stored.path.open("rb") as stream:
            stream.seek(stored.start + first * width * size)
            values = np.fromfile(stream, _DTYPES[stored.dtype], wanted * width)
        return values.reshape((wanted, *stored.shape[1:]) if stored.shape else ())


def widen(array: NDArray[Any]) -> NDArray[np.float32]:
    """float32 of bfloat16 that is given as uint16: the upper half of the bits."""
    wide = array.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        return _shards(index)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = [file for file in weight_files(folder) if file.suffix == ".safetensors"]
    if not found:
        raise ModelNotFound(f"{folder} has no *.safetensors: is the download complete?")
    return found


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()))
        paths = [index.parent / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"{index} cannot be read: {error!r}") from error
    for path in paths:
        if path.parent != index.parent:
            raise UnsupportedModel(f"{index} names {path}, which lies outside its folder")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelNotFound(
            f"{index.parent} lacks {len(missing)} of {len(paths)} files of weights, such as {missing[0]}:"
            " is the download complete?"
        )
    return paths


def _read_header(path: Path) -> list[Stored]:
    """Names, types, shapes and places. Every place is checked against the file's size."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return [_stored(name, spec, path, 8 + length, size) for name, spec in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise UnsupportedModel(f"{path} is damaged: {error}. Download it again") from error


def _stored(name: str, spec: dict[str, Any], path: Path, base: int, size: int) -> Stored:
    start, end = (base + int(place) for place in spec["data_offsets"])
    shape = tuple(int(length) for length in spec["shape"])
    if not base <= start <= end <= size:
        raise ValueError(f"{name} lies at bytes {start} to {end}, outside of the file's {size}")
    if spec["dtype"] in _DTYPES and end - start != _SIZES[spec["dtype"]] * int(np.prod(shape, dtype=object)):
        raise ValueError(f"{name} of shape {shape} does not take {end - start} bytes")
    return Stored(name, shape, spec["dtype"], path, start, end)
