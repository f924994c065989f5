"""Pieces: a long recording cut at its pauses into parts that fit into a model's window, in bounded memory.

Speech and pauses are distinguished by loudness alone, relative to the recording's own noise floor. This needs no model,
and an error costs a little time and no words, since a piece contains its pauses too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sound import RATE_HZ, Samples

STEP_S = 0.02  # loudness is measured in steps of this length
SILENT = 1e-4  # of full scale, -80 dB: samples that never exceed it are inaudible
ABOVE_FLOOR = 2.5  # times as loud as the quiet parts is speech
BELOW_PEAK = 0.02  # of the loudest; nothing softer is speech
SOFT = 0.1  # of the loudest so far; a constant sound below it is the noise of the room
PAUSE_S = 0.3  # a shorter one is part of a word
MARGIN_S = 0.2  # kept before and after speech
EARLIEST = 0.5  # of the window; a piece is cut at its last pause after this, else at its longest pause

_STEP = int(STEP_S * RATE_HZ)


@dataclass(frozen=True)
class Piece:
    """A part of a recording that fits into a model's window."""

    start_s: float
    samples: Samples

    @property
    def end_s(self) -> float:
        """Where it ends in the recording."""
        return self.start_s + len(self.samples) / RATE_HZ


def cut(blocks: Iterable[Samples], longest_s: float) -> Iterator[Piece]:
    """The pieces of a recording that comes in blocks, each at most `longest_s` long; stretches of silence are left out.

    Holds at most a block and two windows. The result does not depend on the length of the blocks.
    """
    longest = int(longest_s * RATE_HZ) // _STEP * _STEP
    held, start, source = np.zeros(0, np.float32), 0, iter(blocks)  # start: of what is held, in samples
    loudest = 0.0  # so far
    while True:
        held, start = _skip(held, start)
        while len(held) < 2 * longest and (block := next(source, None)) is not None:
            held, start = _skip(np.concatenate([held, block]), start)
        if not len(held):
            return
        loud = loudness(held[: 2 * longest])
        loudest = max(loudest, float(np.quantile(loud, 0.99)))
        taken, piece = _first(_speech(loud, loudest), len(held), longest)
        if piece is not None:
            yield Piece((start + piece.start) / RATE_HZ, held[piece].copy())
        held, start = held[taken:], start + taken


def is_silent(samples: Samples) -> bool:
    """Whether no sample is audible."""
    return not len(samples) or float(np.abs(samples).max()) < SILENT


def _skip(held: Samples, start: int) -> tuple[Samples, int]:
    """Drop the silent beginning, except for a margin: hours of silence cost only their reading."""
    audible = np.abs(held) >= SILENT
    first = int(audible.argmax()) if audible.any() else len(held)
    skipped = max(0, first // _STEP - round(MARGIN_S / STEP_S)) * _STEP
    return held[skipped:], start + skipped


def _first(speech: NDArray[np.bool_], held: int, longest: int) -> tuple[int, slice | None]:
    """How many of the held samples are done, and the place of the first piece; None where there is only silence."""
    where = np.flatnonzero(speech)
    if not len(where):
        return min(held, longest), None
    margin = int(MARGIN_S / STEP_S)
    begin = max(0, int(where[0]) - margin)
    if begin * _STEP >= longest:  # speech that begins so late may go on after what is held
        return begin * _STEP, None
    done = _end(speech, begin, longest // _STEP)
    last = int(where[where < done][-1]) + 1
    end = min(done, last + margin)  # the rest after the last word is done and left out
    return min(done * _STEP, held), slice(begin * _STEP, min(end * _STEP, held))


def _end(speech: NDArray[np.bool_], begin: int, longest: int) -> int:
    """The step at which the piece that begins at `begin` ends: in the middle of a pause if there is one."""
    last = begin + longest
    if last >= len(speech):
        return len(speech)
    pauses = _pauses(speech, begin, last)
    late = [pause for pause in pauses if (pause[0] + pause[1]) / 2 >= begin + EARLIEST * longest]
    if late:
        return min(last, (late[-1][0] + late[-1][1] + 1) // 2)
    if pauses:
        first, end = max(pauses, key=lambda pause: pause[1] - pause[0])
        return (first + end + 1) // 2
    return last


def _pauses(speech: NDArray[np.bool_], begin: int, end: int) -> list[tuple[int, int]]:
    """Runs without speech of at least PAUSE_S, as [first, end)."""
    edges = np.diff(np.concatenate([[1], speech[begin:end].astype(np.int8), [1]]))
    runs = zip(np.flatnonzero(edges == -1), np.flatnonzero(edges == 1), strict=True)
    return [(begin + int(a), begin + int(b)) for a, b in runs if b - a >= PAUSE_S / STEP_S]


def loudness(samples: Samples) -> NDArray[np.float32]:
    """Root mean square of each step of 20 ms, (steps,); the last one may be incomplete."""
    whole = len(samples) // _STEP * _STEP
    rest = samples[whole:]
    power = np.square(samples[:whole]).reshape(-1, _STEP).mean(axis=1)
    last = [np.square(rest).mean()] if len(rest) else []
    loud: NDArray[np.float32] = np.sqrt(np.concatenate([power, np.array(last, np.float32)]))
    return loud


def _speech(loud: NDArray[np.float32], loudest: float) -> NDArray[np.bool_]:
    """Whether there is speech in each step, (steps,). loudest: of the recording so far."""
    floor, peak = float(np.quantile(loud, 0.1)), float(loud.max())
    if peak < ABOVE_FLOOR * floor:  # constant loudness: noise, or speech without a pause, unless it is soft
        threshold = SOFT * loudest
    else:
        threshold = max(min(ABOVE_FLOOR * floor, peak / 4), BELOW_PEAK * float(np.quantile(loud, 0.99)))
    found: NDArray[np.bool_] = loud >= max(SILENT, threshold)
    return found
