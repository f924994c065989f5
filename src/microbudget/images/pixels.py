"""The pixel cache: photos decoded once, kept as uint8 after resize and crop, read back by rows.

One .npy file for each set of photos, geometry and view. It appears when it is complete, so that two processes
at once, or a killed one, do no harm; it is mapped into memory, so that only the rows of a batch are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import cache, parallel
from ..data.folders import some
from ..errors import BadData
from ..machine.files import check_space, open_whole
from ..progress import SILENT, Progress
from .geometry import Geometry
from .photos import UnreadableImage, quiet_pillow, read_photo
from .views import augmented

REVISION = 1  # of the pixels: raise it when the same photo gives other ones
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Rendering:
    """How each photo is rendered: view 0 is the geometry alone, higher views are augmented (with the seed)."""

    geometry: Geometry
    view: int = 0
    seed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        assert self.geometry.output is not None
        return self.geometry.output

    def __call__(self, photo: Image.Image, key: str) -> Pixels:
        """(height, width, 3)."""
        if self.view == 0:
            return self.geometry(photo)
        return augmented(photo, self.size, self.geometry.resample, self.seed, key, self.view)

    def describe(self) -> str:
        """What the pixels depend on, for the file's name."""
        return f"{self.geometry!r} view {self.view}" + (f" seed {self.seed}" if self.view else "")


class PixelCache:
    """The files of decoded pixels in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pixels"

    def path(self, keys: Sequence[str], rendering: Rendering) -> Path:
        """The file for these photos (in their order) and this rendering."""
        made_of = json.dumps([REVISION, rendering.describe(), list(keys)])
        return self.folder / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.npy"

    def open(self, keys: Sequence[str], rendering: Rendering) -> Pixels | None:
        """The pixels of all the photos, mapped into memory (photos, height, width, 3); None when not cached."""
        path = self.path(keys, rendering)
        try:
            pixels: Pixels = np.load(path, mmap_mode="r")
            with suppress(OSError):
                os.utime(path)  # read today: `trim` takes others first
        except (OSError, ValueError, EOFError):  # absent, or damaged from outside
            return None
        return pixels if pixels.shape == (len(keys), *rendering.size, 3) and pixels.dtype == np.uint8 else None

    def fill(
        self,
        photos: Mapping[str, Path],
        wanted: Sequence[tuple[Sequence[str], Rendering]],
        *,
        threads: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        """Make the files that are wanted and missing, each a list of keys and a rendering, in one pass over the photos.

        Every photo is decoded once, whatever is made of it. Raises BadData when a photo cannot be decoded, DiskFull.
        """
        missing = [(keys, rendering) for keys, rendering in wanted if keys and self.open(keys, rendering) is None]
        if not missing:
            return
        with cache.failing_clearly(self.folder), ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            wanted_bytes = sum(_bytes(keys, rendering) for keys, rendering in missing)
            check_space(self.folder, wanted_bytes, "the decoded images take", cache.ADVICE)
            streams = [stack.enter_context(open_whole(self.path(*one), same_bytes=True)) for one in missing]
            writers = [_Writer(stream, *one) for stream, one in zip(streams, missing, strict=True)]
            self._decode(photos, writers, threads, progress)
        cache.trim(self.folder)

    def _decode(self, photos: Mapping[str, Path], writers: list[_Writer], threads: int, progress: Progress) -> None:
        keys = sorted({key for writer in writers for key in writer.rows})
        unreadable: list[str] = []

        def render(key: str) -> None:
            try:
                photo = read_photo(photos[key])
            except UnreadableImage as error:
                unreadable.append(f"{photos[key]} ({error})")
                return
            for writer in writers:
                writer.put(photo, key)

        with quiet_pillow():
            for _ in progress.track(parallel.each(render, keys, threads), "decoding images", len(keys)):
                pass
        if unreadable:
            raise BadData(
                f"{len(unreadable)} images that were whole when the folder was opened cannot be decoded:"
                f" {some(sorted(unreadable))}; repair or remove them"
            )


class _Writer:
    """One .npy file in the making: rows arrive in any order, from several threads."""

    def __init__(self, stream: BinaryIO, keys: Sequence[str], rendering: Rendering) -> None:
        self.rows = {key: row for row, key in enumerate(keys)}
        self._file = stream
        self._rendering = rendering
        self._row_bytes = _bytes(keys[:1], rendering)
        self._lock = threading.Lock()
        # written, not mapped: on a full disk a mapped file ends the process with SIGBUS, a written one with an error
        shape = (len(keys), *rendering.size, 3)
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._start = stream.tell()

    def put(self, photo: Image.Image, key: str) -> None:
        """Render a photo and write its row, where it has one in this file."""
        row = self.rows.get(key)
        if row is None:
            return
        data = self._rendering(photo, key).tobytes()
        with self._lock:
            self._file.seek(self._start + row * self._row_bytes)
            self._file.write(data)


def _bytes(keys: Sequence[str], rendering: Rendering) -> int:
    height, width = rendering.size
    return len(keys) * height * width * 3
