"""Long recordings in pieces: in order, short enough, cut at pauses, whatever the blocks; and nothing loud is lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.audio import pieces
from microbudget.audio.pieces import Piece, cut, is_silent

RATE = 16_000
HUM = 0.0005


def spoken(spans: list[tuple[float, float]], seed: int = 0) -> np.ndarray:
    """Bursts of noise (speech) with silences behind: [(seconds of speech, seconds of silence), ...]."""
    rng = np.random.default_rng(seed)
    parts = []
    for speech, pause in spans:
        parts += [rng.normal(0, 0.1, int(speech * RATE)), rng.normal(0, HUM, int(pause * RATE))]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def covered(pieces: list[Piece], length: int) -> np.ndarray:
    mask = np.zeros(length, bool)
    for piece in pieces:
        start = round(piece.start_s * RATE)
        mask[start : start + len(piece.samples)] = True
    return mask


spans = st.lists(st.tuples(st.floats(0.05, 6.0), st.floats(0.0, 4.0)), max_size=10)


@settings(max_examples=60, deadline=None)
@given(spans=spans, longest=st.sampled_from([2.0, 5.0, 10.0]), size=st.integers(100, 200_000))
def test_pieces(spans: list[tuple[float, float]], longest: float, size: int) -> None:
    samples = spoken(spans)
    found = list(cut(blocks(samples, size), longest))
    end = 0
    for piece in found:
        start = round(piece.start_s * RATE)
        assert start >= end, "in order, without overlap"
        assert 0 < len(piece.samples) <= longest * RATE
        np.testing.assert_array_equal(piece.samples, samples[start : start + len(piece.samples)])
        end = start + len(piece.samples)
    again = list(cut([samples], longest))
    assert [piece.start_s for piece in again] == [piece.start_s for piece in found], "whatever the blocks"


@settings(max_examples=40, deadline=None)
@given(spans=st.lists(st.tuples(st.floats(0.3, 4.0), st.floats(0.4, 3.0)), min_size=1, max_size=8))
def test_nothing_loud_is_lost(spans: list[tuple[float, float]]) -> None:
    samples = spoken(spans)
    mask = covered(list(cut([samples], 10.0)), len(samples))
    energy = np.square(samples.astype(np.float64))
    assert energy[mask].sum() >= 0.999 * energy.sum()


def test_cuts_are_in_pauses() -> None:
    """Words of 0.4 s with pauses of half a second: no piece begins or ends inside one."""
    samples = spoken([(0.4, 0.5)] * 40)
    found = list(cut([samples], 5.0))
    assert len(found) >= 8
    edges = [edge for piece in found for edge in (piece.samples[:160], piece.samples[-160:])]
    assert max(float(np.abs(edge).max()) for edge in edges[1:]) < 0.01, "but for the beginning, which is a word"
    assert min(len(piece.samples) for piece in found[:-1]) > 2.0 * RATE, "packed: a piece holds as much as fits"


def test_speech_without_a_pause_is_cut_at_the_window() -> None:
    found = list(cut([spoken([(12.0, 0.0)])], 5.0))
    assert [round(len(piece.samples) / RATE, 2) for piece in found] == [5.0, 5.0, 2.0]


@pytest.mark.parametrize("level", [0.0, 5e-5])
def test_silence_has_no_pieces(level: float) -> None:
    silence = np.full(RATE * 70, level, np.float32)
    assert list(cut([silence], 10.0)) == []
    assert is_silent(silence)
    assert is_silent(silence[:0])


def test_silence_is_left_out() -> None:
    samples = spoken([(1.0, 60.0), (1.0, 0.0)])
    first, second = cut([samples], 10.0)
    assert first.start_s == 0.0
    assert first.end_s == pytest.approx(1.2, abs=0.05)
    assert second.start_s == pytest.approx(60.8, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(
    spans=st.lists(st.tuples(st.floats(0.1, 3.0), st.floats(0.0, 30.0)), min_size=1, max_size=5),
    lead=st.floats(0, 30),
    size=st.integers(1000, 200_000),
)
def test_digital_silence_is_skipped_whatever_the_blocks(
    spans: list[tuple[float, float]], lead: float, size: int
) -> None:
    samples = spoken([(0.0, 0.0), *spans])
    samples[np.abs(samples) <= 6 * HUM] = 0
    samples = np.concatenate([np.zeros(int(lead * RATE), np.float32), samples])
    found, again = list(cut(blocks(samples, size), 5.0)), list(cut([samples], 5.0))
    assert [(piece.start_s, len(piece.samples)) for piece in again] == [
        (piece.start_s, len(piece.samples)) for piece in found
    ]
    energy = np.square(samples.astype(np.float64))
    assert energy[covered(found, len(samples))].sum() >= 0.99 * energy.sum()
    assert found[0].start_s == pytest.approx(max(0.0, int(lead * RATE) / RATE - 0.2), abs=0.05)


def test_hours_of_silence_are_not_looked_at_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    loudness = pieces.loudness
    monkeypatch.setattr(pieces, "loudness", lambda samples: (looked.append(len(samples)), loudness(samples))[1])
    quiet, word = np.zeros(30 * RATE, np.float32), spoken([(1.0, 0.0)])
    found = list(cut(iter([quiet] * 100 + [word] + [quiet] * 100 + [word]), 10.0))
    assert [round(piece.start_s, 1) for piece in found] == [2999.8, 6000.8]
    assert sum(looked) < 100 * RATE


def test_noise_alone_is_transcribed() -> None:
    """Loudness cannot tell noise from speech: it is handed to the model, all of it."""
    noise = spoken([(25.0, 0.0)])
    assert sum(len(piece.samples) for piece in cut([noise], 10.0)) == len(noise)


def test_hours_in_little_memory() -> None:
    """Half a minute again and again, 9,000 seconds: 576 MB of samples, of which two windows and a block are held."""
    half_minute = spoken([(4.0, 1.0)] * 6)
    tracemalloc.start()
    kept = sum(len(piece.samples) for piece in cut((half_minute for _ in range(300)), 30.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept > 0.7 * 9_000 * RATE
    assert peak < 60e6
