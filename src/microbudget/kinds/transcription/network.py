"""Which networks transcribe recordings, what their files say, and how they are opened: Whisper."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedModel
from ...model import CT2_NAME, Model, Record
from ...runtimes import default_runtime, module_of
from ...runtimes.loading import read_preprocessing

if TYPE_CHECKING:
    from ...runtimes.speech.whisper import WhisperSession

KIND = "transcription"
ARCHITECTURES = ("WhisperForConditionalGeneration",)
FORMATS = ("ct2",)  # whose files are of this kind where no record says otherwise
RUNTIMES = {"torch": "hf.whisper"}  # a module of `runtimes` in place of the runtime's own


def hf_record(folder: Path, config: dict[str, Any]) -> Record:
    """Of a Hugging Face folder."""
    return Record(task=KIND, preprocessing=read_preprocessing(folder), source=str(folder))


def foreign_record(folder: Path, model_format: str) -> Record:
    """Of a CTranslate2 folder that others made, as faster-whisper's are. Raises UnsupportedModel for another model."""
    with (folder / CT2_NAME).open("rb") as stream:
        head = stream.read(64)
    if b"WhisperSpec" not in head:
        name = head[6 : 6 + int.from_bytes(head[4:6], "little")].rstrip(b"\0").decode("ascii", "replace")
        raise UnsupportedModel(
            f"{folder} is a CTranslate2 model of the kind {name}; of this format we know Whisper only"
        )
    return Record(task=KIND, preprocessing=read_preprocessing(folder), source=str(folder))


def open_speech(model: Model, *, threads: int = 0, language: str | None = None, beam: int = 1) -> WhisperSession:
    """Open a speech model for recordings of any length. language: a code, else it is detected. beam: 1 is greedy."""
    module = importlib.import_module(module_of(default_runtime(model.format), KIND))
    session: WhisperSession = module.open_session(model, threads=threads, language=language, beam=beam)
    return session
