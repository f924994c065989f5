"""Does it run there? Each level of a language model on a device of the facts: memory, speed, joules, what to give up.

Sizes are exact where the model's tokenizer is there (`fits.anatomy`); from a config alone the tokenizer is estimated,
which is under 1 % of a file. Speed is an upper bound: the bytes that a step reads over the bandwidth of the data sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InvalidOption, MicrobudgetError, ModelNotFound, UnsupportedModel
from ...footprint import asking
from ...footprint.facts import Device, devices, find_device
from ...footprint.inference import joules_to_read
from ...footprint.networks import Network, Shape, of_config, shape_of
from ...methods.quantize.gguf.stock import Facts
from ...runtimes.gguf.file import TensorInfo
from ...runtimes.gguf.types import TYPES
from ...runtimes.loading import load
from .fits import LADDER, Anatomy, Level, anatomy, bytes_per_token, levels, packed_bytes

KINDS = ("desktop-gpu", "laptop-gpu", "soc", "laptop", "cpu", "board", "gpu")  # that hold a language model
SMALLEST = 1e9  # bytes of memory
# Bytes that others hold: a desktop on its GPU, a system; of memory shared with a GPU macOS lends three quarters.
RESERVED = {
    "desktop-gpu": 0.8e9,
    "laptop-gpu": 0.4e9,
    "gpu": 0.6e9,
    "soc": 0.0,
    "laptop": 3e9,
    "cpu": 3e9,
    "board": 1e9,
}
UNIFIED = 0.75
CACHES = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}  # bytes over float16's
SHORTEST = 512  # tokens of a context that is worth having
HOST_BYTES, HOST_SPEED = 32e9, 51e9  # of the computer around a GPU: two channels of DDR4-3200
WORD_BYTES = 24  # of a token in a GGUF file: its text, score, type and merge


@dataclass(frozen=True)
class Placed:
    """A level on a device."""

    device: str
    type: str
    size_bytes: int
    context: int
    batch: int
    memory_bytes: int  # file, caches of all answers, computation
    usable_bytes: int
    fits: bool
    tokens_per_s: float | None  # of all answers together, at most; None where it does not fit in any way
    energy_j_per_token: float | None
    energy_low_j_per_token: float | None
    energy_high_j_per_token: float | None
    longest_context: dict[str, int]  # by type of the cache, in the memory that is left
    layers: int
    layers_on_device: int  # with the rest in the computer's memory, where there is one around the device
    give_up: str  # "" where it fits
    origin: str


def sketch(config: Mapping[str, Any], name: str) -> Anatomy:
    """The tensors of a config as llama.cpp would name them, mixtures of experts too, without a tokenizer.

    Raises UnsupportedModel for a config without layers or of another kind of network.
    """
    shape = shape_of(config, name)
    if shape.encoder or config.get("is_encoder_decoder") or not shape.vocabulary:
        raise UnsupportedModel(f"{name} is no language model that writes from left to right")
    tensors = [*_outside(shape), *(tensor for layer in range(shape.layers) for tensor in _layer(shape, layer))]
    facts = Facts(shape.model_type or "llama", shape.layers, shape.heads, shape.kv_heads, shape.experts)
    width = round(shape.cache_values() / shape.layers / shape.kv_heads / 2)
    return Anatomy(
        (), tuple(tensors), facts, shape.hidden, shape.inner, shape.vocabulary, width, width, shape.trained_context
    )


def _tensor(name: str, *sizes: int, kind: str = "F16") -> TensorInfo:
    return TensorInfo(f"{name}.weight", sizes, TYPES[kind])


def _outside(shape: Shape) -> list[TensorInfo]:
    found = [_tensor("token_embd", shape.vocabulary, shape.hidden), _tensor("output_norm", shape.hidden, kind="F32")]
    return found if shape.tied else [*found, _tensor("output", shape.vocabulary, shape.hidden)]


def _layer(shape: Shape, layer: int) -> list[TensorInfo]:
    hidden, wide = shape.hidden, shape.heads * shape.head
    at = f"blk.{layer}."
    found = [_tensor(f"{at}{name}", hidden, kind="F32") for name in ("attn_norm", "ffn_norm")]
    found += [
        _tensor(f"{at}attn_q", wide, hidden),
        _tensor(f"{at}attn_k", shape.kv_heads * shape.head, hidden),
        _tensor(f"{at}attn_v", shape.kv_heads * shape.head, hidden),
        _tensor(f"{at}attn_output", hidden, wide),
    ]
    sparse = shape.sparse_layers()
    has_experts = layer >= shape.layers - sparse if sparse > shape.layers // 2 else sparse and layer % 2 == 1
    names = ("ffn_up", "ffn_gate") if shape.matrices == 3 else ("ffn_up",)
    if not has_experts:
        inner = shape.dense_width()
        return [*found, *(_tensor(f"{at}{n}", inner, hidden) for n in names), _tensor(f"{at}ffn_down", hidden, inner)]
    number, width, shared = shape.experts, shape.expert_width(), shape.shared()
    found += [_tensor(f"{at}ffn_gate_inp", number, hidden, kind="F32")]
    found += [_tensor(f"{at}{n}_exps", number, width, hidden) for n in ("ffn_up", "ffn_gate")]
    found += [_tensor(f"{at}ffn_down_exps", number, hidden, width)]
    if shared:
        found += [_tensor(f"{at}{n}_shexp", shared, hidden) for n in ("ffn_up", "ffn_gate")]
        found += [_tensor(f"{at}ffn_down_shexp", hidden, shared)]
    return found


def opened(name: str) -> tuple[Anatomy, Network | None, bool]:
    """The tensors of a MODEL, its network where a config says it, and whether sizes are exact.

    Raises what loading raises where there is no config either.
    """
    config = asking.config_of(name)
    network = None if config is None else of_config(config[1], name)
    try:
        if config is not None and not Path(name).exists():
            raise ModelNotFound(name)  # a known hub id: nothing is fetched
        return anatomy(load(name, weights=False)), network, True
    except MicrobudgetError:
        if config is None:
            if Path(name).exists():
                raise
            raise asking.not_found(name) from None
        return sketch(config[1], name), network, False


def chosen_devices(text: str) -> list[Device]:
    """The devices of --device: names with commas, or all that hold a language model. Raises InvalidOption."""
    if text.strip().lower() == "all":
        return [each for each in devices().values() if each.family in KINDS and each.memory_bytes >= SMALLEST]
    found = [find_device(name) for name in text.split(",")]
    for each in found:
        if each.family not in KINDS or each.memory_bytes < SMALLEST or not each.bytes_per_s:
            raise InvalidOption(f"{each.name} holds no language model: its memory is {each.memory_bytes / 1e6:.3g} MB")
    return found


def place(name: str, where: str, *, context: int | None = None, batch: int = 1) -> list[Placed]:
    """Every level on every device, in the order of the devices. Raises what `opened` and `levels` raise."""
    if not 1 <= batch <= 100_000:
        raise InvalidOption(f"--batch is a whole number from 1, not {batch}")
    targets = chosen_devices(where)
    about, network, exact = opened(name)
    words = 0 if exact else WORD_BYTES * about.vocabulary
    costs = []
    for row in levels(about, LADDER, context=context):
        tensors = _typed(about, row)
        costs.append(_Cost(row, row.size_bytes + words, _read(tensors, network, batch), packed_bytes(tensors), words))
    return [_placed(about, cost, device, batch) for device in targets for cost in costs]


@dataclass(frozen=True)
class _Cost:
    """What a level takes anywhere."""

    level: Level
    size_bytes: int
    read_bytes: float  # of weights in a step
    packed_bytes: int  # copies that llama.cpp makes on processors
    words_bytes: int  # of the tokenizer, where it was estimated


def usable(device: Device) -> float:
    """Bytes that a model may take there."""
    held = device.memory_bytes * (UNIFIED if device.family == "soc" else 1.0)
    return max(0.0, held - RESERVED[device.family])


def _placed(about: Anatomy, cost: _Cost, device: Device, batch: int) -> Placed:
    level, size = cost.level, cost.size_bytes
    separate = device.family in ("desktop-gpu", "laptop-gpu", "gpu")
    copies = 0 if device.family in ("cpu", "laptop") else cost.packed_bytes
    fixed = level.memory_bytes - level.cache_bytes - copies + cost.words_bytes
    needed, room = fixed + batch * level.cache_bytes, usable(device)
    each = about.cache_token_bytes * batch
    longest = {name: max(0, int((room - fixed) / (each * share))) for name, share in CACHES.items()}
    fits, on_device = needed <= room, about.facts.layers
    outside = 0.0
    if not fits and separate:
        body = size / about.facts.layers + batch * level.cache_bytes / about.facts.layers
        on_device = max(0, min(about.facts.layers, int((room - (fixed - size)) / body)))
        outside = (about.facts.layers - on_device) / about.facts.layers
    possible = fits or (separate and outside * (size + batch * level.cache_bytes) < HOST_BYTES * 0.8)
    read = cost.read_bytes + batch * level.cache_bytes
    seconds = read * (1 - outside) / device.bytes_per_s + read * outside / HOST_SPEED
    joules = joules_to_read(device, read * (1 - outside)) if possible else None
    if joules is not None:
        joules = joules * (1 / batch)
        if (
            outside
        ):  # while the processor reads its part, the device waits and the computer around it draws 60 W or more
            joules = joules + joules_to_read(find_device("desktop"), read * outside) * (1 / batch)
    return Placed(
        device.name, level.type, size, level.context, batch, needed, int(room), fits,
        batch / seconds if possible else None,
        joules.middle if joules else None, joules.low if joules else None, joules.high if joules else None,
        longest, about.facts.layers, on_device if possible else 0,
        "" if fits else _give_up(longest, level, on_device, about.facts.layers, separate and possible), device.origin,
    )  # fmt: skip


def _typed(about: Anatomy, level: Level) -> Sequence[TensorInfo]:
    from ...runtimes.gguf.write import order

    return [TensorInfo(t.name, t.shape, TYPES[kind]) for t, kind in zip(order(about.tensors), level.types, strict=True)]


def _read(tensors: Sequence[TensorInfo], network: Network | None, batch: int) -> float:
    """Bytes of weights that a step reads: of experts those that any of the answers chooses."""
    experts = sum(tensor.size_bytes for tensor in tensors if "_exps." in tensor.name)
    rest = bytes_per_token(tensors) - experts
    if not experts or network is None or not network.experts:
        return rest + experts
    return rest + experts * (1 - (1 - network.chosen / network.experts) ** batch)


def _give_up(longest: Mapping[str, int], level: Level, on_device: int, layers: int, separate: bool) -> str:
    """What to give up so that it runs, the least first."""
    for name in ("q8_0", "q4_0"):
        if longest[name] >= level.context:
            return f"cache in {name}"
    for name in ("f16", "q4_0"):
        if longest[name] >= SHORTEST:
            return f"context: {longest[name]} tokens" + ("" if name == "f16" else f" with the cache in {name}")
    if separate and on_device:
        return f"speed: {on_device} of {layers} layers on the device, the others in the computer's memory"
    if separate and on_device == 0 and level.size_bytes < HOST_BYTES * 0.8:
        return "the device: all layers in the computer's memory"
    return "too large: a smaller level or model"
