"""Adapters: a folder with a few small matrices, as PEFT writes them, for a backbone in another folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ...errors import MissingExtra, UnsupportedModel, what_it_said
from ...model import ADAPTER_CONFIG, Model, backbone_of

try:
    import torch
    from peft import PeftModel
except ImportError as error:
    raise MissingExtra("an adapter needs peft: pip install 'microbudget[train]'") from error


def merged(network: Any, folder: Path) -> Any:
    """The backbone's network with the folder's adapter added to its weights. Raises UnsupportedModel."""
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(network, str(folder), local_files_only=True)
            return adapted.merge_and_unload().eval()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UnsupportedModel(
            f"the adapter in {folder} does not fit {backbone_of(folder)}: {what_it_said(error)}"
        ) from error


def save(adapted: Any, backbone: Model, out: Path) -> None:
    """Write the adapter of a PEFT model: its matrices, and the path of its backbone."""
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = str(backbone.path.resolve())
    config.inference_mode = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    path = out / ADAPTER_CONFIG
    row = json.loads(path.read_text(encoding="utf-8"))
    ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in sorted(row.items())}
    path.write_text(json.dumps(ordered, indent=1), encoding="utf-8")  # peft writes sets in no fixed order
