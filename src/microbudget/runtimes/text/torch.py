"""Text classifiers of Hugging Face folders in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hf.session import TorchSession, use_threads
from ..hf.text_classifier import load_network
from .encoding import TextEncoder
from .prompt import is_prompted
from .session import TextSession

if TYPE_CHECKING:
    from ...model import Model
    from .prompted import PromptedSession


def open_session(model: Model, *, threads: int = 0) -> TextSession | PromptedSession:
    """Open an `hf` Model with the tokenizer in its folder. threads: 0 means torch's own choice, all cores."""
    if is_prompted(model):
        from ..hf.causal import CausalReader
        from .prompted import open_prompted

        return open_prompted(model, CausalReader(model.path, threads))
    use_threads(threads)
    return TextSession(TorchSession(load_network(model.path)), TextEncoder.of(model))
