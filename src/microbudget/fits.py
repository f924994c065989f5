"""What fits: size, memory and speed of every level of a language model, before anything is built.

Sizes are exact to the byte: they follow from the shapes, the tokenizer and the rules of the mixtures. Memory is the
file, the keys and values of a context, and what llama.cpp needs to compute. Speed is a ceiling: a token reads every
weight once, so it cannot come faster than memory delivers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import InvalidOption, UnsupportedModel
from .methods.quantize.gguf.mixtures import MIXTURES, Choice, Facts, choose
from .methods.quantize.gguf.rewrite import changed, ordered, renewed
from .model import Model
from .runtimes import convert_gguf
from .runtimes.gguf_file import DEFAULT_ALIGNMENT, Entry, GgufFile, TensorInfo
from .runtimes.gguf_write import Layout, order

LADDER = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_XS")
CONTEXT = 4096  # tokens, unless the model was trained for fewer
CACHE_BYTES = 2  # of a value in the cache: float16
MICROBATCH = 512  # tokens that llama.cpp computes at once


@dataclass(frozen=True)
class Anatomy:
    """What the predictions follow from: the metadata and the tensors of the model in float16."""

    entries: tuple[Entry, ...]
    tensors: tuple[TensorInfo, ...]
    facts: Facts
    hidden: int
    inner: int
    vocabulary: int
    key_width: int  # of a head
    value_width: int
    trained_context: int
    alignment: int = DEFAULT_ALIGNMENT

    @cached_property
    def cache_token_bytes(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        return self.facts.layers * self.facts.kv_heads * (self.key_width + self.value_width) * CACHE_BYTES


@dataclass(frozen=True)
class Level:
    """What one type makes of the model."""

    type: str
    size_bytes: int  # of the file, exactly
    bits_per_weight: float
    context: int  # tokens that the next two are for
    cache_bytes: int  # keys and values of a full context
    memory_bytes: int  # file, cache and what computing takes
    decode_tokens_per_s: float | None  # at most, behind an empty and a full context alike; None without a bandwidth
    fallbacks: int  # matrices whose rows fit no block of their type


def anatomy(model: Model) -> Anatomy:
    """Of a Hugging Face folder, whose weights are not read and need not be there, or of a GGUF file.

    Raises what reading them raises, UnsupportedModel for other formats.
    """
    if model.format == "hf":
        return _of_folder(model.path)
    if model.format == "gguf":
        return _of_file(model.weights)
    raise UnsupportedModel(f"{model.path} is a model in {model.format}: sizes of levels are told for hf and gguf")


def _of_folder(folder: Path) -> Anatomy:
    conversion = convert_gguf.plan(folder)
    config = conversion.config
    facts = Facts(config.family.architecture, config.layers, config.heads, config.kv_heads)
    return Anatomy(
        entries=conversion.layout.entries,
        tensors=conversion.layout.tensors,
        facts=facts,
        hidden=config.hidden,
        inner=config.inner,
        vocabulary=config.vocabulary,
        key_width=config.head,
        value_width=config.head,
        trained_context=config.context,
    )


def _of_file(path: Path) -> Anatomy:
    with GgufFile(path) as file:
        name = file.architecture
        facts, tensors = Facts.of(file), ordered(file)
        hidden = int(file.require(f"{name}.embedding_length"))
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None:
            raise UnsupportedModel(f"{path} has no token_embd.weight: it is no language model")
        return Anatomy(
            entries=tuple(file.entries.values()),
            tensors=tensors,
            facts=facts,
            hidden=hidden,
            inner=int(file.get(f"{name}.feed_forward_length", 4 * hidden)),
            vocabulary=embedding.rows,
            key_width=int(file.get(f"{name}.attention.key_length", hidden // facts.heads)),
            value_width=int(file.get(f"{name}.attention.value_length", hidden // facts.heads)),
            trained_context=int(file.get(f"{name}.context_length", CONTEXT)),
            alignment=file.alignment,
        )


def levels(
    about: Anatomy,
    types: Sequence[str] = LADDER,
    *,
    context: int | None = None,
    imatrix: bool = True,
    read_bytes_per_s: float | None = None,
) -> tuple[Level, ...]:
    """A row for each type that the model's shapes allow, in the given order.

    context: tokens, by default what the model was trained for, at most CONTEXT. read_bytes_per_s: the machine's
    bandwidth (`judge.ceilings`). Raises InvalidOption for an unknown type or a context out of range.
    """
    unknown = [kind for kind in types if kind not in MIXTURES]
    if unknown:
        raise InvalidOption(f"there is no type {unknown[0]!r}; there are {', '.join(MIXTURES)}")
    size = min(CONTEXT, about.trained_context) if context is None else context
    if size < 1:
        raise InvalidOption(f"a context has at least 1 token, not {size}")
    return tuple(_possible(about, types, size, imatrix, read_bytes_per_s))


def _possible(
    about: Anatomy, types: Sequence[str], context: int, imatrix: bool, read_bytes_per_s: float | None
) -> Iterable[Level]:
    for kind in types:
        try:
            choices = choose(order(about.tensors), about.facts, kind, imatrix=imatrix)
        except UnsupportedModel:  # rows that fit no block of it
            continue
        yield _level(about, kind, choices, context, read_bytes_per_s)


def _level(about: Anatomy, kind: str, choices: Sequence[Choice], context: int, rate: float | None) -> Level:
    tensors = changed(choices)
    layout = Layout(renewed(about.entries, kind), tensors, about.alignment)
    weights = sum(tensor.size_bytes for tensor in tensors)
    cache = about.cache_token_bytes * padded_context(context)
    return Level(
        type=kind,
        size_bytes=layout.size_bytes,
        bits_per_weight=8 * weights / sum(tensor.parameters for tensor in tensors),
        context=context,
        cache_bytes=cache,
        memory_bytes=weights + cache + compute_bytes(about, context),
        decode_tokens_per_s=None if rate is None else rate / (bytes_per_token(tensors) + cache),
        fallbacks=sum(choice.fell_back for choice in choices),
    )


def bytes_per_token(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of weights that one token reads: all, but of the embedding a row, unless it is the output too."""
    tensors = tuple(tensors)
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    return sum(
        tensor.type.bytes_of((tensor.columns,))
        if tensor.name == "token_embd.weight" and not tied
        else tensor.size_bytes
        for tensor in tensors
    )


def padded_context(context: int) -> int:
    """llama.cpp rounds a context up to a multiple of 256 tokens."""
    return -(-context // 256) * 256


def compute_bytes(about: Anatomy, context: int) -> int:
    """What llama.cpp allocates to compute: the values of a layer for as many tokens as it processes at once."""
    tokens = min(context, MICROBATCH)
    widths = 2 * about.inner + 4 * about.hidden
    return 4 * (tokens * widths + about.vocabulary)
