"""llama.cpp's stock mixtures as a table: the type of most tensors, and by role and place what differs from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ....errors import UnsupportedModel
from ....runtimes.gguf.file import GgufFile


@dataclass(frozen=True)
class Facts:
    """What the rules need to know about a model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0

    @classmethod
    def of(cls, file: GgufFile) -> Facts:
        """From a file's metadata. Raises UnsupportedModel when they are not there."""
        name = file.architecture
        layers, heads = (file.wholes(f"{name}.{key}", low=1) for key in ("block_count", "attention.head_count"))
        kv_heads = file.wholes(f"{name}.attention.head_count_kv", heads[0])
        experts = file.wholes(f"{name}.expert_count", 0)
        if not all(len(values) == 1 for values in (layers, heads, kv_heads, experts)):
            raise UnsupportedModel(
                f"{file.path}: {name} has no single number of layers and heads; it is not known here"
            )
        return cls(name, layers[0], heads[0], kv_heads[0], experts[0])

    @property
    def shared(self) -> bool:
        """Whether at least four heads share their keys and values, so that better ones cost little."""
        return self.kv_heads > 0 and self.heads // self.kv_heads >= 4

    @property
    def seventy(self) -> bool:
        """What llama.cpp calls a 70B model: 80 layers with shared heads, or any such Qwen2."""
        return self.layers == 80 and (
            self.architecture == "qwen2" or (self.architecture == "llama" and self.heads != self.kv_heads)
        )


@dataclass(frozen=True)
class Place:
    """Where a tensor is: the n-th of `count` of its role, in a model, with or without an importance matrix."""

    index: int
    count: int
    facts: Facts
    imatrix: bool

    def first(self, parts: int) -> bool:
        """Within the first of so many parts of the layers."""
        return self.index < self.count // parts

    @property
    def more(self) -> bool:
        """The layers that get more bits: the first and last eighth, and every third between them."""
        eighth = self.count // 8
        return self.index < eighth or self.index >= 7 * self.count // 8 or (self.index - eighth) % 3 == 2

    @property
    def middle(self) -> bool:
        """Between the first and the last eighth."""
        return self.count // 8 <= self.index < 7 * self.count // 8


Rule = str | Callable[[Place], str | None]  # the type, or None for the mixture's own


@dataclass(frozen=True)
class Mixture:
    """A type for most tensors, and by role what differs from it."""

    default: str
    roles: Mapping[str, Rule] = field(default_factory=dict)
    embedding: str | None = None
    head: str = "Q6_K"  # output.weight, and token_embd.weight where they are one


def _more(type_name: str) -> Rule:
    return lambda place: type_name if place.more else None


def _first(parts: int, type_name: str, rest: str | None = None) -> Rule:
    return lambda place: type_name if place.first(parts) else rest


def _shared(type_name: str, rest: str | None = None) -> Rule:
    return lambda place: type_name if place.facts.shared else rest


def _early(count: int, type_name: str, rest: str | None = None) -> Rule:
    return lambda place: type_name if place.index < count else rest


def _tiny_value(rest: str) -> Rule:
    return lambda place: "Q4_K" if place.facts.shared or place.facts.experts >= 4 else rest


def _weighted_first(type_name: str) -> Rule:
    return lambda place: type_name if place.imatrix and place.first(8) else None


def _plain_first(type_name: str, rest: str | None = None) -> Rule:
    return lambda place: None if place.imatrix else type_name if place.first(8) else rest


def _value_of_iq3_xxs(place: Place) -> str | None:
    return "Q4_K" if place.facts.shared else None if place.imatrix else "IQ3_S"


def _down_of_iq3_m(place: Place) -> str | None:
    return "Q4_K" if place.first(8) or (place.facts.experts == 8 and place.more) else None


_MIDDLE: Rule = lambda place: "IQ3_XXS" if place.middle else None  # noqa: E731
_IQ4: Mapping[str, Rule] = {"value": _shared("Q5_K"), "down": _plain_first("Q5_K")}


def _tiny(default: str, embedding: str, value: str, attention_output: str | None) -> Mixture:
    """The mixtures at two bits and below."""
    roles: dict[str, Rule] = {"value": _tiny_value(value), "down": _first(8, value)}
    if attention_output:
        roles["attention_output"] = attention_output
    return Mixture(default, roles, embedding, head="Q5_K")


MIXTURES: dict[str, Mixture] = {
    "F32": Mixture("F32"),
    "F16": Mixture("F16"),
    "BF16": Mixture("BF16"),
    "Q8_0": Mixture("Q8_0", head="Q8_0"),
    "Q4_0": Mixture("Q4_0", {"down": _weighted_first("Q4_1")}),
    "Q4_1": Mixture("Q4_1"),
    "Q5_0": Mixture("Q5_0", {"down": _weighted_first("Q5_1")}),
    "Q5_1": Mixture("Q5_1"),
    "Q1_0": Mixture("Q1_0"),
    "Q2_0": Mixture("Q2_0", embedding="Q4_K"),
    "TQ1_0": Mixture("TQ1_0", embedding="Q4_K"),
    "TQ2_0": Mixture("TQ2_0", embedding="Q4_K"),
    "Q2_K": Mixture("Q2_K", {"value": _shared("Q4_K", "Q3_K"), "down": "Q3_K", "attention_output": "Q3_K"}),
    "Q2_K_S": Mixture("Q2_K", {"value": _shared("Q4_K"), "down": _first(8, "Q4_K")}),
    "Q3_K_S": Mixture("Q3_K"),
    "Q3_K_M": Mixture(
        "Q3_K", {"value": _early(2, "Q5_K", "Q4_K"), "down": _first(16, "Q5_K", "Q4_K"), "attention_output": "Q4_K"}
    ),
    "Q3_K_L": Mixture("Q3_K", {"value": "Q5_K", "down": "Q5_K", "attention_output": "Q5_K"}),
    "Q4_K_S": Mixture("Q4_K", {"value": _early(4, "Q5_K"), "down": _first(8, "Q5_K")}),
    "Q4_K_M": Mixture("Q4_K", {"value": _more("Q6_K"), "down": _more("Q6_K")}),
    "Q5_K_S": Mixture("Q5_K"),
    "Q5_K_M": Mixture("Q5_K", {"value": _more("Q6_K"), "down": _more("Q6_K")}),
    "Q6_K": Mixture("Q6_K"),
    "IQ1_S": _tiny("IQ1_S", "Q2_K", "Q2_K", "IQ2_XXS"),
    "IQ1_M": _tiny("IQ1_M", "Q2_K", "Q2_K", "IQ2_XXS"),
    "IQ2_XXS": _tiny("IQ2_XXS", "Q2_K", "Q2_K", None),
    "IQ2_XS": _tiny("IQ2_XS", "Q2_K", "Q2_K", None),
    "IQ2_S": _tiny("IQ2_XS", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ2_M": _tiny("IQ2_S", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ3_XXS": Mixture(
        "IQ3_XXS",
        {
            "value": _value_of_iq3_xxs, "key": "IQ2_S", "query": "IQ2_S", "attention_output": "IQ3_S",
            "down": _plain_first("Q4_K", "Q3_K"),
        },
        embedding="IQ3_S",
        head="Q5_K",
    ),
    "IQ3_XS": Mixture(
        "IQ3_S", {"value": _shared("Q4_K"), "key": "IQ3_XXS", "query": "IQ3_XXS", "up": _MIDDLE, "gate": _MIDDLE}
    ),
    "IQ3_S": Mixture("IQ3_S", {"value": _shared("Q4_K")}),
    "IQ3_M": Mixture("IQ3_S", {"value": "Q4_K", "down": _down_of_iq3_m, "attention_output": "Q4_K"}),
    "IQ4_NL": Mixture("IQ4_NL", _IQ4),
    "IQ4_XS": Mixture("IQ4_XS", _IQ4),
    "MXFP4_MOE": Mixture("MXFP4", head="Q8_0"),
}  # fmt: skip


def _falcon(place: Place) -> str:
    return "Q5_K" if place.first(16) else "Q4_K" if place.more else "Q3_K"


def _changed(name: str, **roles: Rule) -> Mixture:
    """A mixture with other rules for some roles, and Falcon's head."""
    made = MIXTURES[name]
    return replace(made, roles={**made.roles, **roles}, head="Q8_0")


# Falcon: its head always has 8 bits, and its attention's output no more than the rest.
_FALCON = {
    **{name: replace(made, head="Q8_0") for name, made in MIXTURES.items()},
    "Q2_K": _changed("Q2_K", attention_output="Q2_K"),
    "Q3_K_M": _changed("Q3_K_M", down=_falcon, attention_output="Q3_K"),
    "Q3_K_L": _changed("Q3_K_L", down="Q4_K", attention_output="Q4_K"),
    "Q4_K_S": _changed("Q4_K_S", down="Q4_K"),
    "Q4_K_M": _changed("Q4_K_M", down=lambda p: "Q6_K" if p.first(16) else "Q5_K" if p.more else "Q4_K"),
    "IQ3_XXS": _changed("IQ3_XXS", attention_output="IQ3_XXS"),
    "IQ3_M": _changed("IQ3_M", attention_output="IQ3_S"),
}


def mixture(name: str, facts: Facts) -> Mixture:
    """The mixture of a model. Raises KeyError for a name that is unknown."""
    return (_FALCON if facts.architecture == "falcon" else MIXTURES)[name]
