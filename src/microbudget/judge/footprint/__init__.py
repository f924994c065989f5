"""Footprint: the memory that a model will take, from its files alone.

What is predicted is what `judge.memory` measures: what a process with the runtime loaded gains when it opens the model
and answers one example. A format's is the function `read` of the module of its name in this package. The constants were
fitted to the versions of the runtimes in `constraints.txt`, on networks of one kind of layer each;
`benchmarks/footprint.py` compares the predictions with real models.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
from pathlib import Path

from ...model import Model
from ...task import Inputs

TOKENIZER = "tokenizer.json"
TEXT_BYTES = 4_500_000  # pages of the libraries' code that texts are read with
WORDPIECE_TIMES, BPE_TIMES = 13, 28  # the bytes of its file: what `tokenizers` holds of it, and what reading it took


def predicted_memory(model: Model, inputs: Inputs) -> int | None:
    """Bytes that a model will take to answer these inputs, of one example; None for a format without a prediction.

    Raises UnsupportedModel when a file cannot be parsed.
    """
    if model.format not in {info.name for info in pkgutil.iter_modules(__path__)}:
        return None
    found: int | None = importlib.import_module(f".{model.format}", __name__).read(model, inputs)
    return found


def tokenizer_bytes(folder: Path, times: int = WORDPIECE_TIMES) -> int:
    """Of the tokenizer in a folder, in memory; 0 without one. times: its file's bytes, without spaces."""
    path = folder / TOKENIZER
    if not path.is_file():
        return 0
    text = path.read_text(encoding="utf-8")
    with contextlib.suppress(ValueError):  # whoever opens the model says what is wrong with it
        text = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))  # transformers indents it
    return TEXT_BYTES + times * len(text.encode("utf-8"))
