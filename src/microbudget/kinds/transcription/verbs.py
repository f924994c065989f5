"""The verb that is for speech models only: transcribe."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BadData
from ...machine import files
from ...machine.processor import fixed_threads
from ...progress import Progress

if TYPE_CHECKING:
    from .transcribing import Transcriber

DONE = 0
FORMATS = ("text", "json", "srt", "vtt")

_Found = list[tuple[str, Path]]


def add_verbs(verbs: Any, verb: Any, _show_json: Any) -> None:
    """Add the parser."""
    parser = verb(
        verbs,
        "transcribe",
        transcribe,
        "write what is said in recordings of any length",
        "meeting.flac --model runs/words --format srt",
    )
    parser.add_argument("audio", metavar="FILE_OR_FOLDER", type=Path)
    parser.add_argument("--model", required=True, help="hub id or folder of Whisper (hf or ct2), or a RUN")
    parser.add_argument("--format", choices=FORMATS, help="text (default), json, srt or vtt")
    parser.add_argument("--out", type=Path, help="file, or folder for a folder of recordings (default: stdout)")
    parser.add_argument("--language", metavar="de", help="or german, of a model that knows several (default: detected)")
    about = "the longest piece transcribed at once (default: the model's window; 7 for subtitles)"
    beam = "hypotheses followed at once; 5 as in faster-whisper takes longer (default: 1, as models are measured)"
    parser.add_argument("--beam", type=int, default=1, metavar="N", help=beam)
    parser.add_argument("--longest", type=float, metavar="SECONDS", help=about)
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def transcribe(options: argparse.Namespace, progress: Progress) -> int:
    """Run the verb. Files of a folder that cannot be read are left out, with a warning."""
    from .transcribing import Transcriber, check_out, longest_of, recordings

    form = options.format or ("json" if options.json else "text")
    found, many = recordings(options.audio, progress), options.audio.is_dir()
    check_out(options.out, found, many, form, options.force)
    with Transcriber(
        options.model,
        threads=fixed_threads(options.threads),
        language=options.language,
        longest_s=longest_of(form, options.longest),
        beam=options.beam,
        progress=progress,
    ) as transcriber:
        if form == "json":
            _write_json(transcriber, found, many, options.out, progress)
        else:
            _write_lines(transcriber, found, many, form, options.out, progress)
    return DONE


def _write_json(transcriber: Transcriber, found: _Found, many: bool, out: Path | None, progress: Progress) -> None:
    targets, done = _targets(found, many, "json", out), []
    for name, path in _readable(found, progress):
        try:
            document = {"model": transcriber.model, **transcriber.transcript(path, name).as_dict()}
        except BadData as error:
            _skip(error, many, progress)
            continue
        done.append(document)
        if out is not None:
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
            files.write_text(targets[name], text)
    _check_any(done, found)
    if out is None:
        progress.clear()
        print(json.dumps(done if many else done[0], indent=1, ensure_ascii=False))


def _write_lines(
    transcriber: Transcriber, found: _Found, many: bool, form: str, out: Path | None, progress: Progress
) -> None:
    from .transcribing import lines, write_lines

    targets, done = _targets(found, many, form, out), []
    for name, path in _readable(found, progress):
        text = lines(transcriber.segments(path, name), form)
        try:
            if out is not None:
                write_lines(targets[name], text)
            elif many:
                joined = " ".join(line.strip() for line in text)
                progress.clear()
                print(f"{name}: {joined}", flush=True)
            else:
                for line in text:
                    progress.clear()
                    sys.stdout.write(line)
                    sys.stdout.flush()
        except BadData as error:
            _skip(error, many, progress)
            continue
        done.append(name)
    _check_any(done, found)


def _targets(found: _Found, many: bool, form: str, out: Path | None) -> dict[str, Path]:
    """By recording the file that its transcript is written into; empty where that is stdout."""
    from .transcribing import target_paths

    names = [name for name, _ in found]
    if out is None:
        return {}
    return target_paths(out, names, form) if many else dict.fromkeys(names, out)


def _readable(found: _Found, progress: Progress) -> Iterator[tuple[str, Path]]:
    for index, (name, path) in enumerate(found):
        if len(found) > 1:
            progress.say(f"[{index + 1}/{len(found)}] {name}")
        yield name, path


def _skip(error: BadData, many: bool, progress: Progress) -> None:
    if not many:
        raise error
    progress.warn(f"{error} (left out)")


def _check_any(done: list[Any], found: _Found) -> None:
    if not done:
        raise BadData(f"none of the {len(found)} recordings could be read: see the warnings above")
