"""The networks of this kind: their architectures, the records of their files, and their runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model import Record

KIND = "language-modelling"
ARCHITECTURES = ("*ForCausalLM", "*LMHeadModel")
FORMATS = ("gguf",)  # whose files are of this kind where no record says otherwise
RUNTIMES = {"torch": "hf.causal"}  # a module of `runtimes` in place of the runtime's own


def hf_record(folder: Path, config: dict[str, Any]) -> Record:
    """Of a Hugging Face folder."""
    return Record(task=KIND, source=str(folder))


def foreign_record(path: Path, model_format: str) -> Record:
    """Of a GGUF file."""
    return Record(task=KIND, source=str(path))
