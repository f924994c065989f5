"""Convert a Hugging Face folder of a language model into GGUF, tensor by tensor, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidOption, UnsupportedModel
from ...progress import SILENT, Progress
from ..hf.checkpoint import Checkpoint, widen
from .config import read_config, untied
from .families.family import POSITIONS, LanguageConfig, Row
from .file import Entry, TensorInfo
from .types import FILE_TYPES, TYPES, GgmlType
from .vocabulary import Vocabulary, read_vocabulary
from .write import Layout, entry, order

QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
HEAD = "lm_head.weight"
ROPE_FACTORS = "rope_freqs.weight"
LARGEST_FLOAT16 = 65504.0
CHUNK_VALUES = 2**22  # converted at once, so that little memory is taken besides the tensor itself
# Old checkpoints hold buffers that follow from the configuration.
_IGNORED = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")


class BeyondFloat16(UnsupportedModel):
    """Weights that float16 would make infinite."""


@dataclass(frozen=True)
class Conversion:
    """The GGUF file of a folder: known to the byte before any weight is read."""

    folder: Path
    config: LanguageConfig
    vocabulary: Vocabulary
    dtype: str  # "F32", "F16", "BF16" for matrices; vectors and norms stay F32

    @cached_property
    def sources(self) -> dict[str, tuple[Row, str]]:
        """By name in llama.cpp: the row of the family's table, and the name in the checkpoint."""
        return {target: (row, source) for row, source, target, _ in self.config.tensors()}

    @cached_property
    def layout(self) -> Layout:
        """Header and tensors of the file."""
        tensors = [TensorInfo(name, shape, self._type(name, shape)) for _, _, name, shape in self.config.tensors()]
        if self.config.rope_scaling["rope_type"] == "llama3":
            tensors.append(TensorInfo(ROPE_FACTORS, (self.config.rotary // 2,), TYPES["F32"]))
        return Layout((*self._entries(), *self.vocabulary.entries()), order(tensors))

    def _type(self, name: str, shape: tuple[int, ...]) -> GgmlType:
        kept = len(shape) == 1 or name == POSITIONS or name.endswith("_norm.weight")
        return TYPES["F32" if kept else self.dtype]

    def _entries(self) -> tuple[Entry, ...]:
        architecture = self.config.family.architecture
        return (
            entry("general.architecture", architecture, "str"),
            entry("general.type", "model", "str"),
            entry("general.name", self.folder.resolve().name or "model", "str"),
            *_hyperparameters(self.config),
            entry("general.quantization_version", QUANTIZATION_VERSION, "u32"),
            entry("general.file_type", FILE_TYPES[self.dtype], "u32"),
        )

    def write(self, path: Path, progress: Progress = SILENT) -> None:
        """Write the file. Raises UnsupportedModel for weights that are missing, left over or of another shape."""
        checkpoint = Checkpoint(self.folder)
        self.check(checkpoint)
        self.layout.write(path, lambda tensor: self._data(tensor, checkpoint))
        progress.detail(f"export    {len(self.layout.tensors)} tensors, {self.dtype}, {path.stat().st_size:,} bytes")

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise UnsupportedModel for weights that are missing, left over, of another shape, or no floats."""
        prefix = self._missing_prefix(checkpoint)
        expected = {
            name.removeprefix(prefix): shape
            for row, source, _, shape in self.config.tensors()
            for name, shape in _parts(source, row.stored_shape(shape))
        }
        missing = sorted(expected.keys() - checkpoint.tensors.keys())
        if missing:
            raise UnsupportedModel(
                f"{self.folder} lacks {len(missing)} weights of its architecture, such as {missing[0]!r}"
            )
        tied = {HEAD} if self.config.tied else set()
        left = sorted(
            name for name in checkpoint.tensors.keys() - expected.keys() - tied if not name.endswith(_IGNORED)
        )
        if left:
            raise UnsupportedModel(
                f"{self.folder} has {len(left)} weights that {self.config.model_type} does not have, such as"
                f" {left[0]!r}: they would be lost, and the answers would change"
            )
        for name, shape in expected.items():
            found = checkpoint.require_float(name).shape
            if found != shape:
                raise UnsupportedModel(f"{self.folder}: {name!r} has shape {found}, config.json says {shape}")

    def _missing_prefix(self, checkpoint: Checkpoint) -> str:
        """What its names lack: the base model's name, where that was saved without the head, as GPT-2's on the hub."""
        prefix = self.config.family.prefix
        return "" if any(name.startswith(prefix) for name in checkpoint.tensors) else prefix

    def _data(self, tensor: TensorInfo, checkpoint: Checkpoint) -> Iterator[NDArray[Any]]:
        if tensor.name == ROPE_FACTORS:
            yield rope_factors(self.config)
            return
        row, source = self.sources[tensor.name]
        prefix = self._missing_prefix(checkpoint)
        names = [name.removeprefix(prefix) for name, _ in _parts(source, tensor.shape)]
        array = checkpoint.read(names[0]) if len(names) == 1 else np.stack([checkpoint.read(name) for name in names])
        if row.transposed:
            array = array.T
        if row.change is not None:
            array = row.change(array, self.config)
        if row.permuted:
            array = pair_rows(array, getattr(self.config, row.permuted))
        step = max(1, CHUNK_VALUES // tensor.columns)
        for first in range(0, len(array), step):
            yield as_type(array[first : first + step], tensor)


WIDER = "float32"  # what weights beyond float16 are written in


def wider(conversion: Conversion) -> Conversion:
    """The same in WIDER.

    bfloat16 would hold such weights too, but llama.cpp then rounds the inputs to it, and beside weights so large that
    alone changed a model's answers by 0.02 to 0.1 nats a token.
    """
    return replace(conversion, dtype=DTYPES[WIDER])


def plan(folder: Path, dtype: str = "float16") -> Conversion:
    """What `export` will write; reads the configuration and the tokenizer, and of the weights at most the head.

    dtype: "float32", "float16" or "bfloat16". Raises what `read_config` and `read_vocabulary` raise.
    """
    if dtype not in DTYPES:
        raise InvalidOption(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    config = read_config(folder)
    if config.tied and has_own_head(folder, config.embedding):
        config = untied(config, str(folder))
    words = read_vocabulary(folder, config.vocabulary, config.family.beyond)
    return Conversion(folder, config, words, DTYPES[dtype])


def has_own_head(folder: Path, embedding: str) -> bool:
    """Whether the weights hold an `lm_head` that is not `embedding`; False where no weights are there yet.

    A merged adapter leaves `tie_word_embeddings: true` beside the head that it trained. transformers keeps that head:
    what the file holds decides, not the flag.
    """
    if not any(folder.glob("*.safetensors")):
        return False
    checkpoint = Checkpoint(folder)
    if not {HEAD, embedding} <= checkpoint.tensors.keys():
        return False
    head, table = (checkpoint.require_float(name) for name in (HEAD, embedding))
    if head.shape != table.shape or head.dtype != table.dtype:
        return True
    step = max(1, CHUNK_VALUES // max(1, head.shape[-1]))
    return any(
        not np.array_equal(checkpoint.rows(HEAD, first, step), checkpoint.rows(embedding, first, step))
        for first in range(0, head.shape[0], step)
    )


def with_pre(conversion: Conversion, pre: str) -> Conversion:
    """The same with another pre-tokenizer's name."""
    return replace(conversion, vocabulary=replace(conversion.vocabulary, pre=pre))


def _parts(source: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of what the checkpoint holds for one tensor: more than one where the heads are separate tensors."""
    if "{head}" not in source:
        return [(source, shape)]
    return [(source.replace("{head}", str(head)), shape[1:]) for head in range(shape[0])]


def _hyperparameters(config: LanguageConfig) -> list[Entry]:
    """The metadata keys that llama.cpp reads for these families."""
    family, name = config.family, config.family.architecture
    numbers = {
        "context_length": config.context,
        "embedding_length": config.hidden,
        "block_count": config.layers,
        "feed_forward_length": config.inner,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head,
        "attention.value_length": config.head,
        **({"rope.dimension_count": config.rotary} if config.rotary else {}),
        "vocab_size": config.vocabulary,
    }
    found = [entry(f"{name}.{key}", value, "u32") for key, value in numbers.items()]
    found.append(entry(f"{name}.{family.epsilon_key}", config.epsilon, "f32"))
    if config.rotary:
        found.append(entry(f"{name}.rope.freq_base", config.rope_theta, "f32"))
    more = family.entries(config)
    found += [entry(f"{name}.{key}", value, "u32") for key, value in more.whole.items()]
    found += [entry(f"{name}.{key}", value, "f32") for key, value in more.real.items()]
    found += [entry(f"{name}.{key}", value, "bool") for key, value in more.flags.items()]
    return found + _scaling(config)


def _scaling(config: LanguageConfig) -> list[Entry]:
    """Positions beyond the trained ones: linear and YaRN are settings, llama3 a tensor of factors."""
    name, scaling = config.family.architecture + ".rope.scaling.", config.rope_scaling
    if scaling["rope_type"] not in ("linear", "yarn"):
        return []
    found = [entry(name + "type", scaling["rope_type"], "str"), entry(name + "factor", scaling["factor"], "f32")]
    if scaling["rope_type"] == "yarn":
        original = int(scaling.get("original_max_position_embeddings") or config.context)
        found.append(entry(name + "original_context_length", original, "u32"))
        for key, setting in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            if scaling.get(setting):
                found.append(entry(name + key, scaling[setting], "f32"))
    return found


def rope_factors(config: LanguageConfig) -> NDArray[np.float32]:
    """What Llama 3.1 divides its rotary frequencies by, (rotary / 2,): 1 for short waves, `factor` for long ones.

    The bands and the smooth passage between them are those of Meta's release, in transformers `rope_type: llama3`.
    """
    scaling = config.rope_scaling
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = float(scaling["original_max_position_embeddings"])
    waves = 2 * np.pi * config.rope_theta ** (np.arange(0, config.rotary, 2) / config.rotary)
    share = np.clip((trained / waves - low) / (high - low), 0, 1)  # 0: long waves, 1: short ones
    factors: NDArray[np.float32] = (1 / ((1 - share) / factor + share)).astype(np.float32)
    return factors


def pair_rows(array: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head in llama.cpp's order: transformers rotates row i with i + half, llama.cpp 2i with 2i + 1.

    array: (heads * width, ...); the same shape comes back.
    """
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def as_type(array: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """The values in the tensor's type; bfloat16 is given and returned as uint16.

    Raises BeyondFloat16 for values beyond float16's range.
    """
    type_name = tensor.type.name
    if array.dtype == np.uint16:
        if type_name == "BF16":
            return np.ascontiguousarray(array)
        array = widen(array)
    if type_name == "BF16":
        return narrow(array.astype(np.float32, copy=False))
    if type_name == "F16" and array.dtype != np.float16 and float(np.abs(array).max()) > LARGEST_FLOAT16:
        raise BeyondFloat16(
            f"{tensor.name} has values beyond float16's range of {LARGEST_FLOAT16:.0f}: export with"
            " dtype='bfloat16' or 'float32'"
        )
    return np.ascontiguousarray(array, np.float32 if type_name == "F32" else np.float16)


def narrow(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """bfloat16 as uint16: the upper half of float32's bits, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), ((bits >> 16) | 0x40).astype(np.uint16), rounded)
