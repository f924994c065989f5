"""window: a shorter input, of recordings in seconds and of texts in tokens.

Whisper's encoder works on 30 seconds, of which a short utterance fills three. An encoder of texts takes as long as a
text is, up to its own length: what a few long texts cost is saved where their beginning says enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import InvalidOption, InvalidRecipe
from ..task import Use
from . import Method, option

AUTO, EACH = "auto", "each"
LONGEST_S = 30
FEWEST_TOKENS = 4  # of a text with the tokens that are put around it
SHORTEST_S, MARGIN_S = 15, 1  # of windows that follow the recording; below, second tries cost what is saved


@dataclass(frozen=True)
class Window(Method):
    """Take a shorter input: fewer seconds than Whisper's 30, most of which are silence, or fewer tokens of a text."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}  # onnx: of texts
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"tokens": (128, 64, 32)}

    seconds: int | str = option(
        10,
        "length in whole seconds; 'auto': of the longest recording; 'each': of each recording, which needs no training",
        always_shown=True,
    )
    tokens: int | str | None = option(
        None,
        "texts: tokens of a text at most, in place of seconds; 'auto': as many as they need, by the model's answers at"
        " each length",
    )
    shortest: int = option(SHORTEST_S, "seconds of the shortest window of seconds='each'", low=1, high=LONGEST_S)
    margin: int = option(MARGIN_S, "seconds of silence after each recording of seconds='each'", low=0, high=LONGEST_S)
    epochs: int = option(
        0, "epochs of fine-tuning on the transcripts that the model writes with its old window", low=0, high=1000
    )
    patience: int = option(3, "epochs without a better validation loss before it stops", low=1, high=1000)
    learning_rate: float = option(1e-4, "of AdamW after the warm-up", low=1e-8, high=1.0)
    batch_size: int = option(16, "recordings in a step at most", low=1, high=4096)
    max_wer: float = option(
        0.3, "the model's word error rate on a recording above which it is not learnt from", low=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.seconds, int) and 1 <= self.seconds <= LONGEST_S
        if not number and self.seconds not in (AUTO, EACH):
            raise InvalidOption(
                f"window: seconds must be a whole number in [1, {LONGEST_S}], {AUTO!r} or {EACH!r},"
                f" not {self.seconds!r}"
            )
        if self.tokens is not None and self.tokens != AUTO and not _is_length(self.tokens):
            raise InvalidOption(
                f"window: tokens must be a whole number from {FEWEST_TOKENS}, or {AUTO!r}, not {self.tokens!r}"
            )
        if self.seconds == EACH and self.epochs:
            raise InvalidOption(f"window: seconds={EACH!r} takes the model as it is: leave epochs out")
        if self.seconds != EACH and (self.shortest, self.margin) != (SHORTEST_S, MARGIN_S):
            raise InvalidOption(f"window: shortest and margin are for seconds={EACH!r}")

    def output_format(self, input_format: str) -> str:
        """As the input's; a graph takes any number of seconds that it was exported for, and no others."""
        output = super().output_format(input_format)
        if input_format == "onnx" and self.tokens is None:
            raise InvalidRecipe("window takes an hf folder, or onnx with tokens=, but gets onnx with seconds=")
        return output

    def learns_from(self, input_format: str) -> Use:
        """Only the epochs train. A length in tokens is chosen by answers, one in seconds by how long recordings are."""
        return "training" if self.epochs else "calibration" if self.tokens == AUTO else "nothing"

    def short(self) -> str:
        """As of every method; in tokens without the seconds."""
        shown = super().short()
        return shown if self.tokens is None else shown.replace(f"seconds={self.seconds!r}, ", "")


def _is_length(tokens: int | str) -> bool:
    return isinstance(tokens, int) and tokens >= FEWEST_TOKENS
