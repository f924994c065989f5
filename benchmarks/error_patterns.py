"""Real errors of a real model: whisper-tiny.en at its 30 s window, and where its vocabulary or its window is too short.

    python benchmarks/error_patterns.py CT2_FOLDER     # about 5 minutes; writes benchmarks/error_patterns.csv

CT2_FOLDER: whisper-tiny.en (`../shared/real/make.py whisper-tiny.en`) as `microbudget run MODEL "export() >
quantize(bits=8)"` makes it. Each row: a recording of ../shared/assets/speech/read, a variant, the words that are said,
and the word errors of both, without the removal of loops, so that runaways are seen. `benchmarks/looks.py` draws its
samples from these rows.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from microbudget.audio import sound
from microbudget.audio.sound import RATE_HZ
from microbudget.kinds.transcription.transcripts import count, normalizer
from microbudget.runtimes.ct2.session import Ct2Whisper
from microbudget.runtimes.speech.whisper import Prompt, Vocabulary, front_end

SPEECH = Path(__file__).parents[2] / "shared" / "assets" / "speech" / "read"
TABLE = Path(__file__).with_suffix(".csv")
# Tokens whose merges stay, or the window in seconds: fixed, or so much longer than the recording.
VARIANTS: dict[str, dict[str, float]] = {
    "30 s": {},
    "20000 tokens": {"tokens": 20_000},
    "10000 tokens": {"tokens": 10_000},
    "15 s": {"window": 15},
    "length + 4 s": {"more": 4},
    "length + 2 s": {"more": 2},
}


def recordings() -> Iterator[tuple[Path, str]]:
    """Files of read sentences, and what is said in them."""
    with (SPEECH / "metadata.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield SPEECH / row["file_name"], row["transcription"]


class Transcriber:
    """The model, with a part of its vocabulary or another window."""

    def __init__(self, folder: Path) -> None:
        self._network = Ct2Whisper(folder, threads=1)
        self._front, self._vocabulary = front_end(folder, self._network.mels), Vocabulary(folder)
        self._prompt = Prompt.of(folder, self._vocabulary, multilingual=False)

    def __call__(self, path: Path, tokens: float = 0, window: float = 0, more: float = 0) -> str:
        waveform = sound.read(path)
        seconds = window or (len(waveform) / RATE_HZ + more if more else 30)
        front = replace(self._front, samples=int(min(seconds, 30) * 50) * RATE_HZ // 50)
        kept = self._prompt if not tokens else _without(self._prompt, int(tokens))
        return self._vocabulary.text(self._network.generate(front(waveform), kept))


def _without(prompt: Prompt, tokens: int) -> Prompt:
    """The prompt that suppresses text tokens from this one on; they stand in order of their frequency."""

    class Fewer(Prompt):
        def suppressed(self, rows: int) -> list[int]:
            return [*range(tokens, prompt.end), *super().suppressed(rows)]

    return Fewer(**prompt.__dict__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model in CTranslate2's format")
    transcribe, clean = Transcriber(parser.parse_args().folder), normalizer("english")
    found = [(path, clean(text)) for path, text in recordings()]
    reference: dict[Path, int] = {}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("recording", "variant", "words", "errors_reference", "errors_candidate"))
        for name, how in VARIANTS.items():
            started, totals = time.monotonic(), np.zeros(3, int)
            for path, said in found:
                errors = count(said, clean(transcribe(path, **how))).word_errors
                row = (len(said.split()), reference.setdefault(path, errors), errors)
                totals += row
                if how:
                    writer.writerow((path.stem, name, *row))
            file.flush()
            words, before, after = totals
            print(
                f"{name}: {before / words:.1%} to {after / words:.1%}, {time.monotonic() - started:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
