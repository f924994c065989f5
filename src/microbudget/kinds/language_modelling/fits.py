"""Predicted size, memory and speed of every level of a language model, before anything is built.

Sizes are exact to the byte: they follow from the shapes, the tokenizer and the rules of the mixtures. Memory is that of
the file, of copies of the matrices that llama.cpp repacks for its fastest kernels, of the keys and values of a context,
and of the computation. Speed is an upper bound: each token reads every weight once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...errors import InvalidOption, UnsupportedModel
from ...judge.ceilings import ceilings
from ...machine.processor import thread_count
from ...methods.export import Export
from ...methods.quantize import Quantize
from ...methods.quantize.gguf.mixtures import Choice, choose, overrides, refuse_unweighted
from ...methods.quantize.gguf.rewrite import ordered, retyped, updated_entries
from ...methods.quantize.gguf.stock import MIXTURES, Facts
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.gguf import convert as convert_gguf
from ...runtimes.gguf.families.family import POSITIONS
from ...runtimes.gguf.file import DEFAULT_ALIGNMENT, Entry, GgufFile, TensorInfo, length_of
from ...runtimes.gguf.write import Layout, order

LADDER = (  # by bytes
    "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_M", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ2_XS",
)  # fmt: skip
CONTEXT = 4096  # tokens, unless the model was trained for fewer
CACHE_BYTES = 2  # of a value in the cache: float16
MICROBATCH = 512  # tokens that llama.cpp computes at once
# Measured on llama.cpp 0.6 (x86 with AVX-512): models of 5 and 110 million weights, contexts of 512 and 4096 tokens.
REPACKED = frozenset(("Q4_0", "Q4_K", "IQ4_NL"))  # these are in memory twice: as in the file, and repacked
FIXED_BYTES = 7_700_000  # code, and llama.cpp's own data
TOKEN_BYTES, MERGE_BYTES = 183, 200  # of the tokenizer in memory


@dataclass(frozen=True)
class Anatomy:
    """The metadata and the tensors of the model in float16, from which the predictions follow."""

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
    """The predictions for one type of quantization."""

    type: str
    size_bytes: int  # of the file, exactly
    bits_per_weight: float
    context: int  # tokens, for cache_bytes, memory_bytes and full_tokens_per_s
    cache_bytes: int  # keys and values of a full context
    memory_bytes: int  # file, repacked copies, cache, tokenizer and computation
    decode_tokens_per_s: float | None  # at most, as each token reads all weights; None without a bandwidth
    full_tokens_per_s: float | None  # at most, after a full context, whose keys and values are read too
    fallbacks: int  # matrices whose rows fit no block of their type
    types: tuple[str, ...] = field(default=(), repr=False)  # of the tensors, in their order


def anatomy(model: Model) -> Anatomy:
    """Of a Hugging Face folder, whose weights are not read and may be missing, or of a GGUF file.

    Raises what reading them raises, UnsupportedModel for other formats.
    """
    if model.format == "hf":
        return _of_folder(model.path)
    if model.format == "gguf":
        return _of_file(model.weights)
    raise UnsupportedModel(f"{model.path} is a model in {model.format}: sizes of levels are predicted for hf and gguf")


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
        hidden = file.whole(f"{name}.embedding_length", low=1)
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None:
            raise UnsupportedModel(f"{path} has no token_embd.weight: it is no language model")
        return Anatomy(
            entries=tuple(file.entries.values()),
            tensors=tensors,
            facts=facts,
            hidden=hidden,
            inner=file.whole(f"{name}.feed_forward_length", 4 * hidden),
            vocabulary=embedding.rows,
            key_width=file.whole(f"{name}.attention.key_length", hidden // facts.heads),
            value_width=file.whole(f"{name}.attention.value_length", hidden // facts.heads),
            trained_context=file.whole(f"{name}.context_length", CONTEXT, low=1),
            alignment=file.alignment,
        )


def what_fits(model: Model, *, context: int | None = None, threads: int = 0) -> tuple[Level, ...]:
    """The ladder's levels on this machine, with its measured bandwidth.

    Raises what `anatomy` and `levels` raise.
    """
    about = anatomy(model)
    smallest = min(level.size_bytes for level in levels(about, context=context))
    rate = ceilings(thread_count(threads)).bandwidth(smallest)
    return levels(about, context=context, read_bytes_per_s=rate)


def levels(
    about: Anatomy,
    types: Sequence[str] = LADDER,
    *,
    context: int | None = None,
    at_once: int = MICROBATCH,
    imatrix: bool = True,
    read_bytes_per_s: float | None = None,
) -> tuple[Level, ...]:
    """A row for each type that the model's shapes allow, in the given order.

    context: tokens, by default what the model was trained for, at most CONTEXT. at_once: tokens of a prompt that are
    read in one batch. read_bytes_per_s: the machine's bandwidth (`judge.ceilings`). Raises InvalidOption for an unknown
    type or a context out of range.
    """
    unknown = [kind for kind in types if kind not in MIXTURES]
    if unknown:
        raise InvalidOption(f"there is no type {unknown[0]!r}; there are {', '.join(MIXTURES)}")
    size = min(CONTEXT, about.trained_context) if context is None else context
    if size < 1:
        raise InvalidOption(f"a context has at least 1 token, not {size}")
    found = []
    for kind in types:
        try:
            choices = choose(order(about.tensors), about.facts, kind, imatrix=imatrix)
        except UnsupportedModel:  # rows that fit no block of it
            continue
        found.append(_level(about, kind, choices, size, min(at_once, size), read_bytes_per_s))
    return tuple(found)


def predictable(recipe: Recipe) -> bool:
    """Whether a recipe only converts and quantizes: the size after pruning or trimming is not known in advance."""
    return bool(recipe.steps) and all(
        isinstance(step, Quantize) or (isinstance(step, Export) and step.format == "gguf") for step in recipe.steps
    )


def of_recipe(
    about: Anatomy, recipe: Recipe, *, context: int = 1, read_bytes_per_s: float | None = None
) -> tuple[Level, ...]:
    """The prediction for each step of a predictable recipe.

    context: tokens, which are read in one batch. Raises InvalidOption for a type that needs an importance matrix
    without one, UnsupportedModel for rows that fit no type.
    """
    found = []
    for step in recipe.steps:
        if isinstance(step, Export):
            kind = convert_gguf.DTYPES[step.dtype or "float16"]
            choices = choose(order(about.tensors), about.facts, kind, imatrix=False)
        else:
            assert isinstance(step, Quantize)
            kind, weighted = step.level, step.imatrix is not False
            changes = overrides(step.tensors)
            choices = choose(order(about.tensors), about.facts, kind, imatrix=weighted, overrides=changes)
            if not weighted:
                refuse_unweighted(choices, kind)
        found.append(_level(about, kind, choices, context, context, read_bytes_per_s))
    return tuple(found)


def _level(
    about: Anatomy, kind: str, choices: Sequence[Choice], context: int, at_once: int, rate: float | None
) -> Level:
    tensors = retyped(choices)
    layout = Layout(updated_entries(about.entries, kind), tensors, about.alignment)
    weights = sum(tensor.size_bytes for tensor in tensors)
    cache = about.cache_token_bytes * padded_context(context)
    return Level(
        type=kind,
        size_bytes=layout.size_bytes,
        bits_per_weight=8 * weights / sum(tensor.parameters for tensor in tensors),
        context=context,
        cache_bytes=cache,
        memory_bytes=layout.size_bytes + packed_bytes(tensors) + cache + compute_bytes(about, at_once),
        decode_tokens_per_s=None if rate is None else rate / bytes_per_token(tensors),
        full_tokens_per_s=None if rate is None else rate / (bytes_per_token(tensors) + cache),
        fallbacks=sum(choice.fell_back for choice in choices),
        types=tuple(tensor.type.name for tensor in tensors),
    )


def bytes_per_token(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of weights that one token reads: all, but one row of tables, of which the tokens' may be the head too."""
    tensors = tuple(tensors)
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    tables = (POSITIONS,) if tied else (POSITIONS, "token_embd.weight")
    return sum(
        tensor.type.bytes_of((tensor.columns,)) if tensor.name in tables else tensor.size_bytes for tensor in tensors
    )


def padded_context(context: int) -> int:
    """llama.cpp rounds a context up to a multiple of 256 tokens."""
    return -(-context // 256) * 256


def packed_bytes(tensors: Iterable[TensorInfo]) -> int:
    """Bytes of the copies that llama.cpp repacks: matrices of some types with a multiple of eight rows."""
    return sum(
        tensor.size_bytes
        for tensor in tensors
        if tensor.type.name in REPACKED and tensor.rows % 8 == 0 and tensor.name != "token_embd.weight"
    )


def compute_bytes(about: Anatomy, tokens: int) -> int:
    """Bytes apart from weights and cache: a layer's activations for `tokens` tokens, logits, tokenizer, code."""
    widths = 2 * about.inner + 8 * about.hidden
    merges = next((length_of(entry) for entry in about.entries if entry.key == "tokenizer.ggml.merges"), 0)
    words = TOKEN_BYTES * about.vocabulary + MERGE_BYTES * merges
    return FIXED_BYTES + words + 4 * (min(tokens, MICROBATCH) * widths + about.vocabulary)
