"""Named students: a folder, a hub id, or a config.json without weights, which is initialized randomly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from ...errors import ModelNotFound, UnsupportedModel
from ...model import Model
from ...runtimes.loading import load, refuse_pickles

WEIGHTS = (".safetensors", ".onnx", ".gguf")  # next to a config.json: the student is not randomly initialized


def open_named(name: str) -> Model:
    """The Model of a named student with weights. Raises UnsupportedModel for what is no Hugging Face folder."""
    model = load(folder_of(name))
    if model.format != "hf":
        raise UnsupportedModel(f"a student must be a Hugging Face folder, and {name} is {model.format}")
    return model


def fingerprint(name: str, beside: Mapping[str, Any] | None = None) -> str:
    """Of a named student: what its files hold. beside: what else decides how a config.json alone reads its inputs."""
    folder = config_alone(name)
    if folder is None:
        return load(folder_of(name)).fingerprint
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update(json.dumps(beside, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def folder_of(name: str) -> str:
    """What is named: for a config.json the folder that it lies in."""
    path = Path(name)
    return str(path.parent) if path.name == "config.json" else name


def config_alone(name: str) -> Path | None:
    """The folder of a config.json without weights next to it: the student is randomly initialized. None: anything else.

    Raises ModelNotFound, and UnsafeModel where the weights next to it may be a pickle.
    """
    folder = Path(folder_of(name))
    if not (folder / "config.json").is_file():
        if Path(name).suffix == ".json":
            raise ModelNotFound(f"the student {name} does not exist: give a folder with a config.json")
        return None
    if any(file.suffix.lower() in WEIGHTS for file in folder.iterdir()):
        return None
    refuse_pickles(folder)
    return folder


def read_config(folder: Path) -> Any:
    """The configuration in a folder. Raises UnsupportedModel."""
    try:
        return transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedModel(f"transformers cannot read the student's {folder / 'config.json'}: {reason}") from error
