"""Preprocessing: photos to `pixel_values`, from the keys of a Hugging Face preprocessor_config.json.

The same code for every runtime, with Pillow and NumPy alone, equal to transformers' Pillow processors: the pixels
bit by bit, the floats as well. `geometry` makes uint8 pixels, which can be cached; `normalize` makes floats of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidOption, UnsupportedPreprocessing
from .geometry import Exact, Geometry, ShortestEdge, Size
from .processors import NEVER_NORMALIZED, WARPED_FROM, family_of, settings_of

Table = NDArray[np.float32]


@dataclass(frozen=True)
class Levels:
    """The floats of the levels 0 to 255: ((level * factor - shift - mean) / std) / top, one mean and divisor a channel.

    Each step is rounded to float32, as transformers does; a factor of 1, a mean of 0 and the like change no bit.
    """

    factor: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    top: tuple[float, ...] = (1.0,) * 3  # EfficientNet's `include_top` divides once more

    def table(self) -> Table:
        """The result for every level of each channel, (3, 256)."""
        levels = np.arange(256, dtype=np.float64)[None].repeat(3, axis=0)
        mean, std, top = (np.array(each, np.float32)[:, None] for each in (self.mean, self.std, self.top))
        values: Table = ((levels * self.factor).astype(np.float32) - np.float32(self.shift) - mean) / std / top
        return values

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with one shift a channel."""
        return {**asdict(self), "shift": [self.shift] * 3}


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """One configuration, understood."""

    config: dict[str, Any]  # as given, without the nesting of processor_config.json
    geometry: Geometry
    levels: Levels
    flipped: bool = False  # blue first

    @classmethod
    def parse(cls, config: dict[str, Any]) -> Preprocessing:
        """Read preprocessor_config.json, or processor_config.json with the image processor nested in it.

        A configuration without a type is read as ViTImageProcessor's, where `size` must be given.
        Raises UnsupportedPreprocessing, by name, for a key or a processor that is not known.
        """
        config = dict(config.get("image_processor", config))
        family = family_of(config)
        settings = settings_of(family, config)
        if "size" not in config and not any(key.endswith("_type") for key in config):
            raise UnsupportedPreprocessing("the preprocessing names neither image_processor_type nor size")
        return cls(
            config,
            _geometry(family, settings),
            _levels(family, settings),
            flipped=bool(settings.get("do_flip_channel_order", False)),
        )

    @cached_property
    def table(self) -> Table:
        """The float of each level of each output channel, (3, 256)."""
        return self.levels.table()

    @property
    def input_size(self) -> Size:
        """Height and width of `pixel_values`."""
        size = self.geometry.output
        assert size is not None  # `parse` refuses such a geometry
        return size

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (n, H, W, 3), red first, to float32 (n, 3, H, W): rescaled, normalized, channels in the model's order.

        A byte has 256 values: the arithmetic of transformers, with its rounding, is done once for each.
        """
        result = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
        order = (2, 1, 0) if self.flipped else (0, 1, 2)
        for photo, planes in zip(pixels, result, strict=True):
            for level, plane, source in zip(self.table, planes, order, strict=True):
                np.take(level, photo[..., source], out=plane, mode="clip")  # "clip" spares a buffer
        return result

    def __call__(self, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
        """`pixel_values` of RGB photos: float32 (n, 3, H, W)."""
        return self.normalize(np.stack([self.geometry(photo) for photo in photos]))

    def resized(self, pixels: int) -> dict[str, Any]:
        """The configuration for a square input of `pixels`, with resize and crop scaled in proportion.

        A shorter edge of 256 and a crop of 224 become, for 160 pixels, 183 and 160.
        """
        if pixels < 1:
            raise InvalidOption(f"an input of {pixels} pixels is not possible: give 1 or more")
        family = family_of(self.config)
        settings = settings_of(family, self.config)
        square = {"height": pixels, "width": pixels}
        if not settings["do_center_crop"]:
            if family != "ConvNext":
                return {**self.config, "size": square}
            if min(self.input_size) < WARPED_FROM:
                return {**self.config, "size": {"shortest_edge": pixels}}
            # warps at this size but would crop below: the processor that always warps gives the same picture smaller
            explicit = {key: settings[key] for key in ("resample", "image_mean", "image_std")}
            plain = {key: value for key, value in self.config.items() if not _names_convnext(key)}
            return {**plain, **explicit, "image_processor_type": "ViTImageProcessor", "size": square}
        ratio = pixels / min(self.input_size)
        size = _size_dict(settings["size"], settings["default_to_square"], "size")
        scaled = {key: max(1, round(value * ratio)) for key, value in size.items()}
        return {**self.config, "size": scaled, "crop_size": square}


def _names_convnext(key: str) -> bool:
    return key in ("crop_pct", "feature_extractor_type", "image_processor_type", "default_to_square")


def _geometry(family: str, settings: dict[str, Any]) -> Geometry:
    resize: Exact | ShortestEdge | None = None
    crops: list[Size] = []
    if settings["do_resize"]:
        size = _size_dict(settings["size"], settings["default_to_square"], "size")
        resize = _resize(family, size, settings)
        if family == "ConvNext" and isinstance(resize, ShortestEdge):
            crops.append((size["shortest_edge"], size["shortest_edge"]))
    if settings["do_center_crop"]:
        crop = _size_dict(settings["crop_size"], True, "crop_size")
        if set(crop) != {"height", "width"}:
            raise UnsupportedPreprocessing(f"crop_size = {settings['crop_size']!r}: give height and width")
        crops.append((crop["height"], crop["width"]))
    geometry = Geometry(resize, tuple(crops), _resample(settings["resample"]) if resize else 0)
    if geometry.output is None:
        raise UnsupportedPreprocessing(
            f"size = {settings['size']!r} without do_center_crop makes a different size of every photo; a model of"
            " fixed input needs size with height and width, or a crop_size"
        )
    return geometry


def _resize(family: str, size: dict[str, int], settings: dict[str, Any]) -> Exact | ShortestEdge:
    edge, longest = size.get("shortest_edge"), size.get("longest_edge")
    if family == "ConvNext":
        if edge is None:
            raise UnsupportedPreprocessing(f"size = {size!r}: ConvNextImageProcessor takes a shortest_edge only")
        if edge >= WARPED_FROM:
            return Exact(edge, edge)
        return ShortestEdge(int(edge / _positive(settings, "crop_pct")))
    if family == "Levit" and edge is not None:
        return ShortestEdge(int((256 / 224) * edge))
    if family == "PoolFormer" and settings["crop_pct"] is not None:
        return _poolformer(size, _positive(settings, "crop_pct"))
    if edge is not None:
        return ShortestEdge(edge, longest)
    return Exact(size["height"], size["width"])


def _poolformer(size: dict[str, int], crop_pct: float) -> Exact | ShortestEdge:
    if "shortest_edge" in size:
        return ShortestEdge(int(size["shortest_edge"] / crop_pct))
    height, width = int(size["height"] / crop_pct), int(size["width"] / crop_pct)
    return ShortestEdge(height) if size["height"] == size["width"] else Exact(height, width)


def _size_dict(size: Any, default_to_square: bool, key: str) -> dict[str, int]:
    """The dictionary of a size that may be one number or a pair, as `get_size_dict` of transformers reads it."""
    if _is_length(size):
        size = {"height": size, "width": size} if default_to_square else {"shortest_edge": size}
    elif isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    allowed = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    if not isinstance(size, dict) or set(size) not in allowed or not all(map(_is_length, size.values())):
        raise UnsupportedPreprocessing(
            f"{key} = {size!r} is not supported; give height and width, or shortest_edge, in pixels"
        )
    return size


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _resample(value: Any) -> int:
    try:
        return int(Image.Resampling(value))
    except ValueError as error:
        known = ", ".join(f"{filter.value} {filter.name.lower()}" for filter in Image.Resampling)
        raise UnsupportedPreprocessing(f"resample = {value!r} is not supported; known are {known}") from error


def _levels(family: str, settings: dict[str, Any]) -> Levels:
    """Rescale and normalize, with the types and the order of transformers."""
    changed: dict[str, Any] = {}
    if settings["do_rescale"]:
        changed["factor"] = float(_positive(settings, "rescale_factor"))
        changed["shift"] = 1.0 if settings.get("rescale_offset") else 0.0
    if settings["do_normalize"] and family not in NEVER_NORMALIZED:
        changed |= {"mean": _channels(settings, "image_mean"), "std": _channels(settings, "image_std")}
    if settings.get("include_top"):
        changed["top"] = _channels(settings, "image_std")
    return Levels(**changed)


def _positive(settings: dict[str, Any], key: str) -> float:
    value = settings[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < np.inf:
        raise UnsupportedPreprocessing(f"{key} = {value!r} is not supported; give a number above zero")
    return value


def _channels(settings: dict[str, Any], key: str) -> tuple[float, ...]:
    """One number or three, as three float32 values."""
    given = settings[key]
    numbers = given if isinstance(given, list | tuple) else [given] * 3
    values = np.array([value if isinstance(value, int | float) else np.nan for value in numbers], dtype=np.float32)
    if values.shape != (3,) or not np.isfinite(values).all() or (key == "image_std" and (values == 0).any()):
        raise UnsupportedPreprocessing(f"{key} = {given!r} is not supported; give three finite numbers (no zero std)")
    return tuple(float(str(value)) for value in values)  # the shortest decimals that are the same float32
