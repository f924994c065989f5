"""Which type each tensor gets in the stock mixtures of llama.cpp's quantizer: "Q4_K_M" is mostly Q4_K, some Q6_K.

The rules were read off llama.cpp's results; tests/golden/mixtures.txt holds its own answers for 20 models and every
mixture, with and without an importance matrix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ....errors import InvalidOption, UnsupportedModel
from ....runtimes.gguf.file import TensorInfo
from ....runtimes.gguf.types import FILE_TYPES, TYPES, GgmlType, find
from .stock import MIXTURES, Facts, Mixture, Place, mixture

# Role of a tensor by the first of these texts that its name holds.
ROLES = (
    ("attn_qkv.weight", "value"),
    ("attn_kv_b.weight", "value"),
    ("attn_v.weight", "value"),
    ("attn_k.weight", "key"),
    ("attn_q.weight", "query"),
    ("attn_output.weight", "attention_output"),
    ("ffn_up", "up"),
    ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)
# Matrices that stay as they are: tables of positions, gates of experts, small ones of other architectures.
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|^position_embd\.weight"
    r"|^token_types\.weight|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|time_mix_"
    r"|attn_rel_b\.weight|\.position_embd|\.rel_pos|\.patch_embd|\.patch_merger|sam\.(pos_embd|neck\.|net_)"
    r"|a\.rvq\.codebook|mm\.a\.code_embd"
)


# Mixtures whose attention outputs get Q5_K, keys and values Q8_0, in a model of eight experts.
_EIGHT_EXPERTS = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M",
    "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
_TINY = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
# Rows that are no multiple of a type's block: what llama.cpp takes instead.
FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0", "Q2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"), "F16"),
}
_NEED_IMATRIX = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


@dataclass(frozen=True)
class Choice:
    """The type of a tensor, and the type it would have had if its rows had been whole blocks."""

    tensor: TensorInfo  # as it is stored now
    type: GgmlType
    wanted: GgmlType

    @property
    def fell_back(self) -> bool:
        """Whether the rows did not fit the wanted type."""
        return self.type != self.wanted

    @property
    def extra_bytes(self) -> int:
        """What the fallback costs against the wanted type, were rows divisible."""
        return round(self.tensor.parameters * (self.type.bits_per_weight - self.wanted.bits_per_weight) / 8)


@dataclass(frozen=True)
class Override:
    """A type for the tensors whose names hold a pattern."""

    pattern: re.Pattern[str]
    type: GgmlType


def overrides(text: str) -> tuple[Override, ...]:
    """Types by pattern: "attn_v=Q8_0, blk.0.=Q6_K". Raises InvalidOption for a bad pattern or type."""
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        pattern, _, type_name = (piece.strip() for piece in part.rpartition("="))
        if not pattern or not type_name:
            raise InvalidOption(f"tensors: {part!r} is not of the form pattern=TYPE, such as attn_v=Q8_0")
        found.append(Override(_compiled(pattern), find(type_name)))
    return tuple(found)


def choose(
    tensors: Iterable[TensorInfo],
    facts: Facts,
    file_type: str,
    *,
    imatrix: bool,
    overrides: Sequence[Override] = (),
) -> tuple[Choice, ...]:
    """The type of every tensor in a mixture, as llama.cpp's quantizer chooses it.

    tensors: in the order of `runtimes.gguf.write.order`. overrides: the first whose pattern the name holds counts; the
    other tensors keep what they have without them. Raises InvalidOption for a mixture that is unknown,
    UnsupportedModel for rows that fit no type.
    """
    rules = _mixture(file_type, facts)
    tensors = tuple(tensors)
    names = [tensor.name for tensor in tensors]
    values = sum(role_of(name) == "value" for name in names)
    seen: Counter[str] = Counter()
    found = []
    for tensor in tensors:
        wanted = tensor.type
        if quantizable(tensor):
            role = role_of(tensor.name)
            place = Place(
                _index(tensor.name, role, seen, facts), values if role == "value" else facts.layers, facts, imatrix
            )
            seen[role] += 1
            wanted = _manual(tensor.name, overrides) or _stock(
                rules, file_type, tensor, role, place, tied="output.weight" not in names
            )
        found.append(Choice(tensor, _fitting(tensor, wanted), wanted))
    return tuple(found)


def quantizable(tensor: TensorInfo) -> bool:
    """Whether the quantizer changes a tensor at all: matrices do, vectors and norms stay."""
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not _KEPT.search(tensor.name)


def needs_imatrix(choice: Choice, file_type: str) -> bool:
    """Whether llama.cpp takes the result for useless without an importance matrix."""
    if choice.tensor.name in ("token_embd.weight", "output.weight") or not quantizable(choice.tensor):
        return False
    return choice.type.name in _NEED_IMATRIX or (choice.type.name == "Q2_K" and file_type == "Q2_K_S")


def refuse_unweighted(choices: Sequence[Choice], file_type: str) -> None:
    """Raise InvalidOption where a tensor would be useless, since there is no importance matrix."""
    needing = next((choice for choice in choices if needs_imatrix(choice, file_type)), None)
    if needing is not None:
        raise InvalidOption(
            f"quantize: {file_type} needs an importance matrix ({needing.tensor.name} would be {needing.type.name},"
            " garbage without one): leave imatrix=True with training text, give a stored one, or choose Q2_K or larger"
        )


def role_of(name: str) -> str:
    """What a tensor does, as far as the rules distinguish it."""
    if name in ("output.weight", "token_embd.weight"):
        return name.split(".")[0]
    return next((role for text, role in ROLES if text in name), "other")


def _mixture(file_type: str, facts: Facts) -> Mixture:
    if file_type not in MIXTURES:
        raise InvalidOption(f"there is no type {file_type!r} of GGUF files; there are {', '.join(FILE_TYPES)}")
    return mixture(file_type, facts)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidOption(f"{pattern!r} is not a valid pattern for names of tensors: {error}") from error


def _index(name: str, role: str, seen: Counter[str], facts: Facts) -> int:
    """The n-th of its role; experts of a layer count as one."""
    if facts.experts > 1 and role in ("up", "gate", "down"):
        return int(name.split(".")[1])
    return seen[role]


def _manual(name: str, overrides: Sequence[Override]) -> GgmlType | None:
    return next((one.type for one in overrides if one.pattern.search(name)), None)


def _stock(found: Mixture, file_type: str, tensor: TensorInfo, role: str, place: Place, *, tied: bool) -> GgmlType:
    default = TYPES[found.default]
    if not default.quantized:
        return default
    if role == "output" or (role == "token_embd" and tied):
        return TYPES[found.head if default.fits(tensor.columns) else "Q8_0"]
    if file_type == "MXFP4_MOE":
        return TYPES["MXFP4" if len(tensor.shape) == 3 and tensor.shape[0] > 1 else "Q8_0"]
    if role == "token_embd":
        return TYPES[found.embedding or found.default]
    rule = found.roles.get(role)
    type_name = rule if isinstance(rule, str) or rule is None else rule(place)
    return TYPES[_exceptions(type_name or found.default, file_type, role, place.facts)]


def _exceptions(type_name: str, file_type: str, role: str, facts: Facts) -> str:
    """Models of 70 billion parameters and of eight experts get larger types."""
    if file_type in _TINY:
        eight = {"key": "Q4_K", "attention_output": "Q5_K"}
    else:
        output = "Q5_K" if file_type in _EIGHT_EXPERTS else MIXTURES[file_type].default
        eight = {"key": "Q8_0", "value": "Q8_0", "attention_output": output}
    if facts.experts == 8 and role in eight:
        return eight[role]
    if role == "value" and facts.seventy and type_name in ("Q3_K", "Q4_K") and file_type not in _TINY:
        return "Q5_K"
    return type_name


def _fitting(tensor: TensorInfo, wanted: GgmlType) -> GgmlType:
    """The wanted type, or what llama.cpp falls back to for rows that are no multiple of its block."""
    if wanted.fits(tensor.columns):
        return wanted
    if wanted.name not in FALLBACK:
        raise UnsupportedModel(
            f"{tensor.name} has rows of {tensor.columns} values, which {wanted.name} (blocks of {wanted.block}) cannot"
            " hold, and llama.cpp has no other type for them: choose a K type, such as Q4_K_M"
        )
    other = TYPES[FALLBACK[wanted.name]]
    return other if other.fits(tensor.columns) else TYPES["F16"]
