"""Rows of a vocabulary in a folder's tensors: embedding, head, and the head's bias."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedModel

# The last parts of the names that transformers gives to tensors with a row for each token.
_ROWS = ("embed_tokens.weight", "proj_out.weight", "lm_head.weight", "lm_head.bias", "embed_in.weight",
         "embed_out.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "shared.weight",
         "decoder.weight", "decoder.bias", "predictions.bias")  # fmt: skip
INDEX = "model.safetensors.index.json"


def write_rows(folder: Path, kept: NDArray[np.int64], rows: int, out: Path) -> int:
    """Copy the weights, of tensors with a row for each token only the rows `kept`. Returns the bytes saved.

    Raises UnsupportedModel when no tensor has `rows` rows.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    index, saved = torch.from_numpy(kept), 0
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(str(file))
        long = [name for name, tensor in tensors.items() if name.endswith(_ROWS) and tensor.shape[0] == rows]
        if not long:
            shutil.copyfile(file, out / file.name)
            continue
        for name in long:
            before = tensors[name]
            tensors[name] = before[index].contiguous()
            saved += (before.numel() - tensors[name].numel()) * before.element_size()
        with safe_open(str(file), "pt") as opened:
            metadata = opened.metadata()
        save_file(tensors, str(out / file.name), metadata=metadata or {"format": "pt"})
    if not saved and len(kept) < rows:
        raise UnsupportedModel(f"{folder} has no embedding of {rows} rows, as its config.json says")
    _write_index(folder, saved, out)
    return saved


def _write_index(folder: Path, saved: int, out: Path) -> None:
    """The index of a model in several files, with the size that is left."""
    if not (folder / INDEX).is_file():
        return
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if "total_size" in index.get("metadata", {}):
        index["metadata"]["total_size"] -= saved
    (out / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
