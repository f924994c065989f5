"""Operators that move, cut, join or repeat numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .step import Operator, Step, Value, axes_of, integers, tensor

PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _reshape(step: Step, x: Tensor, shape: Value = None) -> Tensor:
    wanted = list(step.get("shape", ())) if shape is None else integers(shape)
    if not step.get("allowzero", 0):
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    if wanted[1:] == [-1] and wanted[0] == x.shape[0] and x.ndim > 1:
        return x.flatten(1)
    if -1 not in wanted and math.prod(wanted) * x.shape[0] == x.numel() * wanted[0]:
        wanted[0] = x.shape[0]  # the number of examples that the file was made for
    return x.reshape(wanted)


def _flatten(step: Step, x: Tensor) -> Tensor:
    axis = step.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    if axis == 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(step: Step, x: Tensor) -> Tensor:
    return x.permute(step.get("perm") or tuple(range(x.ndim))[::-1])


def _squeeze(step: Step, x: Tensor, axes: Value = None) -> Tensor:
    places = axes_of(step, axes)
    if places is None:
        return x.squeeze()
    for place in sorted((place % x.ndim for place in places), reverse=True):
        x = x.squeeze(place)
    return x


def _unsqueeze(step: Step, x: Tensor, axes: Value = None) -> Tensor:
    places = axes_of(step, axes) or []
    for place in sorted(place % (x.ndim + len(places)) for place in places):
        x = x.unsqueeze(place)
    return x


def _concat(step: Step, *parts: Value) -> Tensor:
    return torch.cat([tensor(part) for part in parts], dim=step.get("axis", 1))


def _split(step: Step, x: Tensor, sizes: Value = None) -> tuple[Tensor, ...]:
    axis = step.get("axis", 0)
    given = list(step.get("split", ())) if sizes is None else integers(sizes)
    if not given:
        each = -(-x.shape[axis] // len(step.outputs))
        given = [each] * (x.shape[axis] // each) + ([x.shape[axis] % each] if x.shape[axis] % each else [])
    if len(set(given)) == 1:  # equal parts stay equal when channels are removed
        return torch.chunk(x, len(given), dim=axis)
    return torch.split(x, given, dim=axis)


def _slice(
    step: Step, x: Tensor, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Tensor:
    if starts is None:
        first, last = list(step.get("starts")), list(step.get("ends"))
    else:
        first, last = integers(starts), integers(ends)
    places = axes_of(step, axes) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else integers(steps)
    for place, start, end, stride in zip(places, first, last, strides, strict=True):
        kept = range(x.shape[place])[start:end:stride] if stride > 0 else _backwards(x.shape[place], start, end, stride)
        if kept == range(x.shape[place]):
            continue
        if stride > 0:
            x = x[(slice(None),) * (place % x.ndim) + (slice(kept.start, kept.stop, stride),)]
        else:
            x = x.index_select(place, torch.tensor(list(kept), device=x.device))
    return x


def _backwards(size: int, start: int, end: int, stride: int) -> range:
    """ONNX's ends are clamped to -1 where Python would count from the end."""
    start = min(start + size if start < 0 else start, size - 1)
    end = max(end + size if end < 0 else end, -1)
    return range(start, end, stride)


def _gather(step: Step, x: Value, indices: Value) -> Tensor:
    axis, data = step.get("axis", 0), tensor(x)
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return data.select(axis, int(indices))
    places = tensor(indices).long().to(data.device)
    places = torch.where(places < 0, places + data.shape[axis], places)
    if axis == 0 and data.ndim == 2:
        return functional.embedding(places, data)
    axis %= data.ndim
    return data.index_select(axis, places.reshape(-1)).reshape(
        *data.shape[:axis], *places.shape, *data.shape[axis + 1 :]
    )


def _gather_elements(step: Step, x: Tensor, indices: Value) -> Tensor:
    axis, places = step.get("axis", 0), tensor(indices).long()
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


def _expand(_: Step, x: Value, shape: Value) -> Tensor:
    data = tensor(x)
    return data.expand(np.broadcast_shapes(tuple(data.shape), tuple(integers(shape))))


def _tile(_: Step, x: Tensor, repeats: Value) -> Tensor:
    return x.repeat(integers(repeats))


def _pad(step: Step, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    widths = list(step.get("pads", ())) if pads is None else integers(pads)
    places = [place % x.ndim for place in integers(axes)] if axes is not None else list(range(x.ndim))
    count, each = len(places), {}
    for index, place in enumerate(places):
        each[place] = widths[index], widths[count + index]
    fill = float(step.get("value", 0.0)) if value is None else float(tensor(value))
    mode = PAD_MODES[step.get("mode", "constant")]
    return padded(x, [each.get(place, (0, 0)) for place in range(x.ndim)], mode, fill)


def padded(x: Tensor, widths: list[tuple[int, int]], mode: str = "constant", fill: float = 0.0) -> Tensor:
    """x with so many numbers before and after along each axis. widths: of each axis; negative ones cut."""
    if not any(map(any, widths)):
        return x
    first = next(place for place, pair in enumerate(widths) if any(pair))
    if mode != "constant":  # torch takes the last axes alone, with the batch and the channels in front
        first = max(first, 2)
    flat = [width for pair in reversed(widths[first:]) for width in pair]
    return functional.pad(x, flat, mode, fill if mode == "constant" else None)


def _depth_to_space(step: Step, x: Tensor) -> Tensor:
    n, (batch, channels, height, width) = step.get("blocksize"), x.shape
    if step.get("mode", "DCR") == "DCR":
        parts = x.reshape(batch, n, n, channels // n**2, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, channels // n**2, n, n, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, channels // n**2, height * n, width * n)


def _space_to_depth(step: Step, x: Tensor) -> Tensor:
    n, (batch, channels, height, width) = step.get("blocksize"), x.shape
    parts = x.reshape(batch, channels, height // n, n, width // n, n).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * n * n, height // n, width // n)


def _shape(step: Step, x: Tensor) -> Any:
    return np.array(x.shape[step.get("start", 0) : step.get("end")], np.int64)


def _resize(step: Step, x: Tensor, *given: Value) -> Tensor:
    """Of `given` the scales, else the sizes: (roi, scales, sizes) from opset 11 on, before that the scales alone."""
    scales, sizes = (given[0], None) if step.opset < 11 else (*given[1:], None, None)[:2]
    if step.get("antialias", 0) or step.get("exclude_outside", 0) or "axes" in step.attributes:
        raise NotImplementedError("with antialias, exclude_outside or axes")
    if "scales" in step.attributes:
        scales = np.array(step.get("scales"), np.float32)
    if sizes is not None and np.size(sizes):
        wanted = integers(sizes)
    else:
        factors = np.asarray(scales, np.float64).reshape(-1)
        wanted = [math.floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
    mode, how = step.get("mode", "nearest"), step.get("coordinate_transformation_mode", "half_pixel")
    if step.op == "Upsample" or step.opset < 11:
        how = "asymmetric"
    if tuple(wanted) == tuple(x.shape):
        return x
    space, aligned = tuple(wanted[2:]), how == "align_corners"
    if mode == "nearest":
        floor = step.get("nearest_mode", "round_prefer_floor") == "floor" or step.opset < 11
        return functional.interpolate(x, space, mode="nearest" if how == "asymmetric" and floor else "nearest-exact")
    if how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotImplementedError(how)
    smooth = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.ndim), "cubic": "bicubic"}[mode]
    return functional.interpolate(x, space, mode=smooth, align_corners=aligned)  # type: ignore[arg-type]


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Size": lambda _, x: np.array(x.numel(), np.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
