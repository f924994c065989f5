"""The ledger of Hugging Face folders: the tensors of safetensors files, the vocabulary, and other files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel
from ...model import Model
from .rows import VOCABULARY, Ledger, Role, Row

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "U32": 32, "U64": 64}
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")  # batch norm's: measured, not learnt


def read(model: Model) -> Ledger:
    """The ledger of a folder. Raises UnsupportedModel when a file of weights is damaged."""
    rows: list[Row] = []
    headers = others = vocabulary = 0
    for file in model.files:
        if file.suffix == ".safetensors":
            found, header = _read_safetensors(file)
            rows += found
            headers += header
        elif file.name in VOCABULARY:
            vocabulary += file.stat().st_size
        else:
            others += file.stat().st_size
    return Ledger(tuple(rows), headers, 0, others, vocabulary)


def _read_safetensors(path: Path) -> tuple[list[Row], int]:
    """Rows and the bytes outside them: 8 bytes of length, a JSON header, then the tensors."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length <= size else None
        rows = [_safetensors_row(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"{path} is no safetensors file ({error}): is the download complete?") from error
    return rows, size - sum(row.bytes for row in rows)


def _safetensors_row(name: str, entry: dict[str, Any]) -> Row:
    start, end = entry["data_offsets"]
    type_name, shape = entry["dtype"], tuple(entry["shape"])
    role: Role = "statistic" if name.endswith(NO_PARAMETERS) else "weight"
    bits = BITS.get(type_name, 8 * (end - start) // max(1, math.prod(shape)))
    return Row(name, role, shape, type_name, bits, end - start)
