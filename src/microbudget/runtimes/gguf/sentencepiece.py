"""Read the pieces of a SentencePiece `tokenizer.model`: a protobuf message, of which three fields matter."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel

# sentencepiece_model.proto: ModelProto {1: pieces {1: piece, 2: score, 3: type}, 2: trainer_spec {3: model_type}}
_PIECES, _TRAINER, _MODEL_TYPE = 1, 2, 3
_BPE = 2
_UNIGRAM = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read(path: Path) -> list[tuple[str, float, int]]:
    """(piece, score, type) by id; types as in GGUF, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.

    Raises UnsupportedModel for a damaged file, and for a unigram model, whose scores mean something else.
    """
    raw = path.read_bytes()
    try:
        fields = list(_fields(raw))
        pieces = [_piece(value) for number, value in fields if number == _PIECES]
        trainer = {key: value for number, spec in fields if number == _TRAINER for key, value in _fields(spec)}
    except (ValueError, IndexError, TypeError, struct.error, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path} is no SentencePiece model: {error}") from error
    if not pieces:
        raise UnsupportedModel(f"{path} is no SentencePiece model: it has no pieces")
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _BPE:
        raise UnsupportedModel(f"{path} is a unigram model; only BPE models can be written to GGUF here")
    return pieces


def _piece(raw: bytes) -> tuple[str, float, int]:
    found = dict(_fields(raw))
    score = struct.unpack("<f", found.get(2, bytes(4)))[0]
    return found[1].decode("utf-8"), score, int(found.get(3, 1))


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: whole numbers as int, all else as bytes."""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, position = _varint(raw, position)
            yield tag >> 3, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(raw, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {wire_type} at byte {position}")
        if position + length > len(raw):
            raise ValueError(f"a field of {length} bytes at byte {position} of {len(raw)}")
        yield tag >> 3, raw[position : position + length]
        position += length


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = raw[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError(f"a number without an end at byte {position}")
