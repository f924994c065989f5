"""What a family of language models is: its tensors and settings in transformers, and what they are in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import UnsupportedModel
from ...hf.checkpoint import widen

LAYER = "model.layers.{layer}."
BLOCK = "blk.{layer}."
SILU = ("silu", "swish")
# llama.cpp's GELU is the one by the hyperbolic tangent, and transformers has several names for it.
GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
POSITIONS = "position_embd.weight"
SLIDING_WINDOW = 4096  # of transformers, where a family has one and config.json is silent
Settings = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One tensor: its two names, its shape by the names of `LanguageConfig`'s fields, and when it exists."""

    source: str  # in transformers; "{layer}" and "{head}" are numbers, the heads are stacked
    target: str  # in llama.cpp
    shape: tuple[str, ...]
    when: Callable[[LanguageConfig], bool] = lambda _: True
    permuted: str = ""  # "heads" or "kv_heads": rows are paired in another order, see `convert.pair_rows`
    transposed: bool = False  # transformers stores the matrix as (inputs, outputs)
    change: Callable[[NDArray[Any], LanguageConfig], NDArray[Any]] | None = None  # of the values or of their order

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in transformers of a tensor that has `shape` in llama.cpp."""
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class Entries:
    """Metadata of a family's own, without the architecture's name: numbers and flags by key."""

    whole: Mapping[str, int] = field(default_factory=dict)
    real: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What one `model_type` of transformers is in llama.cpp."""

    architecture: str
    rows: tuple[Row, ...]
    epsilon: str = "rms_norm_eps"  # the setting's name in config.json
    epsilon_key: str = "attention.layer_norm_rms_epsilon"
    activation: tuple[str, tuple[str, ...]] = ("hidden_act", SILU)  # the setting's name, and what llama.cpp computes
    rotary: float = 1.0  # default of partial_rotary_factor; 0: positions are learned, not rotated
    scalings: tuple[str, ...] = ("default", "linear", "llama3", "yarn")  # of rotated positions, in llama.cpp's graph
    defaults: Settings = field(default_factory=dict)  # of transformers, where config.json may be silent
    names: Mapping[str, str] = field(default_factory=dict)  # this family's or an old name -> the usual one
    prefix: str = "model."  # of all names but the head's, where the base model was not saved alone
    own_head: bool = True  # whether llama.cpp's graph takes a head besides the table of tokens
    beyond: tuple[str, ...] = ()  # tokens of the tokenizer that the model has no rows for, and never sees
    nullable: tuple[str, ...] = ()  # settings whose null is no silence, but says that there is none
    slides: bool = False  # over a window, always; else where `use_sliding_window` says so
    window: int | None = SLIDING_WINDOW  # where it slides and config.json is silent; None: none
    settle: Callable[[Settings], Settings] = lambda settings: settings  # derives what the family says in its own way
    check: Callable[[Settings, str], None] = lambda _settings, _name: None  # raises UnsupportedModel
    entries: Callable[[LanguageConfig], Entries] = lambda _: Entries()

    def usual(self, raw: Settings) -> Settings:
        """The settings by their usual names, with transformers' values where they are silent."""
        given = {key: value for key, value in raw.items() if value is not None}
        renamed = {usual: given[name] for name, usual in self.names.items() if name in given}
        silent = {key: value for key, value in self.defaults.items() if not (key in self.nullable and key in raw)}
        return self.settle({**silent, **given, **renamed})


@dataclass(frozen=True)
class LanguageConfig:
    """The `config.json` of a language model, checked."""

    model_type: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int  # width of a head
    inner: int
    vocabulary: int
    context: int  # most positions
    epsilon: float
    rope_theta: float
    rope_scaling: dict[str, Any]  # with "rope_type"
    rotary: int  # rotated values of a head
    tied: bool
    raw: Settings  # by their usual names

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.kv_heads * self.head

    @property
    def attention_inputs(self) -> int:
        """Width of queries, keys and values together."""
        return self.queries + 2 * self.keys

    @property
    def gate_and_up(self) -> int:
        """Width of both halves of the feed-forward part together."""
        return 2 * self.inner

    @property
    def embedding(self) -> str:
        """The name of the table of tokens in transformers."""
        return next(row.source for row in self.family.rows if row.target == "token_embd.weight")

    def tensors(self) -> Iterator[tuple[Row, str, str, tuple[int, ...]]]:
        """Every tensor of the model: its row, name in transformers, name in llama.cpp, shape in llama.cpp."""
        for row in self.family.rows:
            if row.when(self):
                shape = tuple(getattr(self, word) for word in row.shape)
                for layer in range(self.layers) if "{layer}" in row.source else (0,):
                    yield (
                        row,
                        row.source.replace("{layer}", str(layer)),
                        row.target.replace("{layer}", str(layer)),
                        shape,
                    )


def weight(source: str, target: str, *shape: str, **more: Any) -> tuple[Row, ...]:
    """A weight; `more` as in Row."""
    return (Row(f"{source}.weight", f"{target}.weight", shape, **more),)


def biased(
    source: str, target: str, *shape: str, bias: Callable[[LanguageConfig], bool] = lambda _: True, **more: Any
) -> tuple[Row, ...]:
    """A weight, and its bias under a condition; the order of rows that changes is the bias's too."""
    rotated = more.get("permuted", "")
    return (
        Row(f"{source}.weight", f"{target}.weight", shape, **more),
        Row(f"{source}.bias", f"{target}.bias", shape[:1], when=bias, permuted=rotated),
    )


def head_row(config_has_one: Callable[[LanguageConfig], bool] = lambda config: not config.tied) -> tuple[Row, ...]:
    """The head, where it is not the table of tokens."""
    return weight("lm_head", "output", "vocabulary", "hidden", when=config_has_one)


def condition(flag: str | bool) -> Callable[[LanguageConfig], bool]:
    """Of a setting, or the same for every model."""
    return (lambda config: bool(config.raw.get(flag, False))) if isinstance(flag, str) else (lambda _: flag)


def widened(settings: Settings, key: str) -> Any:
    """The width of a feed-forward part: the setting `key`, by default four times that of the layers."""
    hidden = settings.get("hidden_size")
    return settings.get(key, 4 * hidden if type(hidden) is int else None)


def refuse_set(settings: Settings, name: str, flags: Mapping[str, str]) -> None:
    """Raise UnsupportedModel where a setting is on that llama.cpp's graph does not have; flags: setting -> why."""
    for flag, why in flags.items():
        if settings.get(flag):
            raise UnsupportedModel(f"{name}: {flag} is on, and {why}")


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """The values in float32; bfloat16 is given as uint16."""
    return widen(array) if array.dtype == np.uint16 else array.astype(np.float32, copy=False)
