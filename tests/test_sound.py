"""Sound files: every format, rate and number of channels gives the same sound; whatever is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.audio import sound
from microbudget.errors import BadData

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

TONE_HZ = 440.0


def tone(seconds: float, rate: int, hertz: float = TONE_HZ) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def amplitude(samples: np.ndarray, hertz: float) -> float:
    """Of one frequency in 16 kHz, edges left out."""
    inner = samples[1600:-1600]
    phase = 2 * np.pi * hertz * np.arange(len(inner)) / sound.RATE_HZ
    return float(2 * np.abs(np.mean(inner * np.exp(-1j * phase))))


@pytest.mark.parametrize(
    ("name", "form", "subtype", "tolerance"),
    [
        ("a.wav", "WAV", "PCM_U8", 0.01),
        ("a.wav", "WAV", "PCM_16", 1e-4),
        ("a.wav", "WAV", "PCM_24", 1e-6),
        ("a.wav", "WAV", "PCM_32", 1e-6),
        ("a.wav", "WAV", "FLOAT", 1e-6),
        ("a.wav", "WAV", "DOUBLE", 1e-6),
        ("a.wav", "WAV", "ULAW", 0.02),
        ("a.flac", "FLAC", "PCM_16", 1e-4),
        ("a.flac", "FLAC", "PCM_24", 1e-6),
        ("a.ogg", "OGG", "VORBIS", 0.03),
        ("a.aiff", "AIFF", "PCM_16", 1e-4),
        ("a.au", "AU", "PCM_16", 1e-4),
        ("a.w64", "W64", "PCM_16", 1e-4),
    ],
)
def test_formats(tmp_path: Path, name: str, form: str, subtype: str, tolerance: float) -> None:
    wave = tone(0.5, 16_000)
    soundfile.write(tmp_path / name, wave, 16_000, format=form, subtype=subtype)
    read = sound.read(tmp_path / name)
    assert read.dtype == np.float32
    assert read.shape == wave.shape
    np.testing.assert_allclose(read, wave, atol=tolerance)
    assert sound.describe(tmp_path / name).seconds == pytest.approx(0.5)


WRITTEN = {
    ".wav": "WAV PCM_16", ".wave": "WAV PCM_16", ".flac": "FLAC PCM_16", ".ogg": "OGG VORBIS", ".oga": "OGG VORBIS",
    ".opus": "OGG OPUS", ".mp3": "MP3 MPEG_LAYER_III", ".aif": "AIFF PCM_16", ".aiff": "AIFF PCM_16",
    ".aifc": "AIFF PCM_16", ".au": "AU PCM_16", ".snd": "AU PCM_16", ".caf": "CAF PCM_16", ".w64": "W64 PCM_16",
    ".rf64": "RF64 PCM_16", ".sph": "NIST PCM_16", ".nist": "NIST PCM_16", ".voc": "VOC PCM_16", ".sf": "IRCAM PCM_16",
    ".ircam": "IRCAM FLOAT", ".htk": "HTK PCM_16", ".avr": "AVR PCM_16", ".paf": "PAF PCM_16", ".pvf": "PVF PCM_16",
    ".sds": "SDS PCM_16", ".svx": "SVX PCM_16", ".8svx": "SVX PCM_S8", ".iff": "SVX PCM_16", ".wve": "WVE ALAW",
}  # fmt: skip


@pytest.mark.parametrize("suffix", sorted(sound.FORMATS.extensions))
def test_every_suffix_that_is_looked_for_is_read(tmp_path: Path, suffix: str) -> None:
    form, subtype = WRITTEN[suffix].split()
    if form not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {form}")
    rate = 8_000 if form == "WVE" else 16_000  # Psion's know no other
    soundfile.write(tmp_path / f"a{suffix}", tone(0.5, rate), rate, format=form, subtype=subtype)
    read = sound.read(tmp_path / f"a{suffix}")
    assert len(read) == pytest.approx(8_000, abs=1)
    assert amplitude(read, TONE_HZ) == pytest.approx(0.5, rel=0.05)


def test_raw_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(32_000))
    with pytest.raises(BadData, match=r"a\.raw has no header"):
        sound.describe(tmp_path / "a.raw")


def test_a_rate_that_cannot_be(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.1, 16_000), 10)
    with pytest.raises(BadData, match=r"[/\\]a\.wav says that it has 10 samples a second"):
        sound.read(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_rates_are_resampled_well(tmp_path: Path, rate: int) -> None:
    """The tone keeps its loudness and length; what 16 kHz cannot hold is gone and leaves no alias."""
    wave = tone(1.0, rate)
    alias = 10_000.0  # would be heard at 6,000
    if rate > 2 * alias:
        wave = wave + tone(1.0, rate, alias)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    read = sound.read(tmp_path / "a.wav")
    assert abs(len(read) - 16_000) <= 1
    assert amplitude(read, TONE_HZ) == pytest.approx(0.5, rel=1e-3)
    assert amplitude(read, 16_000 - alias) < 1e-4


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.2, 16_000), 0.2 * tone(0.2, 16_000, 1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right, 0 * left], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(sound.read(tmp_path / "a.wav"), (left + right) / 3, atol=1e-6)


@pytest.fixture(scope="session")
def stereo_44100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "a.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, (44_100, 2))
    soundfile.write(path, noise, 44_100)
    return path


@settings(max_examples=20, deadline=None)
@given(seconds=st.floats(0.001, 2.0))
def test_blocks_are_the_whole_whatever_their_length(stereo_44100: Path, seconds: float) -> None:
    parts = list(sound.blocks(stereo_44100, seconds))
    np.testing.assert_array_equal(np.concatenate(parts), sound.read(stereo_44100))


def test_ten_milliseconds(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.01, 16_000), 16_000)
    assert len(sound.read(tmp_path / "a.wav")) == 160
    soundfile.write(tmp_path / "b.wav", tone(0.01, 44_100), 44_100)
    assert len(sound.read(tmp_path / "b.wav")) == pytest.approx(160, abs=1)


def test_a_truncated_flac_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadData, match=r"a\.flac is (cut off|damaged)"):
        sound.read(path)
    with pytest.raises(BadData, match=r"a\.flac is (cut off|damaged)"):
        sound.check(path)


def test_a_beginning_is_read_without_the_rest(stereo_44100: Path, tmp_path: Path) -> None:
    """What lies behind it is not decoded, and so may be damaged."""
    whole = sound.read(stereo_44100)
    for seconds in (0.0, 0.25, 1.0, 7.0):
        np.testing.assert_array_equal(sound.read(stereo_44100, seconds), whole[: round(seconds * 16_000)])
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 90 * 16_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert len(sound.read(path, 20.0)) == 20 * 16_000
    with pytest.raises(BadData, match=r"a\.flac is (cut off|damaged)"):
        sound.read(path)


def test_a_wav_whose_header_promises_more(tmp_path: Path) -> None:
    """libsndfile believes the file's length, so what is there is heard: nothing is made up for the rest."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, 16_000), 16_000)
    path.write_bytes(path.read_bytes()[:16_044])
    assert len(sound.read(path)) == 8_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"these are words, not waves\n" * 20, "is no sound file that can be read"),
        (b"", "is empty"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is no sound file that can be read"),
    ],
)
def test_what_is_no_sound(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadData, match=message):
        sound.read(tmp_path / "a.wav")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        sound.describe(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    wave = tone(0.1, 16_000)
    wave[100] = value
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    for read in (sound.read, sound.check):
        with pytest.raises(BadData, match="NaN or infinite"):
            read(tmp_path / "a.wav")


def test_check_tells_the_length(stereo_44100: Path) -> None:
    told = sound.check(stereo_44100)
    assert (told.seconds, told.channels, told.rate_hz) == (1.0, 2, 44_100)
