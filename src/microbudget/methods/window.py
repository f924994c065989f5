"""window: a shorter input. Whisper's encoder works on 30 seconds, of which a short utterance fills three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidOption
from ..task import Use
from . import Method, option

AUTO, EACH = "auto", "each"
LONGEST_S = 30
SHORTEST_S, MARGIN_S = 15, 1  # of windows that follow the recording; below, second tries cost what is saved


@dataclass(frozen=True)
class Window(Method):
    """Take a shorter window than Whisper's 30 seconds: a small model spends most of its time on silence."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf"}

    seconds: int | str = option(
        10,
        "length in whole seconds; 'auto': of the longest recording; 'each': of each recording, which needs no training",
        always_shown=True,
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
        if self.seconds == EACH and self.epochs:
            raise InvalidOption(f"window: seconds={EACH!r} takes the model as it is: leave epochs out")
        if self.seconds != EACH and (self.shortest, self.margin) != (SHORTEST_S, MARGIN_S):
            raise InvalidOption(f"window: shortest and margin are for seconds={EACH!r}")

    def learns_from(self, input_format: str) -> Use:
        """Only the epochs train; without them the lengths of the recordings are read, at most."""
        return "training" if self.epochs else "nothing"
