"""The ledger of CTranslate2 folders: the tensors of `model.bin`, integers together with their scales."""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

from ...errors import UnsupportedModel
from ...model import CT2_NAME, Model
from .rows import Ledger, Row

# The types by their number in the file.
TYPES = (("F32", 32), ("I8", 8), ("I16", 16), ("I32", 32), ("F16", 16), ("BF16", 16))
SCALE = "_scale"  # after the name of the tensor that it belongs to

_Tensor = tuple[str, tuple[int, ...], int, int]  # name, shape, type, bytes


def read(model: Model) -> Ledger:
    """The ledger of a `model.bin` and the folder's other files. Raises UnsupportedModel when it is damaged."""
    path = model.path / CT2_NAME
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            tensors = _tensors(stream, size)
    except (struct.error, ValueError, IndexError) as error:
        raise UnsupportedModel(f"{path} is no whole CTranslate2 model ({error}): is it complete?") from error
    scales = {name.removesuffix(SCALE): held for name, _, _, held in tensors if name.endswith(SCALE)}
    names = {name for name, *_ in tensors}
    rows = tuple(
        _row(*tensor, scales) for tensor in tensors if tensor[0].removesuffix(SCALE) not in names - {tensor[0]}
    )
    others = sum(file.stat().st_size for file in model.files if file != path)
    return Ledger(rows, size - sum(row.bytes for row in rows), 0, others)


def _tensors(stream: BinaryIO, size: int) -> list[_Tensor]:
    stream.read(4)  # the format's version
    _string(stream)
    stream.read(4)  # the model's
    found = []
    for _ in range(_number(stream, "<I")):
        name = _string(stream)
        shape = tuple(_number(stream, "<I") for _ in range(_number(stream, "<B")))
        type_number, held = _number(stream, "<B"), _number(stream, "<I")
        if type_number >= len(TYPES) or stream.tell() + held > size:
            raise ValueError(f"tensor {name!r} extends past the end of the file")
        stream.seek(held, 1)
        found.append((name, shape, type_number, held))
    return found


def _number(stream: BinaryIO, layout: str) -> int:
    (value,) = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    return int(value)


def _string(stream: BinaryIO) -> str:
    raw = stream.read(_number(stream, "<H"))
    return raw.rstrip(b"\0").decode("utf-8")


def _row(name: str, shape: tuple[int, ...], type_number: int, held: int, scales: dict[str, int]) -> Row:
    type_name, bits = TYPES[type_number]
    learnt = held * 8 == math.prod(shape) * bits and len(shape) > 0
    return Row(name, "weight" if learnt else "constant", shape, type_name, bits, held, scales.get(name, 0))
