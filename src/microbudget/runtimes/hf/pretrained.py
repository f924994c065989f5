"""Hugging Face folders as transformers' own modules, opened without remote code and with all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import UnsupportedModel, first_line


def silence() -> None:
    """Switch off the warnings and progress bars of transformers: what matters we raise."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def open_pretrained(auto: Any, folder: Path, what: str) -> Any:
    """The network in a folder, in float32 and eval mode. auto: a class of transformers; what: "a language model".

    Only safetensors are read, remote code is not run, and weights that are missing or of another shape are an error:
    transformers would initialize them randomly and go on. Raises UnsupportedModel.
    """
    silence()
    try:
        network, info = auto.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"transformers cannot open {folder} as {what}: {first_line(error)}") from error
    missing = sorted(map(str, info["missing_keys"])) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing:
        raise UnsupportedModel(f"{folder} lacks {len(missing)} weights of its architecture, such as {missing[0]!r}")
    return network.eval()
