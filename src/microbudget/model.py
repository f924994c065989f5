"""Model: files on disk in a standard format, and next to them `microbudget.json`, which records how they were made."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import ModelNotFound, UnsupportedModel
from .kind import facet, of_format
from .progress import SILENT

RECORD_NAME = "microbudget.json"
RECORD_VERSION = 1
ONNX_NAME = "model.onnx"
GGUF_NAME = "model.gguf"
ADAPTER_CONFIG = "adapter_config.json"  # of a low-rank adapter; its backbone lies elsewhere, or in the same folder
CT2_NAME = "model.bin"
HF_WEIGHTS = "model.safetensors"
HF_INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_HF_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt",
    "added_tokens.json", "chat_template.jinja", ADAPTER_CONFIG,
    "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
)  # fmt: skip
_ONNX_FILES = ("tokenizer.json",)  # beside the graph of a model that reads texts
_CT2_FILES = (
    CT2_NAME, "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
    "vocabulary.json", "vocabulary.txt",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What `microbudget.json` holds. Everything here must survive from step to step of a recipe."""

    task: str | None = None
    labels: tuple[str, ...] | None = None  # in the order of the model's outputs
    preprocessing: dict[str, Any] | None = None  # keys of a Hugging Face preprocessor_config.json
    output: str | None = None  # name of the output with the classes' scores, where a graph has several
    source: str | None = None  # the name that the user gave for the first model
    recipe: str = ""  # canonical text of the steps so far
    reference: str | None = None  # fingerprint of the model that losses are measured against
    seen: tuple[str, ...] = ()  # content hashes of the examples it was made with
    state: dict[str, Any] = field(default_factory=dict)  # zero masks, scales, widths: what later steps need
    history: dict[str, Any] = field(default_factory=dict)  # what each step reported, by its name (see `after`)
    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None  # of a built model: the hash of what made it

    def after(self, before: Record, step: str) -> Record:
        """With what an earlier step of the same name had reported too: `prune 1`, `prune 2`, and `prune` the latest."""
        if step not in before.history or step not in self.history:
            return self
        number = 1 + sum(name.startswith(f"{step} ") for name in before.history)
        earlier = {f"{step} {number}" if name == step else name: report for name, report in before.history.items()}
        later = {name: report for name, report in self.history.items() if name == step or name not in before.history}
        return replace(self, history={**earlier, **later})

    def with_seen(self, keys: Iterable[str]) -> Record:
        """With the keys of these examples among those that the model was made with."""
        return replace(self, seen=tuple(sorted({*self.seen, *keys})))

    def with_report(self, step: str, report: dict[str, Any]) -> Record:
        """With what a step reported, under its name in the history."""
        return replace(self, history={**self.history, step: report})

    def save(self, folder: Path) -> None:
        """Write `microbudget.json` into the folder."""
        row = {"version": RECORD_VERSION, **asdict(self)}
        (folder / RECORD_NAME).write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in a folder, or None when there is none. Raises UnsupportedModel when it cannot be read."""
        path = folder / RECORD_NAME
        if not path.is_file():
            return None
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            version = row.pop("version")
            if version > RECORD_VERSION:
                raise UnsupportedModel(f"{path} is of version {version}; this microbudget reads up to {RECORD_VERSION}")
            for name in ("labels", "seen"):
                row[name] = None if row.get(name) is None else tuple(row[name])
            return cls(**row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnsupportedModel(f"{path} is damaged ({error}): make the model again, or delete that file") from error


@dataclass(frozen=True)
class Model:
    """A model on disk. `path` is a folder, or a single `.onnx` or `.gguf` file that lies anywhere."""

    path: Path
    format: str  # "hf", "onnx", "gguf", "ct2"
    record: Record

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the outputs in their order, where they are known."""
        return self.record.labels

    @property
    def task(self) -> str:
        """The kind of task that the model is for. Raises UnsupportedModel where it is unknown."""
        found = self.record.task or of_format(self.format)
        if found is None:
            raise UnsupportedModel(f"{self.path}: the kind of task that this {self.format} model is for is unknown")
        return found

    def predict(self, inputs: str | Path | Sequence[str | Path], *, threads: int = 0) -> Any:
        """Its answer to a photo, recording, text or prompt: a Prediction, or a list of them for a list or a folder.

        inputs: photos and recordings by their files or folders; texts and prompts themselves. threads: 0
        means all cores. Each call opens the model: give many inputs at once. Raises BadData, UnsupportedModel.
        """
        one = isinstance(inputs, str | Path) and not (len(str(inputs)) < 4096 and Path(inputs).is_dir())
        given = [str(inputs)] if isinstance(inputs, str | Path) else [str(each) for each in inputs]
        if not given:
            return []
        found = list(facet(self.task, "predicting").predict(self, given, SILENT, threads=threads))
        return found[0] if one else found

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def weights(self) -> Path:
        """The file a runtime opens: the `.onnx` or `.gguf` file; for `hf` and `ct2` the folder itself."""
        names = {"onnx": ONNX_NAME, "gguf": GGUF_NAME}
        return self.path / names[self.format] if self.format in names and self.path.is_dir() else self.path

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files that inference needs, sorted; no card, no report, no record."""
        if self.format == "onnx":
            return (self.weights, *external_data(self.weights), *self._beside)
        if self.format == "gguf":
            return (self.weights,)
        if self.format == "ct2":
            return tuple(sorted(self.path / name for name in _CT2_FILES if (self.path / name).is_file()))
        found = _hf_files(self.path)
        backbone = backbone_of(self.path)
        if backbone is not None and backbone != self.path:
            found += [file for file in _hf_files(backbone) if file.name not in {own.name for own in found}]
        return tuple(sorted(found, key=lambda file: file.name))

    @property
    def _beside(self) -> list[Path]:
        """What a graph that reads texts needs besides its weights."""
        return [self.folder / name for name in _ONNX_FILES if (self.folder / name).is_file()]

    @property
    def size_bytes(self) -> int:
        """Bytes of `files`."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what made the model where we built it, else of the bytes of its files."""
        if self.record.fingerprint:
            return self.record.fingerprint
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(self.name_of(file).encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        if self.path.is_file():  # the sidecar decides what a bare file answers
            digest.update(json.dumps(self.record.preprocessing, sort_keys=True).encode())
        if self.record.output is not None:
            digest.update(self.record.output.encode())
        return digest.hexdigest()[:16]

    def copy_beside(self, folder: Path) -> None:
        """Copy into a folder with new weights what is neither weights nor an adapter's, and is not there yet."""
        for file in self._beside if self.format == "onnx" else self.files:
            target = folder / self.name_of(file)
            if ".safetensors" not in file.name and file.name != ADAPTER_CONFIG and not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)

    def name_of(self, file: Path) -> str:
        """The name of one of `files` in the model's folder, with a slash where it lies in a folder of its own."""
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else file.name

    def with_record(self, **changes: Any) -> Model:
        """The same files with a changed record (not saved)."""
        return replace(self, record=replace(self.record, **changes))


def _hf_files(folder: Path) -> list[Path]:
    found = [folder / name for name in _HF_FILES if (folder / name).is_file()]
    return [*found, *weight_files(folder)]


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a Hugging Face folder that opening reads, and their index.

    As transformers chooses them: `model.safetensors`, else the parts that its index names; and an adapter's. A
    checkpoint's copies (`consolidated.safetensors`, `model.fp16.safetensors`, parts that no index names) are not read.
    Where there is neither, all `*.safetensors`.
    """
    single, index, adapter = (folder / name for name in (HF_WEIGHTS, HF_INDEX, ADAPTER_WEIGHTS))
    own = [adapter] if adapter.is_file() else []
    if single.is_file():
        return [single, *own]
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    return [index, *(folder / name for name in sorted(parts) if (folder / name).is_file()), *own]


def backbone_of(folder: Path) -> Path | None:
    """The folder with the network that an adapter in `folder` is for; None where there is no adapter.

    It is the folder itself where that has a network too. Raises UnsupportedModel, ModelNotFound.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    if (folder / "config.json").is_file():
        return folder
    try:
        name = str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{path} does not say what model the adapter is for ({error!r})") from error
    backbone = folder / name  # an absolute path stays as it is
    if not (backbone / "config.json").is_file():
        raise ModelNotFound(
            f"{folder} is an adapter for {name}, which is not there: put the model there, or write its path into"
            f" {ADAPTER_CONFIG} under 'base_model_name_or_path'"
        )
    return backbone


def external_data(path: Path) -> tuple[Path, ...]:
    """The files next to an `.onnx` that hold its large tensors; empty for a self-contained model.

    Raises UnsupportedModel when one of them is missing or lies outside the model's folder.
    """
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises several kinds of its own
        raise UnsupportedModel(f"{path} is not an ONNX model ({type(error).__name__}): is it complete?") from error
    names = {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    found = []
    for name in sorted(names):
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise UnsupportedModel(f"{path} refers to {name!r}, which lies outside its folder")
        if not file.is_file():
            raise ModelNotFound(f"{path} keeps its weights in {name!r}, which is missing next to it")
        found.append(file)
    return tuple(found)
