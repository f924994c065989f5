"""qat: quantization-aware training of the file that ships. Its weights and scales learn; no node of it moves.

Scales are learnt as in LSQ (Esser et al. 2020, arXiv:1902.08153). What is done for a kind of model is in the kind's own
`qat.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InvalidOption, UnsupportedModel
from .. import Context, Method, option

if TYPE_CHECKING:
    from ...model import Model


@dataclass(frozen=True)
class Qat(Method):
    """Train a quantized file to answer as the original: fewer bits lose less, at the same size and speed."""

    formats: ClassVar[dict[str, str]] = {"onnx": "onnx"}

    bits: int | None = option(
        None, "bits of the weights: those that quantize gave them, which None stands for", choices=(None, 8, 4, 3, 2)
    )
    epochs: int = option(8, "passes over the photos at most", low=1, high=10_000)
    patience: int = option(8, "epochs that are no nearer to the original before it stops", low=1, high=10_000)
    learning_rate: float = option(1e-4, "of AdamW after the warm-up; scales change by ten times it", low=1e-8, high=1.0)
    batch_size: int = option(16, "photos in a step at most", low=1, high=4096)
    teacher: str | None = option(None, "a model whose answers are learnt; by default the run's reference")

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """The fingerprint of the teacher."""
        found: dict[str, str] = self.part(context).extra_inputs(self, context)
        return found

    def check(self, model: Model) -> None:
        """The file must be one that quantize has written, with these bits. Raises UnsupportedModel, InvalidOption."""
        report = model.record.history.get("quantize")
        if report is None:
            raise UnsupportedModel(
                f"qat trains the integers that quantize has written, and {model.path} has no record of it: put"
                " quantize() before qat(); a file that another tool quantized has to be made again from its float model"
            )
        if self.bits is not None and self.bits != report["bits"]:
            raise InvalidOption(
                f"qat: bits={self.bits}, but quantize gave the weights {report['bits']}: write"
                f" quantize(bits={self.bits}) > qat(), or leave bits out"
            )
