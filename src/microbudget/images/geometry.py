"""Where the pixels of a model's input come from: resize and crop, as transformers' Pillow processors do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Exact:
    """Resize to this size, whatever the shape of the photo."""

    height: int
    width: int


@dataclass(frozen=True)
class ShortestEdge:
    """Resize until the shorter side has `edge` pixels, the longer one at most `longest`; the shape is kept."""

    edge: int
    longest: int | None = None

    def size(self, height: int, width: int) -> Size:
        """The size after resizing, rounded down as transformers does (image_transforms.py, two different ways)."""
        if self.longest is not None:
            return self._bounded(height, width)
        short, long = min(height, width), max(height, width)
        grown = int(self.edge * long / short)
        return (grown, self.edge) if width <= height else (self.edge, grown)

    def _bounded(self, height: int, width: int) -> Size:
        """`get_size_with_aspect_ratio` of transformers."""
        assert self.longest is not None
        short, long = float(min(height, width)), float(max(height, width))
        edge, exact = self.edge, float(self.edge)
        if long / short * edge > self.longest:
            exact = self.longest * short / long
            edge = round(exact)
        if min(height, width) == edge:
            return height, width
        if width < height:
            return int(exact * height / width), edge
        return edge, int(exact * width / height)


@dataclass(frozen=True)
class Geometry:
    """Resize, then centre crops in order. Equal geometries share their decoded pixels in the cache."""

    resize: Exact | ShortestEdge | None
    crops: tuple[Size, ...]
    resample: int  # a number of PIL.Image.Resampling

    @property
    def output(self) -> Size | None:
        """Height and width of every result; None where they depend on the photo."""
        if self.crops:
            return self.crops[-1]
        return (self.resize.height, self.resize.width) if isinstance(self.resize, Exact) else None

    def __call__(self, photo: Image.Image) -> NDArray[np.uint8]:
        """The pixels of an RGB photo: (height, width, 3). Where a crop is larger than the photo it adds black."""
        if self.resize is not None:
            height, width = _resized_size(self.resize, photo)
            photo = photo.resize((width, height), Image.Resampling(self.resample))
        for crop in self.crops:
            photo = _centre_crop(photo, crop)
        return np.asarray(photo)


def _resized_size(resize: Exact | ShortestEdge, photo: Image.Image) -> Size:
    if isinstance(resize, Exact):
        return resize.height, resize.width
    return resize.size(photo.height, photo.width)


def _centre_crop(photo: Image.Image, size: Size) -> Image.Image:
    height, width = size
    top, left = (photo.height - height) // 2, (photo.width - width) // 2  # rounds down below zero too
    return photo.crop((left, top, left + width, top + height))
