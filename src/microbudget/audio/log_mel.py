"""Log-mel spectrograms: Whisper's input features. NumPy only, and equal to what transformers computes with torch.

Only the frames that overlap the recording are computed; the silence after it has the same column in every frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedPreprocessing
from .sound import RATE_HZ, Samples

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

FLOOR = 1e-10  # of the power before the logarithm: digital silence
RANGE = 8.0  # decades below the loudest: what is quieter is clipped
HIGHEST_HZ = 8_000.0
BLOCK = 64  # frames at a time: they stay in the processor's cache, which is twice as fast as all at once


FITTED = "fitted_window"  # the key of a `preprocessor_config.json`; other libraries pass over it


@dataclass(frozen=True)
class FittedWindow:
    """A window for each recording: its length and some silence, but never shorter than `shortest_s`.

    Whisper was trained on windows of 30 s. It takes half of that as well, and below a third it repeats itself.
    """

    shortest_s: float
    margin_s: float  # of silence after the recording

    def samples(self, recording: int) -> int:
        """The length of the window for a recording of so many samples."""
        return round(max(self.shortest_s * RATE_HZ, recording + self.margin_s * RATE_HZ))

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> FittedWindow | None:
        """From a `preprocessor_config.json`; None for one window for all. Raises UnsupportedPreprocessing."""
        found = config.get(FITTED)
        if found is None:
            return None
        try:
            window = cls(float(found["shortest_s"]), float(found["margin_s"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedPreprocessing(f"{FITTED} is {found!r}: it has shortest_s and margin_s") from error
        if not (window.shortest_s >= 0 and window.margin_s >= 0):  # nor NaN
            raise UnsupportedPreprocessing(f"{FITTED} is {found!r}: neither may be negative")
        return window


@dataclass(frozen=True)
class LogMel:
    """A front end: the number of mel bands, and the length of the window that the model takes.

    fitted: where the window follows the recording; `samples` is then the longest.
    """

    mels: int = 80
    samples: int = 480_000  # of the window
    size: int = 400  # of a frame, n_fft
    hop: int = 160
    fitted: FittedWindow | None = None

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> LogMel:
        """From the keys of a `preprocessor_config.json`. Raises UnsupportedPreprocessing."""
        rate = config.get("sampling_rate", RATE_HZ)
        if rate != RATE_HZ:
            raise UnsupportedPreprocessing(f"the model takes {rate} samples a second; Whisper takes {RATE_HZ}")
        if config.get("do_normalize"):
            raise UnsupportedPreprocessing("do_normalize is not what Whisper was trained with, and is not supported")
        hop, seconds = int(config.get("hop_length", 160)), config.get("chunk_length", 30)
        samples = round(seconds * RATE_HZ) // hop * hop
        if samples < 2 * hop:
            raise UnsupportedPreprocessing(
                f"chunk_length is {seconds}: a window has at least two hops of {hop} samples"
            )
        size = int(config.get("n_fft", 400))
        return cls(int(config.get("feature_size", 80)), samples, size, hop, FittedWindow.parse(config))

    def for_recording(self, samples: int) -> LogMel:
        """The front end with the window for a recording of so many samples; itself where it has one window for all."""
        if self.fitted is None:
            return self
        step = 2 * self.hop  # the encoder's second convolution takes every other frame
        return replace(self, samples=min(self.samples, -(-self.fitted.samples(samples) // step) * step))

    @property
    def frames(self) -> int:
        """Columns of the features."""
        return self.samples // self.hop

    @property
    def seconds(self) -> float:
        """Of the window."""
        return self.samples / RATE_HZ

    def __call__(self, waveform: Samples) -> Features:
        """(mels, frames) of a waveform of at most `samples`; a longer one is cut."""
        waveform = waveform[: self.samples]
        count = min(self.frames, -(-(len(waveform) + self.size // 2) // self.hop))  # the rest is silence
        log = np.log10(np.maximum(self._power(waveform, count), FLOOR))
        loudest = max(float(log.max()), math.log10(FLOOR)) if count else math.log10(FLOOR)
        features = np.full((self.mels, self.frames), _scaled(np.array(math.log10(FLOOR)), loudest), np.float32)
        features[:, :count] = _scaled(log, loudest).T
        return features

    def _power(self, waveform: Samples, count: int) -> Floats:
        """Power in each band of the first `count` frames, each centred on its hop: (count, mels)."""
        frames = np.lib.stride_tricks.sliding_window_view(self._padded(waveform, count), self.size)[:: self.hop][:count]
        power = np.empty((count, self.mels))
        for start in range(0, count, BLOCK):
            spectrum = np.fft.rfft(frames[start : start + BLOCK] * self._hann, axis=1)
            squares = np.square(spectrum.real)
            squares += np.square(spectrum.imag)
            np.matmul(squares, self._filters, out=power[start : start + BLOCK])
        return power

    def _padded(self, waveform: Samples, count: int) -> Floats:
        """The samples of the first `count` frames: the beginning mirrored before it, and the window's end after it."""
        half = self.size // 2
        end = (count - 1) * self.hop + half  # after the last sample of the last frame
        known = np.zeros(max(end, half + 1), np.float64)
        known[: min(len(waveform), end)] = waveform[:end]
        if end > self.samples:
            over = end - self.samples
            known[self.samples :] = known[self.samples - 1 - over : self.samples - 1][::-1]
        return np.concatenate([known[half:0:-1], known])

    @cached_property
    def _hann(self) -> Floats:
        return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size))

    @cached_property
    def _filters(self) -> Floats:
        return mel_filters(self.mels, self.size)


def _scaled(log: Floats, loudest: float) -> Floats:
    return (np.maximum(log, loudest - RANGE) + 4.0) / 4.0


@lru_cache(maxsize=4)
def mel_filters(mels: int, size: int) -> Floats:
    """Triangles of equal area on the mel scale from 0 to 8,000 Hz: (size / 2 + 1, mels). Slaney 1998."""
    frequencies = np.linspace(0, RATE_HZ / 2, size // 2 + 1)
    edges = _hertz(np.linspace(0.0, _mel(HIGHEST_HZ), mels + 2))
    rising = (frequencies[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequencies[:, None]) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2]))


# Linear below 1,000 Hz (15 mel), logarithmic above: 27 mel for each factor of 6.4.
_BREAK_HZ, _BREAK_MEL, _STEP = 1_000.0, 15.0, 27.0 / math.log(6.4)


def _mel(hertz: float) -> float:
    linear = 3 * hertz / 200
    return linear if hertz < _BREAK_HZ else _BREAK_MEL + _STEP * math.log(hertz / _BREAK_HZ)


def _hertz(mel: Floats) -> Floats:
    return np.where(mel < _BREAK_MEL, mel * 200 / 3, _BREAK_HZ * np.exp((mel - _BREAK_MEL) / _STEP))


def config_text(front: LogMel) -> str:
    """The text of a `preprocessor_config.json` for this front end, as transformers and faster-whisper read it."""
    config = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": front.mels,
        "sampling_rate": RATE_HZ,
        "chunk_length": int(front.seconds) if front.seconds == int(front.seconds) else front.seconds,
        "n_fft": front.size,
        "hop_length": front.hop,
        "n_samples": front.samples,
        "nb_max_frames": front.frames,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        **({} if front.fitted is None else {FITTED: asdict(front.fitted)}),
    }
    return json.dumps(config, indent=2)
