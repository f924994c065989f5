"""How much there is to learn from: a decoder is taught by hours of speech, or by few words that are said often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...task import SPLITS, Split, Task
from ...units import format_seconds
from .task import SpokenTask

EVERY: tuple[Split, ...] = (*SPLITS, "unlabelled")  # the cut depends on what is learnt, and that on the amount
ENOUGH_S = 3600.0  # of audio
OFTEN = 20  # times that each word occurs, on average: commands and digits, not sentences


@dataclass(frozen=True)
class Amount:
    """Of all recordings of the data."""

    recordings: int
    seconds: float
    words: int  # of their transcripts
    distinct: int

    @classmethod
    def of(cls, task: Task) -> Amount:
        """Of a task, whatever its cut."""
        if not isinstance(task, SpokenTask):
            return cls(0, 0.0, 0, 0)
        examples = [example for split in EVERY for example in task.examples(split)]
        words = Counter(word for example in examples for word in (task.text(example) or "").lower().split())
        return cls(len(examples), sum(map(task.seconds, examples)), words.total(), len(words))

    @property
    def teaches(self) -> bool:
        """Whether it is worth its time to train layers on it."""
        return self.seconds >= ENOUGH_S or self.words >= OFTEN * max(self.distinct, 1)

    def lack(self) -> str:
        """Why it does not teach, and what would."""
        said = f" (their {self.distinct} words occur {self.words / self.distinct:.1f} times each)" if self.words else ""
        return (
            f"{self.recordings} recordings of {format_seconds(self.seconds)} together{said} do not teach a decoder:"
            f" give {format_seconds(ENOUGH_S)} or more of your own audio, as unlabelled/ and without transcripts"
        )
