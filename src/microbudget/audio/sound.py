"""Sound files: any format that libsndfile reads, any rate and number of channels, as 16 kHz mono in bounded memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.folders import FileFormats
from ..errors import BadData, MissingExtra
from . import headers

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

RATE_HZ = 16_000
FORMATS = FileFormats(
    "recordings",
    frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
     ".rf64", ".sph", ".nist", ".voc", ".sf", ".ircam", ".htk", ".avr", ".paf", ".pvf", ".sds", ".svx", ".8svx", ".iff",
     ".wve"}
    ),
    frozenset({".m4a", ".aac", ".wma", ".webm", ".mp4", ".mkv", ".mov", ".amr", ".ac3", ".ape", ".wv"}),
    "convert them, for example with ffmpeg",
)  # fmt: skip
BLOCK_S = 30.0
SLOWEST_HZ, FASTEST_HZ = 1_000, 768_000  # a header that says otherwise is damaged
ENDLESS = 1 << 60  # frames: what libsndfile says of a FLAC from a pipe, which does not name their number


@dataclass(frozen=True)
class Sound:
    """What the header of a sound file says."""

    frames: int
    rate_hz: int
    channels: int
    kind: str  # "FLAC, PCM_16"

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.frames / self.rate_hz


def describe(path: Path, counted_s: float = math.inf) -> Sound:
    """The header of a sound file. Raises BadData when the file is none, or is cut off.

    A FLAC whose header does not say how long it is, as from a pipe, is decoded to count: until it is longer than
    `counted_s`, as a few megabytes may hold days of silence.
    """
    with _opened(path) as file:
        sound = _sound(file, path)
        return sound if sound.frames < ENDLESS else replace(sound, frames=_counted(file, path, sound, counted_s))


def read(path: Path, seconds: float | None = None) -> Samples:
    """A file as 16 kHz mono, (samples,): all of it, or its first seconds; the rest is not decoded. Raises BadData."""
    wanted, parts, held = None if seconds is None else round(seconds * RATE_HZ), [], 0
    with contextlib.closing(blocks(path)) as source:
        for block in source:
            parts.append(block)
            held += len(block)
            if wanted is not None and held >= wanted:
                break
    return np.concatenate(parts)[:wanted] if parts else np.zeros(0, np.float32)


def blocks(path: Path, seconds: float = BLOCK_S) -> Generator[Samples, None, None]:
    """A file as 16 kHz mono, block by block; joined they are what `read` returns, whatever the blocks' length.

    Channels are averaged, and resampled without aliases (soxr, high quality). Raises BadData for a file that is no
    sound, that is cut off, or that holds NaN or infinity.
    """
    with _opened(path) as file:
        sound = _sound(file, path)
        resample = _resampler(sound.rate_hz)
        for block, last in _decoded_blocks(file, path, sound, seconds):
            mono = block[:, 0] if sound.channels == 1 else block.mean(axis=1, dtype=np.float32)
            yield resample(mono, last)


def check(path: Path) -> Sound:
    """Decode all of a file to check it, without resampling. Raises what `blocks` raises."""
    with _opened(path) as file:
        sound = _sound(file, path)
        return replace(sound, frames=_counted(file, path, sound))


def library() -> Any:
    """The soundfile module. Raises MissingExtra."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel of this platform lacks libsndfile
        raise MissingExtra("audio needs soundfile: pip install 'microbudget[speech]'") from error
    return soundfile


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    soundfile = library()
    if path.suffix.lower() == ".raw":
        raise BadData(f"{path} has no header with its sampling rate: write it as WAV, for example with ffmpeg")
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise BadData(f"{path} is empty: it holds no sound")
            extent = headers.extent(stream)
            source = headers.Patched(stream, extent.patches) if extent and extent.patches else stream
            stream.seek(0)
            with _reader()(source) as file:
                if extent is not None and extent.cut_off:
                    raise _cut_off(path, file.frames, _sound(file, path), (extent.promised or 0) / max(1, extent.held))
                yield file
    except soundfile.LibsndfileError as error:
        advice = "convert it, for example with `ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav`"
        raise BadData(f"{path} is no sound file that can be read ({_reason(error)}): {advice}") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror or error}") from error


@cache
def _reader() -> Any:
    """`soundfile.SoundFile` that only goes on: it seeks after each block, which a FLAC of unknown length refuses."""

    class Reader(library().SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Reader


def _sound(file: soundfile.SoundFile, path: Path) -> Sound:
    sound = Sound(file.frames, file.samplerate, file.channels, f"{file.format}, {file.subtype}")
    if not SLOWEST_HZ <= sound.rate_hz <= FASTEST_HZ:
        raise BadData(f"{path} says that it has {sound.rate_hz} samples a second: its header is damaged")
    return sound


def _decoded_blocks(
    file: soundfile.SoundFile, path: Path, sound: Sound, seconds: float = BLOCK_S
) -> Iterator[tuple[Samples, bool]]:
    """The rest of a file in blocks, (frames, channels), and whether each is the last. Raises BadData."""
    size, done, endless = max(1, int(seconds * sound.rate_hz)), 0, sound.frames >= ENDLESS
    held: Samples | None = None  # where the length is unknown, a block is the last one if nothing follows
    while done < sound.frames:
        block = _decoded(file, path, min(size, sound.frames - done))
        if not len(block) and endless:
            break
        if not len(block):
            raise _cut_off(path, done, sound)
        if not np.isfinite(block).all():
            raise BadData(f"{path} holds samples that are NaN or infinite: write it again from its source")
        done += len(block)
        if held is not None:
            yield held, False
        held = block if endless else None
        if not endless:
            yield block, done >= sound.frames
    if held is not None:
        yield held, True


def _counted(file: soundfile.SoundFile, path: Path, sound: Sound, most_s: float = math.inf) -> int:
    """Frames that are left in a file; the rest is not decoded where they last longer. Raises BadData."""
    frames = 0
    for block, _ in _decoded_blocks(file, path, sound):
        frames += len(block)
        if frames > most_s * sound.rate_hz:
            break
    return frames


def _decoded(file: soundfile.SoundFile, path: Path, frames: int) -> Samples:
    """(frames, channels); fewer where the file ends."""
    try:
        block: Samples = file.read(frames, dtype="float32", always_2d=True)
    except library().LibsndfileError as error:
        raise BadData(f"{path} is damaged after its header ({_reason(error)}): is it complete?") from error
    return block


def _cut_off(path: Path, done: int, sound: Sound, longer: float = 1.0) -> BadData:
    """longer: how many times as long as libsndfile says the header says it is."""
    held_s, said_s = done / sound.rate_hz, sound.seconds * longer
    return BadData(
        f"{path} is cut off: its header says {said_s:.2f} s, it holds {held_s:.2f} s. Copy it again, or keep what there"
        " is with `ffmpeg -i FILE NEW.wav`"
    )


def _reason(error: Exception) -> str:
    return str(error).removeprefix("Error opening ").rsplit(": ", 1)[-1].strip().rstrip(".")


class _AsItIs:
    """The resampler of a file that has the wanted rate already."""

    def __call__(self, block: Samples, last: bool) -> Samples:
        del last
        return np.ascontiguousarray(block, np.float32)


class _Resampler:
    """soxr as a stream: the samples do not depend on the length of the blocks."""

    def __init__(self, rate_hz: int) -> None:
        import soxr

        self._stream = soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="float32", quality="HQ")

    def __call__(self, block: Samples, last: bool) -> Samples:
        return np.asarray(self._stream.resample_chunk(np.ascontiguousarray(block, np.float32), last=last), np.float32)


def _resampler(rate_hz: int) -> _AsItIs | _Resampler:
    if rate_hz == RATE_HZ:
        return _AsItIs()
    try:
        return _Resampler(rate_hz)
    except ImportError as error:
        raise MissingExtra("audio of other rates than 16 kHz needs soxr: pip install 'microbudget[speech]'") from error
