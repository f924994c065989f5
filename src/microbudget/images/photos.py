"""One image file: an upright RGB picture, or the reason why it cannot be one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.folders import FileFormats
from ..errors import BadData

FORMATS = FileFormats(
    "images",
    frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}),
    frozenset({".heic", ".heif", ".avif", ".jxl", ".jfif", ".svg", ".raw", ".dng", ".cr2", ".nef", ".psd"}),
    "convert them to JPEG or PNG",
)
MAX_PIXELS = 178_956_970  # declared by the header: Pillow's own bound, half a gigabyte of RGB
MAX_ASPECT = 100  # a strip of 1 x 20,000 pixels would grow to gigabytes when its short side is brought to 256
_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "TIFF"})
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(BadData):
    """An image file that cannot be decoded; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: a damaged or hostile file has a `problem`."""

    problem: str | None = None
    animated: bool = False


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings (odd EXIF, large image) for a whole pass over the files: we report what matters.

    Around the pass and not around each file, because the filters belong to the process, not to the thread.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inspect(data: bytes) -> Inspection:
    """Whether a file's bytes are a whole image, for less than half the price of decoding it.

    JPEG is decoded at an eighth of its size, PNG is checked by its checksums, other formats are decoded.
    """
    try:
        with _open(BytesIO(data)) as image:
            _check_size(image)
            animated = image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
            if image.format == "PNG":
                image.verify()
            else:
                image.draft(None, (1, 1))  # only JPEG supports it
                image.load()
        return Inspection(animated=animated)
    except UnreadableImage as error:
        return Inspection(problem=str(error))
    except Exception as error:
        return Inspection(problem=_reason(error))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height by the header; nothing is decoded. Raises UnreadableImage."""
    try:
        with quiet_pillow(), _open(path) as image:
            _check_size(image)
            return image.size
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error


def read_photo(path: Path) -> Image.Image:
    """The picture of a file, upright (EXIF) and RGB; of an animation the first frame.

    Transparency is laid over white, as transformers does. 16-bit grey is scaled to 8 bits, where Pillow would
    clip it to white. Raises UnreadableImage.
    """
    try:
        with _open(path) as image:
            _check_size(image)
            image.load()
            return _rgb(_upright(image))
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error


def _open(file: Path | BytesIO) -> Image.Image:
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"it declares more than {MAX_PIXELS:,} pixels, the limit: make it smaller") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"it declares {width} x {height} pixels; the limit is {MAX_PIXELS:,}: make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(f"it is {width} x {height} pixels; at most {MAX_ASPECT} times as long as wide: crop it")


def _reason(error: Exception) -> str:
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, EOFError ... for damaged files
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise UnreadableImage("its pixels are 32-bit floats without a known range: save it with 8 bits per channel")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise UnreadableImage("its pixels are 32-bit integers: save it with 8 or 16 bits per channel")
    deep = image.mode != "I" or grey.max() > 255
    return Image.fromarray((grey >> 8 if deep else grey).astype(np.uint8))
