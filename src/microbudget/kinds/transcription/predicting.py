"""Recordings to transcripts, as plain text or subtitles; `microbudget transcribe` has more options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import BadData
from ...model import Model
from ...progress import Progress
from ...runtimes.prediction import Prediction
from .transcribing import Transcriber, check_out, lines, longest_of, recordings, target_paths, write_lines


def subtitles(
    model: Model, inputs: Sequence[str], form: str, out: Path | None, progress: Progress, threads: int = 0
) -> Iterator[str]:
    """The subtitles of the recordings as they come; each into its own file where `out` is a folder.

    form: "srt" or "vtt". Raises BadData; InvalidOption for several recordings without a folder; AlreadyExists.
    """
    found = [pair for name in inputs for pair in recordings(Path(name), progress)]
    many = len(found) > 1 or out is not None
    check_out(out, found, many, form, force=False)
    targets = {} if out is None else target_paths(out, [name for name, _ in found], form)
    with Transcriber(model, threads=threads, longest_s=longest_of(form, None), progress=progress) as transcriber:
        for name, path in found:
            text = lines(transcriber.segments(path, name), form)
            if out is None:
                yield from text
            else:
                write_lines(targets[name], text)
                yield f"{targets[name]}\n"


def predict(model: Model, inputs: Sequence[str], progress: Progress, threads: int = 0) -> Iterator[Prediction]:
    """The text of each recording. inputs: files, and folders, whose recordings are taken in order.

    A recording of a folder that cannot be read is left out with a warning. Raises BadData.
    """
    found = [(path, Path(name).is_dir()) for name in inputs for _, path in recordings(Path(name), progress)]
    done = 0
    with Transcriber(model, threads=threads, progress=progress) as transcriber:
        for path, in_folder in found:
            try:
                text = transcriber.transcript(path).text
            except BadData as error:
                if not in_folder:
                    raise
                progress.warn(f"{error} (left out)")
                continue
            done += 1
            yield Prediction(str(path), text)
    if not done:
        raise BadData(f"none of the {len(found)} recordings could be read: see the warnings above")
