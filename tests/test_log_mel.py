"""The front end against transformers', on real speech and on every length of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.audio.log_mel import FittedWindow, LogMel, config_text, mel_filters
from microbudget.errors import UnsupportedPreprocessing

transformers = pytest.importorskip("transformers")

EXACT = 1e-6  # against its NumPy front end, which computes in float64 as ours does
FLOAT32 = 3e-5  # against its torch front end, which is that far from its own NumPy one
SECONDS = (30, 10, 3)


def extractor(mels: int, seconds: int) -> Any:
    return transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)


def numpy_features(front: Any, waveform: np.ndarray) -> np.ndarray:
    padded = np.zeros(front.n_samples, np.float32)
    padded[: min(len(waveform), front.n_samples)] = waveform[: front.n_samples]
    return np.asarray(front._np_extract_fbank_features(padded[None], "cpu")[0])


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("mels", [80, 128])
def test_speech_as_transformers_hears_it(assets: Path, mels: int, seconds: int) -> None:
    from microbudget.audio import sound

    theirs = extractor(mels, seconds)
    for name in ("words/validation/0000.flac", "ljspeech/LJ001-0001.flac"):
        waveform = sound.read(assets / "speech" / name)
        ours = LogMel(mels, seconds * 16_000)(waveform)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, numpy_features(theirs, waveform), atol=EXACT)
        torch_features = theirs(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(ours, torch_features, atol=FLOAT32)


@settings(max_examples=60, deadline=None)
@given(
    length=st.one_of(st.integers(1, 49_000), st.integers(47_000, 48_100)),
    loudness=st.sampled_from([1e-6, 1e-3, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_noise_of_any_length(length: int, loudness: float, seed: int) -> None:
    """A window of 3 s: also where the recording ends inside the last frame, or behind the window."""
    waveform = np.random.default_rng(seed).normal(0, loudness, length).astype(np.float32)
    ours = LogMel(80, 48_000)(waveform)
    assert ours.shape == (80, 300)
    np.testing.assert_allclose(ours, numpy_features(extractor(80, 3), waveform), atol=EXACT)


@pytest.mark.parametrize("length", [0, 1, 200, 16_000, 480_000])
def test_silence(length: int) -> None:
    silence = np.zeros(length, np.float32)
    np.testing.assert_array_equal(LogMel()(silence), np.full((80, 3000), -1.5, np.float32))
    if length:
        np.testing.assert_allclose(LogMel()(silence), numpy_features(extractor(80, 30), silence), atol=EXACT)


@pytest.mark.parametrize("mels", [80, 128])
def test_the_filters(mels: int) -> None:
    np.testing.assert_allclose(mel_filters(mels, 400), extractor(mels, 30).mel_filters, atol=1e-9)


def test_only_what_is_used_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds in a window of thirty: 201 transforms, not 3,000."""
    rows = []
    original = np.fft.rfft
    monkeypatch.setattr(
        np.fft, "rfft", lambda frames, **options: rows.append(len(frames)) or original(frames, **options)
    )
    LogMel()(np.ones(32_000, np.float32))
    assert sum(rows) == 202


def test_configuration_is_read_and_written() -> None:
    front = LogMel.parse({"feature_size": 128, "chunk_length": 10, "sampling_rate": 16_000, "hop_length": 160})
    assert (front.mels, front.frames, front.seconds) == (128, 1000, 10.0)
    again = json.loads(config_text(front))
    assert LogMel.parse(again) == front
    theirs = transformers.WhisperFeatureExtractor(**again)
    assert (theirs.n_samples, theirs.nb_max_frames, theirs.feature_size) == (160_000, 1000, 128)


@pytest.mark.parametrize("config", [{"sampling_rate": 8_000}, {"do_normalize": True}, {"chunk_length": 0}])
def test_other_front_ends_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPreprocessing):
        LogMel.parse(config)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 500_000), shortest=st.integers(1, 29), margin=st.integers(0, 9))
def test_a_fitted_window_is_the_beginning_of_the_whole_one(length: int, shortest: int, margin: int) -> None:
    """It holds the recording and its margin, and no frame differs from that of 30 s; an odd one would be lost."""
    whole = LogMel(fitted=FittedWindow(shortest, margin))
    fitted = whole.for_recording(length)
    wanted = min(480_000, max(shortest * 16_000, length + margin * 16_000))
    assert wanted <= fitted.samples < wanted + 320
    assert fitted.frames % 2 == 0
    assert LogMel().for_recording(length) == LogMel()


def test_the_features_of_a_fitted_window_are_those_of_the_whole_one() -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    whole = LogMel(fitted=FittedWindow(2, 1))
    fitted = whole.for_recording(len(waveform))
    assert fitted.seconds == pytest.approx(2.26)
    np.testing.assert_array_equal(fitted(waveform), whole(waveform)[:, : fitted.frames])


def test_a_fitted_window_is_read_back_and_other_libraries_pass_over_it(tmp_path: Path) -> None:
    front = LogMel(fitted=FittedWindow(12, 1.5))
    text = config_text(front)
    assert LogMel.parse(json.loads(text)) == front
    (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    theirs = transformers.WhisperFeatureExtractor.from_pretrained(str(tmp_path))
    assert theirs(np.zeros(9, np.float32), sampling_rate=16_000).input_features[0].shape == (80, 3000)


@pytest.mark.parametrize(
    "window", [12, {"shortest_s": 12}, {"shortest_s": "x", "margin_s": 1}, {"shortest_s": 12, "margin_s": -1}]
)
def test_a_damaged_fitted_window_is_named(window: Any) -> None:
    config = {**json.loads(config_text(LogMel())), "fitted_window": window}
    with pytest.raises(UnsupportedPreprocessing, match="fitted_window"):
        LogMel.parse(config)
