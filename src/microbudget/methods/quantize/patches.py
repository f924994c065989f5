"""The patches that a convolution multiplies with its kernel (im2col), with any stride, dilation, padding and groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over its input; every tuple has one entry per spatial axis, `groups` divides the channels."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_before: tuple[int, ...]
    pads_after: tuple[int, ...]
    groups: int = 1

    @classmethod
    def plain(cls, kernel: tuple[int, ...], *, stride: int = 1, pad: int = 0, groups: int = 1) -> Geometry:
        """The same stride and padding on every axis, no dilation."""
        n = len(kernel)
        return cls(kernel, (stride,) * n, (1,) * n, (pad,) * n, (pad,) * n, groups)

    def positions(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """How many places the kernel takes along every axis of an input of this size."""
        axes = zip(space, self.kernel, self.strides, self.dilations, self.pads_before, self.pads_after, strict=True)
        return tuple((n + before + after - (k - 1) * d - 1) // s + 1 for n, k, s, d, before, after in axes)


def windows(x: NDArray[Any], geometry: Geometry, padding: float = 0) -> NDArray[Any]:
    """x: (batch, channels, *space). Returns (batch, *positions, channels, *kernel), a view of the padded input."""
    space = tuple(range(2, x.ndim))
    pads = [(0, 0), (0, 0), *zip(geometry.pads_before, geometry.pads_after, strict=True)]
    if any(before or after for before, after in pads):
        x = np.pad(x, pads, constant_values=padding)
    reach = tuple((k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=space)
    strided = tuple(slice(None, None, s) for s in geometry.strides)
    dilated = tuple(slice(None, None, d) for d in geometry.dilations)
    return np.moveaxis(view[(slice(None), slice(None), *strided, *dilated)], 1, len(space) + 1)


def patches(x: NDArray[Any], geometry: Geometry, padding: float = 0) -> NDArray[Any]:
    """x: (batch, channels, *space). Returns (batch, *positions, groups, K) with K = channels / groups * kernel."""
    view = windows(x, geometry, padding)
    positions = view.shape[: x.ndim - 1]
    return view.reshape(*positions, geometry.groups, -1)


def sampled_patches(
    x: NDArray[Any], geometry: Geometry, limit: int, random: np.random.Generator, padding: float = 0
) -> NDArray[Any]:
    """At most `limit` patches of a batch, at positions drawn without replacement: (rows, groups, K)."""
    places = (len(x), *geometry.positions(x.shape[2:]))
    count = math.prod(places)
    if count <= limit:
        return patches(x, geometry, padding).reshape(count, geometry.groups, -1)
    example, *places_of = np.unravel_index(np.sort(random.choice(count, limit, replace=False)), places)
    return _gathered(x, geometry, example, places_of, padding)


def _gathered(
    x: NDArray[Any],
    geometry: Geometry,
    example: NDArray[np.intp],
    positions: Sequence[NDArray[np.intp]],
    padding: float,
) -> NDArray[Any]:
    """The patches at these positions of the examples, (rows, groups, K), without a padded copy of the input.

    example: (rows,), positions: for every spatial axis (rows,).
    """
    axes, indices, inside = len(positions), [], np.ones((len(example), *geometry.kernel), bool)
    for axis, position in enumerate(positions):
        first = position * geometry.strides[axis] - geometry.pads_before[axis]
        index = first[:, None] + np.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        shape = (len(example), *(index.shape[1] if other == axis else 1 for other in range(axes)))
        size = x.shape[2 + axis]
        inside &= ((index >= 0) & (index < size)).reshape(shape)
        indices.append(np.clip(index, 0, size - 1).reshape(shape))
    values = x[(example.reshape(-1, *(1,) * axes), slice(None), *indices)]  # (rows, *kernel, channels)
    values[~inside] = padding
    return np.moveaxis(values, -1, 1).reshape(len(example), geometry.groups, -1)
