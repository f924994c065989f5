"""quantize: integers of 8 to 2 bits in place of floats, calibrated on the user's own data without their labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ... import kind as kinds
from ...errors import InvalidOption, InvalidRecipe
from ...model import Model, Record
from ...runtimes.gguf.types import FILE_TYPES, UNWEIGHTED
from ...task import CALIBRATION, Use
from ...units import parse_bytes
from .. import Context, Method, option
from .corrections import parsed
from .gguf.mixtures import overrides
from .observers import OBSERVERS

TYPE_OF_BITS = {8: "Q8_0", 4: "Q4_K_M", 3: "Q3_K_M", 2: "Q2_K"}  # of a GGUF file whose type is not given
# Options that only one of the two formats has.
FOR_ONNX = ("activations", "observer", "corrections", "keep_float_activations", "table_bits", "size", "max_kl")
FOR_GGUF = ("type", "imatrix", "tensors")

OPEN_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")  # that an open type stands for


@dataclass(frozen=True)
class Quantize(Method):
    """Small integers in place of floats: a quarter of the size or less, and faster where there is int8 arithmetic."""

    revision: ClassVar[int] = 7  # tables of embeddings in 8 bits
    formats: ClassVar[dict[str, str]] = {"onnx": "onnx", "gguf": "gguf"}
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"type": OPEN_TYPES}

    bits: int = option(8, "bits of the weights; activations get 8", choices=(8, 4, 3, 2))
    activations: str = option("int8", "int8, or float: only the weights are rounded", choices=("int8", "float"))
    observer: str = option(
        "auto", "how the ranges of activations are found; auto: the best for each", choices=("auto", *OBSERVERS)
    )
    corrections: str = option(
        "auto",
        "auto, none, or some of equalize, scales, gptq, bias; auto: all but equalize; at 8 bits no gptq for a"
        " large network, or for fewer than 100 examples",
        alias="repair",
    )
    samples: int = option(128, "calibration examples at most, from the train split", low=1, high=100_000)
    keep_float_activations: int = option(
        0, "how many activations stay in float: those whose rounding loses most", low=0, high=100, alias="finer"
    )
    table_bits: int = option(8, "bits of tables of embeddings; 4: of those with 2,048 rows and more", choices=(8, 4))
    size: str | None = option(None, "size of the file at most, such as '1.2MB': each layer gets float, 8 or 4 bits")
    max_kl: float | None = option(
        None, "KL divergence of the answers at most, in nats: the smallest file within that", low=0.0
    )
    type: str | None = option(
        None, "gguf: type of the file as in llama.cpp, such as 'Q4_K_M'; None: by bits", choices=tuple(FILE_TYPES)
    )
    imatrix: bool | str = option(
        True, "gguf: importance matrix, from the training text (True), none (False), or the path of a stored one"
    )
    tensors: str = option("", "gguf: types of tensors by pattern of their name, such as 'attn_v=Q8_0, blk.0.=Q6_K'")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            parse_bytes(self.size)
        if self.size is not None and self.max_kl is not None:
            raise InvalidOption("quantize: give size or max_kl, not both: one is the limit, the other the result")
        if self.bits != 8 and (self.size is not None or self.max_kl is not None):
            raise InvalidOption("quantize: size and max_kl choose every layer's bits: leave bits at 8")
        if self.bits != 8 and self.type is not None:
            raise InvalidOption(f"quantize: give bits or type, not both: {self.type} says how many bits already")
        self.chosen_corrections()
        overrides(self.tensors)

    def output_format(self, input_format: str) -> str:
        """The format that comes out. Raises InvalidRecipe when the input's format or its options do not fit."""
        made = super().output_format(input_format)
        strange = {"onnx": FOR_GGUF, "gguf": FOR_ONNX}[input_format]
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.name in strange and value != spec.default:
                files, have = ("GGUF", FOR_ONNX) if input_format == "onnx" else ("ONNX", FOR_GGUF)
                raise InvalidRecipe(
                    f"quantize: {spec.name}={value!r} is for {files} files, but it gets {input_format}: give bits,"
                    f" samples, or some of {', '.join(have)}"
                )
        return made

    @property
    def level(self) -> str:
        """The type of a GGUF file, by `type` or else by `bits`."""
        return self.type or TYPE_OF_BITS[self.bits]

    def learns_from(self, input_format: str) -> Use:
        """Ranges and corrections are fitted to calibration examples; a GGUF file learns its importance matrix alone."""
        if input_format == "gguf" and (self.imatrix is not True or (self.level in UNWEIGHTED and not self.tensors)):
            return "nothing"
        return "calibration" if self.samples <= CALIBRATION else "training"

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """The content of a stored importance matrix."""
        from .gguf.quantizing import stored_hash

        return stored_hash(self.imatrix)

    def chosen_corrections(self) -> tuple[str, ...]:
        """The corrections by name; `auto` is decided when the network is known. Raises InvalidOption."""
        return parsed(self.corrections)

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write `model.onnx` (calibrated, rounded, corrected) or `model.gguf`; what it cost goes into the record."""
        if model.format == "gguf":
            from .gguf.quantizing import GgufOptions, quantize_gguf

            return quantize_gguf(model, GgufOptions(self.level, self.imatrix, self.samples, self.tensors), context, out)
        from .onnx_model import quantize_onnx

        options = {
            "bits": self.bits,
            "activation_bits": 8 if self.activations == "int8" else None,
            "observer": self.observer,
            "corrections": self.chosen_corrections(),
            "keep_float_activations": self.keep_float_activations,
            "table_bits": self.table_bits,
            "size_bytes": None if self.size is None else parse_bytes(self.size),
            "max_kl": self.max_kl,
        }
        own = kinds.find_facet(model.task, self.name())
        inputs = getattr(own, "with_inputs", None)  # of a kind whose tasks collate what no graph takes
        record = quantize_onnx(model, inputs(model, context) if inputs else context, out, self.samples, options)
        model.copy_beside(out)
        return record
