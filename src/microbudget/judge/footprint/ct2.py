"""The footprint of a CTranslate2 folder of Whisper: its weights, its tokenizer and the activations of its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...audio.log_mel import LogMel
from ...errors import UnsupportedModel
from ...model import Model
from ...runtimes.speech.whisper import front_end
from ...task import Inputs
from ..ledger import ledger
from . import BPE_TIMES, tokenizer_bytes

MB = 1_000_000
LIBRARY = 24 * MB  # pages of the library's code, and what the front end and the decoder work in
FLOATS = 15  # for each position and channel of the encoder: its input, queries, keys, values, the wide layer
HEAD = 64  # channels, in every published Whisper
FLOAT_BYTES = 4
FRAMES = 2  # of the spectrogram for each position
POSITIONS = "encoder/position_encodings/encodings"


def read(model: Model, inputs: Inputs) -> int:
    """Bytes that the folder will take with these inputs. Raises UnsupportedModel for a folder that is no Whisper."""
    rows = ledger(model).rows
    width = next((row.shape[-1] for row in rows if row.name == POSITIONS), 0)
    if not width:
        raise UnsupportedModel(f"{model.path} is no Whisper: its memory cannot be predicted")
    weights = sum(row.bytes if row.bits < 16 else FLOAT_BYTES * row.numbers for row in rows)  # halves become floats
    lengths = [int(length) for length in inputs.get("length", ())]
    return memory_bytes(model.path, weights, activation_bytes(front_end(model.path), width, lengths))


def memory_bytes(folder: Path, weights: int, activations: int) -> int:
    """Of a Whisper with weights of so many bytes in memory. folder: with its tokenizer."""
    return LIBRARY + weights + activations + tokenizer_bytes(folder, BPE_TIMES)


def activation_bytes(front: LogMel, width: int, lengths: Sequence[int]) -> int:
    """Of the encoder, `width` channels wide, for recordings of these numbers of samples, one after the other.

    Each position attends to all. Without lengths: for the whole window.
    """
    frames = max((front.for_recording(length).frames for length in lengths), default=front.frames)
    positions, heads = min(front.frames, frames) // FRAMES, max(1, width // HEAD)
    return FLOAT_BYTES * (FLOATS * positions * width + heads * positions**2)
