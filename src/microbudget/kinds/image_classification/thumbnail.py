"""Thumbnail: a photo as a small JPEG inside the report's page."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

THUMBNAIL = 160  # pixels of the longer side
SMALLEST = 64  # pictures below this are enlarged by whole steps, so that digits stay sharp
QUALITY = 78


def thumbnail(path: Path) -> str | None:
    """A small JPEG of a photo as a data URI; None when the file is gone or damaged."""
    from PIL import Image

    from ...images.photos import UnreadableImage, quiet_pillow, read_photo

    try:
        with quiet_pillow():
            photo = read_photo(path)
    except UnreadableImage:
        return None
    longer = max(photo.size)
    if longer < SMALLEST:
        step = THUMBNAIL // longer
        photo = photo.resize((photo.width * step, photo.height * step), Image.Resampling.NEAREST)
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    stream = BytesIO()
    photo.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
