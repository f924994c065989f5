"""Augmented views of a photo: random resized crop, flip and light, decided by seed, content and view alone."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

SCALE = (0.35, 1.0)  # of the photo's area
RATIO = 4 / 3  # the crop's sides differ by at most this factor
LIGHT = 0.2  # brightness and contrast change by at most this much
FLIP_BELOW = 0.5


def augmented(
    photo: Image.Image, size: tuple[int, int], resample: int, seed: int, key: str, view: int
) -> NDArray[np.uint8]:
    """One view of an RGB photo at `size` = (height, width): (height, width, 3).

    The draws are bits of a hash and the arithmetic is +, *, / and sqrt, which IEEE 754 rounds alike everywhere:
    a view is the same on every machine.
    """
    u = _uniform(seed, key, view)
    height, width = size
    box = _crop_box(photo.size, u[:5], width / height)
    picture = photo.resize((width, height), Image.Resampling(resample), box=box)
    if u[5] < FLIP_BELOW:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_relit(picture, 1 + LIGHT * (2 * u[6] - 1), 1 + LIGHT * (2 * u[7] - 1)))


def _uniform(seed: int, key: str, view: int) -> list[float]:
    """Eight numbers in [0, 1)."""
    digest = hashlib.sha256(f"view:{seed}:{key}:{view}".encode()).digest()
    return [bits / 2**32 for bits in struct.unpack(">8I", digest)]


def _crop_box(photo: tuple[int, int], u: list[float], aspect: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom inside a photo of (width, height), near the aspect (width / height) of the result."""
    width, height = photo
    area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * u[0])
    stretch = 1 + (RATIO - 1) * u[1]
    aspect *= stretch if u[2] < 0.5 else 1 / stretch
    crop_width = max(1, min(width, round(math.sqrt(area * aspect))))
    crop_height = max(1, min(height, round(math.sqrt(area / aspect))))
    left = int(u[3] * (width - crop_width + 1))
    top = int(u[4] * (height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height


def _relit(picture: Image.Image, brightness: float, contrast: float) -> Image.Image:
    middle = int(ImageStat.Stat(picture.convert("L")).mean[0] + 0.5)
    levels = np.arange(256, dtype=np.float64)
    relit = np.rint(((levels - middle) * contrast + middle) * brightness).clip(0, 255)
    return picture.point([int(level) for level in relit] * 3)
