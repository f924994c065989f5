"""transcribe: recordings of any length to text, with timestamps, piece by piece in bounded memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...audio import sound
from ...audio.sound import FORMATS
from ...data.folders import walk
from ...errors import BadData, InvalidOption, UnsupportedModel
from ...machine.files import open_whole
from ...model import Model
from ...progress import SILENT, Progress
from ...runtimes.loading import load
from ...units import format_seconds
from .network import KIND, open_speech

OUTPUTS = ("text", "json", "srt", "vtt")
ENDINGS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
SUBTITLE_S = 7.0  # the longest subtitle
REPORT_EVERY_S = 60.0  # in a log, where no progress line is rewritten


@dataclass(frozen=True)
class Segment:
    """The text of a part of a recording."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The text of a whole recording. `rtf`: the real-time factor, seconds of computing for a second of sound."""

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
    """An open speech model that transcribes recordings. Use it as a context manager.

    language: the code of a language, for a multilingual model; else it is detected. longest_s: the longest piece that
    is transcribed at once, at most the model's window. beam: hypotheses that are followed at once; 1 is greedy, as
    models are measured. Raises UnsupportedModel for other than speech models, InvalidOption for a language that the
    model does not know.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        threads: int = 0,
        language: str | None = None,
        longest_s: float | None = None,
        beam: int = 1,
        progress: Progress = SILENT,
    ) -> None:
        opened = load(model)
        if opened.task != KIND:
            raise UnsupportedModel(f"{opened.path} is no speech model: give a folder of Whisper")
        if longest_s is not None and not longest_s >= 1:
            raise InvalidOption(f"a piece lasts at least 1 s, not {longest_s}")
        if beam < 1:
            raise InvalidOption(f"a beam has at least 1 hypothesis, not {beam}")
        self._session = open_speech(opened, threads=threads, language=language, beam=beam)
        self._longest_s, self._progress = longest_s, progress
        self.model = opened.record.source or str(opened.path)

    def segments(self, path: Path, name: str = "") -> Iterator[Segment]:
        """The segments of a recording, one by one as they are transcribed. Raises BadData."""
        total_s = sound.describe(path).seconds
        report = _Reporter(self._progress, name or path.name, total_s)
        for piece, text in self._session.transcribe_file(path, self._longest_s, report):
            yield Segment(round(piece.start_s, 3), round(piece.end_s, 3), text)
        report(total_s)

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


class _Reporter:
    """Reports how much of a recording is transcribed, and the time left."""

    def __init__(self, progress: Progress, name: str, total_s: float) -> None:
        self._progress, self._name, self._total_s = progress, name, total_s
        self._started = self._reported_at = time.monotonic()

    def __call__(self, done_s: float) -> None:
        now = time.monotonic()
        spent_s = now - self._started
        self._progress.advance(self._name, done_s, self._total_s, spent_s)
        going = 0 < done_s < self._total_s
        if now - self._reported_at >= REPORT_EVERY_S and not self._progress.live and going:
            self._reported_at = now
            left = format_seconds(spent_s / done_s * (self._total_s - done_s))
            self._progress.say(f"{self._name} {clock(done_s)} of {clock(self._total_s)}, {left} left")


def recordings(path: Path, progress: Progress = SILENT) -> list[tuple[str, Path]]:
    """The sound files of a path with their names below it, sorted. Warns of files in formats that are not read.

    Raises BadData where there is none.
    """
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise BadData(f"there is no file or folder {path}")
    files = list(walk(path))
    found = [file for file in files if file.suffix.lower() in FORMATS.extensions]
    others = FORMATS.about_foreign(file.suffix.lower() for file in files)
    if not found:
        raise BadData("; ".join([f"{path} holds no recordings ({', '.join(sorted(FORMATS.extensions))})", *others]))
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
            yield f"{times}\n{_escaped(segment.text)}\n\n"
    else:
        raise InvalidOption(f"format must be one of {', '.join(OUTPUTS)}, not {form!r}")


def write_lines(path: Path, text: Iterable[str]) -> None:
    """Line by line, so that what is written so far can be read in the temporary file."""
    with open_whole(path) as stream:
        for line in text:
            stream.write(line.encode("utf-8"))
            stream.flush()


def clock(seconds: float, mark: str = "") -> str:
    """Hours, minutes, seconds; with a mark before them also milliseconds: "00:01:02,345"."""
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    text = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{text}{mark}{rest:03}" if mark else text


def _escaped(text: str) -> str:
    """WebVTT would take some characters for tags and arrows."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def longest_of(form: str, longest_s: float | None) -> float | None:
    """The longest piece for a format: subtitles are short unless the user gives a length."""
    return SUBTITLE_S if longest_s is None and form in ("srt", "vtt") else longest_s


def check_out(out: Path | None, found: Sequence[tuple[str, Path]], many: bool, form: str, force: bool) -> None:
    """Raise before any work for an output that is not possible: a file that exists, subtitles of a folder on stdout."""
    from ...errors import AlreadyExists

    if out is None:
        if many and form in ("srt", "vtt"):
            raise InvalidOption(f"the {form} of a folder are many files: give a folder with --out")
        return
    targets = target_paths(out, [name for name, _ in found], form) if many else {"": out}
    existing = [path for path in targets.values() if path.exists()]
    if many and out.is_file():
        raise AlreadyExists(f"{out} is a file: give a folder for the {len(found)} transcripts")
    if not many and out.is_dir():
        raise AlreadyExists(f"{out} is a folder: give a file for the transcript")
    if existing and not force:
        raise AlreadyExists(f"{existing[0]} already exists: give another --out, or --force to overwrite it")


def target_paths(out: Path, names: Sequence[str], form: str) -> dict[str, Path]:
    """By recording the path of its transcript in the folder `out`: "a.srt" of "a.flac".

    Recordings that differ only in their endings keep them: "a.flac.srt" and "a.wav.srt".
    """
    taken = Counter([*names, *(_stem(name) for name in names)])
    return {name: out / f"{_stem(name) if taken[_stem(name)] == 1 else name}{ENDINGS[form]}" for name in names}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
