"""Photos to labels: files and folders of them, decoded by several threads while the model computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import parallel
from ...data.splitting import walk
from ...errors import BadData
from ...images.photos import FORMATS, UnreadableImage, quiet_pillow, read_photo
from ...images.preprocess import Preprocessing
from ...model import Model
from ...progress import Progress
from ...runtimes import open_session
from ...runtimes.onnx.interface import as_logits, read_signature, scale_of_model
from ...runtimes.prediction import Prediction, classified
from ...runtimes.signature import Signature
from .network import check_preprocessing

AT_ONCE, AHEAD = 32, 8  # photos in a call, where the graph does not say how many; calls whose photos are decoded ahead
Pixels = NDArray[np.float32]


def predict(model: Model, inputs: Sequence[str], progress: Progress, threads: int = 0) -> Iterator[Prediction]:
    """The label of each photo, in the order given. inputs: files, and folders, whose photos are taken in order.

    A photo of a folder that cannot be read is left out with a warning. Raises BadData for a file that is none, or
    where none can be read; UnsupportedModel for a model whose preprocessing is not known.
    """
    check_preprocessing(model)
    files = list(_files(inputs))
    how = Preprocessing.parse(model.record.preprocessing or {})
    signature = _signature(model)
    size = (signature.batch if signature else None) or AT_ONCE
    session, done = open_session(model, threads=threads), 0
    try:
        for part in _batched(_prepared(files, how, AHEAD * size, progress, threads), size):
            outputs = session.answer(fed(model, np.concatenate([photo for _, photo in part])))
            done += len(part)
            yield from answered(model, [str(path) for path, _ in part], outputs)
    finally:
        session.close()
    if not done:
        raise BadData(f"none of the {len(files)} photos could be read: see the warnings above")


def fed(model: Model, pixels: Pixels) -> dict[str, NDArray[Any]]:
    """The inputs of a model for pixels, (photos, 3, height, width), by their names."""
    signature, inputs = _signature(model), {"pixel_values": pixels}
    return signature.feed(inputs) if signature else inputs


def answered(model: Model, names: Sequence[str], outputs: NDArray[Any]) -> Iterator[Prediction]:
    """What the outputs of a model say of the photos of these names."""
    if model.format == "onnx" and model.labels:  # a graph may have more outputs than classes that are named
        outputs = outputs.reshape(len(names), -1)[:, : len(model.labels)]
    return classified(names, as_logits(outputs, scale_of_model(model)), model.labels)


def _signature(model: Model) -> Signature | None:
    return read_signature(model.weights) if model.format == "onnx" else None


def _batched(items: Iterator[tuple[Path, Pixels]], size: int) -> Iterator[list[tuple[Path, Pixels]]]:
    """Lists of so many items, the last one shorter."""
    while part := list(itertools.islice(items, size)):
        yield part


def _prepared(
    files: Sequence[tuple[Path, bool]], how: Preprocessing, ahead: int, progress: Progress, threads: int
) -> Iterator[tuple[Path, Pixels]]:
    """The pixels of each photo, (1, 3, height, width). Threads decode the next ones while the model computes."""

    def prepare(file: tuple[Path, bool]) -> Pixels | UnreadableImage:
        try:
            return how([read_photo(file[0])])
        except UnreadableImage as error:
            return error

    with quiet_pillow():
        for start in range(0, len(files), ahead):
            part = files[start : start + ahead]
            for (path, in_folder), found in zip(part, parallel.each(prepare, part, threads), strict=True):
                if not isinstance(found, UnreadableImage):
                    yield path, found
                elif in_folder:
                    progress.warn(f"{path}: {found} (left out)")
                else:
                    raise BadData(f"{path}: {found}")


def _files(inputs: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """Each file, and whether it was found in a folder."""
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = [file for file in walk(path) if file.suffix.lower() in FORMATS.extensions]
            if not found:
                raise BadData(f"{path} holds no photos ({', '.join(sorted(FORMATS.extensions))})")
            yield from ((file, True) for file in found)
        elif path.is_file():
            yield path, False
        else:
            raise BadData(f"there is no file or folder {path}")
