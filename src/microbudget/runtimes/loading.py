"""Names to Models: a folder, an `.onnx` or `.gguf` file, or a hub id. The only module that downloads."""

from __future__ import annotations

import json
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import kind
from ..data.saved import is_path, no_such_path
from ..errors import MissingExtra, ModelNotFound, UnsafeModel, UnsupportedModel
from ..model import CT2_NAME, GGUF_NAME, ONNX_NAME, Model, Record, backbone_of
from .hf.checkpoint import Checkpoint

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras")
HUB_FILES = ("*.json", "*.txt", "tokenizer.model", "*.jinja")
HUB_WEIGHTS = ("*.safetensors", "*.onnx", CT2_NAME)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load(name: str | Path | Model, *, weights: bool = True) -> Model:
    """The Model of a folder, an `.onnx` or `.gguf` file, or a hub id.

    weights: False where the configuration and the tokenizer of a Hugging Face model are enough: no others are fetched
    or looked for. Raises ModelNotFound, UnsafeModel for a pickle, UnsupportedModel for anything else that is no Model.
    """
    if isinstance(name, Model):
        return name
    path = Path(name)
    if path.is_dir():
        return _load_folder(path, weights)
    if path.is_file():
        return _load_file(path)
    return _load_folder(_download(str(name), weights), weights)


def _load_file(path: Path) -> Model:
    if path.suffix.lower() in PICKLES:
        raise UnsafeModel(
            f"{path} may be a pickle, which can run code when it is opened: give the folder with safetensors"
            " (Hugging Face: save_pretrained) or an .onnx file"
        )
    if path.suffix.lower() == ".gguf":
        return _load_gguf(path, path)
    if path.suffix.lower() != ".onnx":
        raise UnsupportedModel(f"{path} is no model that we know: give a Hugging Face folder, an .onnx or a .gguf file")
    record = Record.read(path.parent) if path.name == ONNX_NAME else None
    return Model(path, "onnx", record or _foreign_record(path, "onnx"))


def _load_gguf(path: Path, file: Path) -> Model:
    """A GGUF file, alone or in a folder of ours; it is read as far as its first tensor."""
    from .gguf.file import GgufFile

    with GgufFile(file) as opened:
        parts = opened.whole("split.count", 0)
        if parts > 1:
            raise UnsupportedModel(
                f"{file} is one of {parts} parts: join them with llama.cpp's `llama-gguf-split --merge` first"
            )
    record = Record.read(file.parent) if file.name == GGUF_NAME else None
    return Model(path, "gguf", record or _foreign_record(path, "gguf"))


def _load_folder(folder: Path, weights: bool = True) -> Model:
    record = Record.read(folder)
    if (folder / GGUF_NAME).is_file():
        return _load_gguf(folder, folder / GGUF_NAME)
    if (folder / ONNX_NAME).is_file():
        return Model(folder, "onnx", record or _foreign_record(folder / ONNX_NAME, "onnx"))
    if (folder / CT2_NAME).is_file() and _is_ct2(folder / CT2_NAME):
        return Model(folder, "ct2", record or _foreign_record(folder, "ct2"))
    backbone = backbone_of(folder) or folder
    if (backbone / "config.json").is_file():
        return Model(folder, "hf", record or _hf_record(backbone, weights))
    if (folder / "best").is_dir() and (folder / "run.toml").is_file():
        return _load_folder(folder / "best", weights)
    onnx_files = sorted(folder.glob("*.onnx"))
    if len(onnx_files) == 1:
        return _load_file(onnx_files[0])
    if onnx_files:
        raise UnsupportedModel(f"{folder} holds {len(onnx_files)} .onnx files: name one of them")
    gguf_files = sorted(folder.glob("*.gguf"))
    if len(gguf_files) == 1:
        return _load_file(gguf_files[0])
    if gguf_files:
        raise UnsupportedModel(f"{folder} holds {len(gguf_files)} .gguf files: name one of them")
    refuse_pickles(folder)
    raise ModelNotFound(f"{folder} holds no model: neither config.json with *.safetensors nor an .onnx or .gguf file")


def _is_ct2(path: Path) -> bool:
    """Whether a `model.bin` is CTranslate2's, and no pickle: it begins with its version and the model's name."""
    with path.open("rb") as stream:
        head = stream.read(6)
        version, length = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
        return 0 < version < 100 and 0 < length < 100 and stream.read(length).rstrip(b"\0").endswith(b"Spec")


def _foreign_record(path: Path, model_format: str) -> Record:
    """What a file that others wrote is for: of the kinds with this format the first that knows it.

    A kind answers None for a file that is clearly of another kind. Raises UnsupportedModel with the reason of the last
    one that knew it.
    """
    reasons: list[UnsupportedModel] = []
    for network in kind.facets("network"):
        if model_format in network.FORMATS:
            try:
                record: Record | None = network.foreign_record(path, model_format)
            except UnsupportedModel as error:
                reasons.append(error)
            else:
                if record is not None:
                    return record
    if reasons:
        raise reasons[-1]
    raise UnsupportedModel(f"{path}: no kind of model takes the inputs of this {model_format} file")


def _hf_record(folder: Path, weights: bool) -> Record:
    path = folder / "config.json"
    try:
        if path.read_bytes().startswith(b"\xef\xbb\xbf"):
            raise UnsupportedModel(
                f"{path} begins with a byte order mark, which transformers does not read: save it as UTF-8 without one"
            )
        config = json.loads(path.read_text(encoding="utf-8"))
        architectures = [str(name) for name in config.get("architectures") or ()]
    except (ValueError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    if weights and not any(folder.glob("*.safetensors")):
        refuse_pickles(folder)
        raise ModelNotFound(f"{folder} has a config.json but no *.safetensors beside it: is the download complete?")
    if "pretrained_cfg" in config or any(name.startswith("TimmWrapper") for name in architectures):
        raise UnsupportedModel(
            f"{path} is a model of timm ({config.get('architecture', 'of unknown architecture')}), which is not"
            " supported yet: export it to ONNX (torch.onnx.export of timm.create_model) and give the .onnx file"
        )
    _refuse_quantized(config, path)
    if weights:
        Checkpoint(folder)  # a damaged file is named here, whichever verb asked
    network = _network_of(config, architectures, path)
    try:
        record: Record = network.hf_record(folder, config)
        return record
    except (ValueError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error


def _refuse_quantized(config: dict[str, Any], path: Path) -> None:
    """Raises UnsupportedModel for a checkpoint of bitsandbytes, GPTQ, AWQ and others, by its method's name."""
    given = config.get("quantization_config")
    if given:
        method = given.get("quant_method", "unknown") if isinstance(given, dict) else "unknown"
        raise UnsupportedModel(
            f"{path}: the weights are quantized already ({method}), and would be quantized twice: give the original"
            " float model"
        )


def _network_of(config: dict[str, Any], architectures: list[str], path: Path) -> ModuleType:
    """The network facet of the kind that knows one of the architectures; where none is named, the type of model.

    Raises UnsupportedModel with what there is.
    """
    model_type = str(config.get("model_type", ""))
    networks = kind.facets("network")
    for network in networks:
        if any(fnmatchcase(name, pattern) for name in architectures for pattern in network.ARCHITECTURES):
            return network
        if not architectures and model_type in getattr(network, "MODEL_TYPES", ()):
            return network
    if isinstance(config.get("text_config"), dict):
        raise UnsupportedModel(
            f"{path} is of the architecture {', '.join(architectures)}, which sees or hears besides reading: no kind of"
            " model here does. Where it writes text, convert that part with llama.cpp's convert_hf_to_gguf.py and give"
            " the .gguf file"
        )
    known = "; ".join(f"{network.KIND} ({', '.join(network.ARCHITECTURES)})" for network in networks)
    found = (
        f"is of the architecture {', '.join(architectures)}, which no kind knows"
        if architectures
        else ("names no architecture (its list `architectures` is empty or missing)")
    )
    raise UnsupportedModel(f"{path} {found}. The kinds of models and their architectures: {known}")


def refuse_pickles(folder: Path) -> None:
    """Raises UnsafeModel for a folder with weights that may be pickles, and no others."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    if pickles:
        raise UnsafeModel(
            f"{folder} has only {', '.join(pickles[:3])}: a pickle can run code when it is opened, so it is never"
            " loaded. Save the model as safetensors (save_pretrained of a recent transformers) and give that folder"
        )


def read_preprocessing(folder: Path) -> dict[str, Any] | None:
    """The processor's configuration in a folder, in the older or the newer file; None when there is none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            try:
                config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
            except ValueError as error:
                raise UnsupportedModel(f"{path} cannot be read: {error}") from error
            nested = config.get("image_processor", config.get("feature_extractor"))
            return nested if isinstance(nested, dict) else config
    return None


def _download(name: str, weights: bool = True) -> Path:
    if is_path(name):
        raise ModelNotFound(no_such_path(name))
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFound(f"there is no folder or file {name!r}, and it is no hub id either")
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise MissingExtra(f"no folder {name!r} here; to download it: pip install 'microbudget[train]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[*HUB_FILES, *(HUB_WEIGHTS if weights else ())]))
    except Exception as error:  # the hub's client raises httpx, OS and value errors of its own
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ModelNotFound(
            f"there is no folder {name!r}, it is not in the cache {constants.HF_HUB_CACHE}, and the hub could not"
            f" deliver it{offline}. Either give a local folder, or fetch it where there is a network with"
            f" `hf download {name} --local-dir FOLDER` and give FOLDER"
        ) from error
