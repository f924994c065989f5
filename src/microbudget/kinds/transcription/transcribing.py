"""transcribe: recordings of any length to text, with timestamps, piece by piece in bounded memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...audio import sound
from ...audio.sound import EXTENSIONS, FOREIGN
from ...data.folders import about_foreign, walk
from ...errors import BadData, InvalidOption, UnsupportedModel
from ...model import TRANSCRIPTION, Model
from ...progress import SILENT, Progress
from ...runtimes import open_speech
from ...runtimes.loading import load
from ...units import format_seconds
from .utterances import REMEDY

FORMATS = ("text", "json", "srt", "vtt")
ENDINGS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
SUBTITLE_S = 7.0  # what stands on a screen at once
TOLD_EVERY_S = 60.0  # in a log, where there is no line to rewrite


@dataclass(frozen=True)
class Segment:
    """What is said from one time of a recording to another."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """A recording with all that is said in it. `rtf`: seconds of computing for a second of sound."""

    file: str
    seconds: float
    segments: tuple[Segment, ...]
    rtf: float

    @property
    def text(self) -> str:
        """All segments in one line."""
        return " ".join(segment.text for segment in self.segments)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "text": self.text}


class Transcriber:
    """An open speech model that writes what it hears. Use it as a context manager.

    language: the code of a language, of a model that knows several; else it is detected. longest_s: the longest piece
    that is heard at once, at most the model's window. Raises UnsupportedModel for other than speech models,
    InvalidOption for a language that the model does not know.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        threads: int = 0,
        language: str | None = None,
        longest_s: float | None = None,
        progress: Progress = SILENT,
    ) -> None:
        opened = load(model)
        if opened.task != TRANSCRIPTION:
            raise UnsupportedModel(f"{opened.path} is no speech model: give a folder of Whisper")
        if longest_s is not None and not longest_s >= 1:
            raise InvalidOption(f"a piece lasts at least 1 s, not {longest_s}")
        self._session = open_speech(opened, threads=threads, language=language)
        self._longest_s, self._progress = longest_s, progress
        self.model = opened.record.source or str(opened.path)

    def segments(self, path: Path, name: str = "") -> Iterator[Segment]:
        """The segments of a recording as they are heard. Raises BadData."""
        total_s = sound.describe(path).seconds
        watch = _Watch(self._progress, name or path.name, total_s)
        for piece, text in self._session.transcribe_file(path, self._longest_s, watch):
            yield Segment(round(piece.start_s, 3), round(piece.end_s, 3), text)
        watch(total_s)

    def transcript(self, path: Path, name: str = "") -> Transcript:
        """The whole of a recording. Raises BadData."""
        started = time.perf_counter()
        found = tuple(self.segments(path, name))
        seconds = sound.describe(path).seconds
        spent_s = time.perf_counter() - started
        return Transcript(name or str(path), seconds, found, spent_s / seconds if seconds else 0.0)

    def close(self) -> None:
        """Release the model."""
        self._session.close()

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Watch:
    """Tells how far a recording is heard, and the time left."""

    def __init__(self, progress: Progress, name: str, total_s: float) -> None:
        self._progress, self._name, self._total_s = progress, name, total_s
        self._started = self._told_at = time.monotonic()

    def __call__(self, heard_s: float) -> None:
        now = time.monotonic()
        spent_s = now - self._started
        self._progress.advance(self._name, heard_s, self._total_s, spent_s)
        going = 0 < heard_s < self._total_s
        if now - self._told_at >= TOLD_EVERY_S and not self._progress.live and going:
            self._told_at = now
            left = format_seconds(spent_s / heard_s * (self._total_s - heard_s))
            self._progress.say(f"{self._name} {clock(heard_s)} of {clock(self._total_s)}, {left} left")


def recordings(path: Path, progress: Progress = SILENT) -> list[tuple[str, Path]]:
    """The sound files of a path with their names below it, sorted; what is no format of ours is told.

    Raises BadData where there is none.
    """
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise BadData(f"there is no file or folder {path}")
    files = list(walk(path))
    found = [file for file in files if file.suffix.lower() in EXTENSIONS]
    others = about_foreign(Counter(file.suffix.lower() for file in files if file.suffix.lower() in FOREIGN), REMEDY)
    if not found:
        raise BadData("; ".join([f"{path} holds no recordings ({', '.join(sorted(EXTENSIONS))})", *others]))
    for warning in others:
        progress.warn(warning)
    return [(file.relative_to(path).as_posix(), file) for file in found]


def lines(segments: Iterable[Segment], form: str) -> Iterator[str]:
    """The segments as the lines of a format, as they come; each with its end."""
    if form == "text":
        yield from (f"{segment.text}\n" for segment in segments)
    elif form == "srt":
        for number, segment in enumerate(segments, start=1):
            times = f"{clock(segment.start_s, ',')} --> {clock(segment.end_s, ',')}"
            yield f"{number}\n{times}\n{segment.text}\n\n"
    elif form == "vtt":
        yield "WEBVTT\n\n"
        for segment in segments:
            times = f"{clock(segment.start_s, '.')} --> {clock(segment.end_s, '.')}"
            yield f"{times}\n{_without_marks(segment.text)}\n\n"
    else:
        raise InvalidOption(f"format must be one of {', '.join(FORMATS)}, not {form!r}")


def clock(seconds: float, mark: str = "") -> str:
    """Hours, minutes, seconds; with a mark before them also milliseconds: "00:01:02,345"."""
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    told = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{told}{mark}{rest:03}" if mark else told


def _without_marks(text: str) -> str:
    """WebVTT reads tags and arrows."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def longest_of(form: str, longest_s: float | None) -> float | None:
    """The longest piece for a format: subtitles are short where nothing else is asked for."""
    return SUBTITLE_S if longest_s is None and form in ("srt", "vtt") else longest_s


def check_out(out: Path | None, found: Sequence[tuple[str, Path]], many: bool, form: str, force: bool) -> None:
    """Raise before any work for an output that cannot be: a file that stands, subtitles of a folder on stdout."""
    from ...errors import AlreadyExists

    if out is None:
        if many and form in ("srt", "vtt"):
            raise InvalidOption(f"the {form} of a folder are many files: give a folder with --out")
        return
    targets = [target(out, name, form) for name, _ in found] if many else [out]
    standing = [path for path in targets if path.exists()]
    if many and out.is_file():
        raise AlreadyExists(f"{out} is a file: give a folder for the {len(found)} transcripts")
    if not many and out.is_dir():
        raise AlreadyExists(f"{out} is a folder: give a file for the transcript")
    if standing and not force:
        raise AlreadyExists(f"{standing[0]} stands already: give another --out, or --force to write it again")


def target(out: Path, name: str, form: str) -> Path:
    """Where a recording's transcript goes in a folder: beside each other even if only the ending differs."""
    return out / f"{name}{ENDINGS[form]}"
