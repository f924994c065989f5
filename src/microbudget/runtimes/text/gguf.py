"""Language models in GGUF files that classify texts by a prompt, in llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UnsupportedModel
from ..gguf.session import GgufReader
from ..gguf.session import load_library as load_library
from .prompt import is_prompted
from .prompted import PromptedSession, open_prompted

if TYPE_CHECKING:
    from ...model import Model


def open_session(model: Model, *, threads: int = 0) -> PromptedSession:
    """Open a `gguf` Model. threads: 0 means all cores. Raises UnsupportedModel for one without a prompt."""
    if not is_prompted(model):
        raise UnsupportedModel(f"{model.path} is a language model without a prompt: `microbudget prompt` gives it one")
    return open_prompted(model, GgufReader(model.weights, threads))
