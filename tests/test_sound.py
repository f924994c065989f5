"""Sound files: every format, rate and number of channels gives the same sound; whatever is damaged is refused."""

from __future__ import annotations

import io
import struct
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


def encoded(form: str, subtype: str = "PCM_16", seconds: float = 0.5) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone(seconds, 16_000), 16_000, format=form, subtype=subtype)
    return stream.getvalue()


def with_length(data: bytes, mark: bytes, skip: int, length: bytes) -> bytes:
    """The bytes at `skip` after a mark replaced: the length in a header."""
    place = data.index(mark) + skip
    return data[:place] + length + data[place + len(length) :]


UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFF000)
HEADERS = {"WAV": (b"data", 4, "<I"), "WAVEX": (b"data", 4, "<I"), "AU": (b".snd", 8, ">I"), "AIFF": (b"SSND", 4, ">I")}


@pytest.mark.parametrize("length", UNKNOWN)
@pytest.mark.parametrize("form", HEADERS)
def test_a_length_that_a_pipe_could_not_know(tmp_path: Path, form: str, length: int) -> None:
    """ffmpeg, sox and others write such lengths; they mean: up to the end of the file."""
    mark, skip, packed = HEADERS[form]
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(form))
    whole = sound.read(path)
    path.write_bytes(with_length(encoded(form), mark, skip, struct.pack(packed, length)))
    assert sound.describe(path).seconds == sound.check(path).seconds == 0.5
    np.testing.assert_array_equal(sound.read(path), whole)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "ULAW"])
def test_a_piped_wav_of_other_samples(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(encoded("WAV", subtype), b"data", 4, bytes(4)))
    assert sound.describe(path).seconds == 0.5


def test_an_aiff_without_a_number_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.aiff"
    piped = with_length(encoded("AIFF"), b"SSND", 4, struct.pack(">I", 8))
    path.write_bytes(with_length(piped, b"COMM", 10, bytes(4)))
    assert len(sound.read(path)) == 8_000


@pytest.mark.parametrize("length", [bytes(24), b"\xff" * 24, b"\xff" * 7 + b"\x7f" + bytes(16)])
def test_a_piped_rf64(tmp_path: Path, length: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(encoded("RF64"), b"ds64", 8, length))
    assert sound.describe(path).seconds == 0.5


@pytest.mark.parametrize(("form", "skip"), [("W64", 16), ("CAF", 4)])
@pytest.mark.parametrize("length", [bytes(8), b"\xff" * 8])
def test_a_piped_file_with_sizes_of_64_bits(tmp_path: Path, form: str, skip: int, length: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(encoded(form), b"data", skip, length))
    assert sound.describe(path).seconds == 0.5


def piped_flac(samples: np.ndarray) -> bytes:
    """Without the number of samples: 36 bits of the header, and a checksum of zeros."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format="FLAC")
    data = stream.getvalue()
    known = int.from_bytes(data[18:26], "big")
    return data[:18] + (known >> 36 << 36).to_bytes(8, "big") + bytes(16) + data[42:]


def test_a_piped_flac(tmp_path: Path) -> None:
    """Over the end of a block and not; one that is cut off is still found out."""
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    path = tmp_path / "a.flac"
    path.write_bytes(piped_flac(noise))
    assert sound.describe(path).frames == sound.check(path).frames == 20_000
    for seconds in (0.1, 0.25, 30.0):
        found = np.concatenate(list(sound.blocks(path, seconds)))
        np.testing.assert_allclose(found, noise, atol=1e-4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadData, match=r"a\.flac is damaged after its header"):
        sound.read(path)


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AU", "AIFF"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, form: str) -> None:
    """libsndfile takes it for a shorter one."""
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(form)[:-8_000])
    for read in (sound.describe, sound.read, sound.check):
        with pytest.raises(BadData, match=r"a\.wav is cut off: its header says 0\.50 s, it holds 0\.25 s"):
            read(path)


def test_an_empty_recording_stays_empty(tmp_path: Path) -> None:
    """Behind a length of 0, chunks are chunks and no sound."""
    path = tmp_path / "a.wav"
    header = encoded("WAV", seconds=0.0)
    for more in (b"", b"LIST\x04\x00\x00\x00INFO"):
        path.write_bytes(header + more)
        assert sound.describe(path).frames == 0


def test_a_header_that_counts_itself_is_no_cut_off_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(encoded("WAV"), b"data", 4, struct.pack("<I", 16_000 + 44)))
    assert sound.check(path).seconds == 0.5


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
    checked = sound.check(stereo_44100)
    assert (checked.seconds, checked.channels, checked.rate_hz) == (1.0, 2, 44_100)


def test_silence_of_unknown_length_is_counted_only_as_far_as_asked(tmp_path: Path) -> None:
    """A FLAC from a pipe: a few megabytes of it hold days of silence, and whoever uploads it must not stop the page."""
    path = tmp_path / "silence.flac"
    sound.library().write(path, np.zeros(120 * 1000, np.int16), 1000)
    written = bytearray(path.read_bytes())
    written[21] &= 0xF0
    written[22:26] = bytes(4)  # STREAMINFO: the number of samples is unknown
    path.write_bytes(written)
    assert sound.describe(path).seconds == 120
    assert 40 < sound.describe(path, counted_s=40).seconds <= 60  # two blocks of 30 s
