"""Photos: the data folder that a run was made with, and thumbnails of its files."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MicrobudgetError

if TYPE_CHECKING:
    from .data import ImageTask

THUMBNAIL = 160  # pixels of the longer side
SMALLEST = 64  # pictures below this are enlarged by whole steps, so that digits stay sharp
QUALITY = 78


def open_data(settings: dict[str, Any], cache: Path) -> tuple[ImageTask | None, str]:
    """The task of the run's data, or None and the reason. settings: of run.toml."""
    from .data import ImageTask

    data = str(settings.get("data", ""))
    if not Path(data).is_dir():
        return None, f"the data folder {data} is not there (any more, or as seen from this working directory)"
    try:
        task = ImageTask.open(data, seed=int(settings.get("seed", 0)), cache=cache)
    except (MicrobudgetError, OSError) as error:
        return None, f"the data folder {data} cannot be read: {error}"
    if task.fingerprint != settings.get("data_fingerprint"):
        return None, f"the data folder {data} has changed since the run"
    return task, ""


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
