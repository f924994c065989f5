"""Originals: photos decoded and made as small as their augmented views allow, kept in memory between epochs."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ..errors import BadData
from .photos import UnreadableImage, read_photo
from .views import SCALE

KEPT_BYTES = 1_000_000_000  # of all the photos in memory; those that come after are decoded again for each view
FINER = 1.25  # a crop of the smallest area still has so many pixels for each pixel of a view


class Originals:
    """Photos whose shorter side is `side` pixels, or what they have where that is less; the same at every call.

    side: enough for the smallest crop of an augmented view at `largest` pixels, see `shorter_side`.
    """

    def __init__(self, paths: Mapping[str, Path], largest: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.largest = largest
        self._paths, self._side, self._room = paths, shorter_side(largest), kept_bytes
        self._kept: dict[str, Image.Image] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Image.Image:
        """An RGB photo. Raises BadData when its file cannot be decoded. Several threads may call it at once."""
        photo = self._kept.get(key)
        if photo is None:
            photo = self._read(key)
            size = 3 * photo.width * photo.height
            with self._lock:
                if key not in self._kept and size <= self._room:
                    self._kept[key] = photo
                    self._room -= size
        return photo

    def _read(self, key: str) -> Image.Image:
        try:
            photo = read_photo(self._paths[key])
        except UnreadableImage as error:
            raise BadData(
                f"{self._paths[key]} was whole when the folder was opened and cannot be decoded now ({error}): repair"
                " or remove it"
            ) from error
        shorter = min(photo.size)
        if shorter <= self._side:
            return photo
        width, height = (max(1, round(side * self._side / shorter)) for side in photo.size)
        return photo.resize((width, height), Image.Resampling.BILINEAR)


def shorter_side(largest: int) -> int:
    """Pixels of the shorter side from which a crop of the smallest area still fills a view of `largest` pixels."""
    return math.ceil(FINER * largest / math.sqrt(SCALE[0]))
