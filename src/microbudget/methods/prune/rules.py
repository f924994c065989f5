"""Rules: what each operation does to the axes of its tensors. An operation without a rule fixes what it touches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.fx import Node

from .axes import Atoms, Axes, Axis, broadcast, reshaped

Many = Axes | list[Axes]
ELEMENTWISE = frozenset((
    "abs", "add", "alias", "bernoulli", "celu", "clamp", "clamp_max", "clamp_min", "clone", "contiguous", "detach",
    "div", "dropout", "elu", "erf", "exp", "feature_dropout", "gelu", "hardsigmoid", "hardswish", "hardtanh",
    "leaky_relu", "lift_fresh_copy", "log", "maximum", "minimum", "mish", "mul", "neg", "pow", "reciprocal", "relu",
    "relu6", "rsqrt", "rsub", "selu", "sigmoid", "silu", "softplus", "sqrt", "square", "sub", "tanh", "to", "to_copy",
    "type_as", "where",
))  # fmt: skip
POOLING = frozenset((
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d",
    "max_pool2d", "upsample_bilinear2d", "upsample_nearest2d",
))  # fmt: skip
RESHAPING = frozenset(("_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "view_as"))
REDUCING = frozenset(("amax", "amin", "logsumexp", "mean", "sum", "var"))
NEW = frozenset(("arange", "empty", "full", "new_full", "new_ones", "new_zeros", "ones", "scalar_tensor", "zeros"))


@dataclass(frozen=True)
class Contraction:
    """A convolution or matrix product with a stored weight: it makes channels of others."""

    weight: str  # the tensor's name
    out_axis: int
    in_axis: int
    groups: int
    positions: int  # of one example, at which it is computed
    input_numbers: int  # per input channel of one example


@dataclass
class Trace:
    """Axes of everything in the graph so far."""

    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[Node, Many] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)  # of parameters and buffers
    stored: dict[str, Axes] = field(default_factory=dict)  # their axes
    made: list[Axis] = field(default_factory=list)  # output axes of contractions
    contractions: list[Contraction] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)  # weight of a contraction -> weight of its batch norm
    stopped_by: dict[str, None] = field(default_factory=dict)  # operations without a rule, in order

    def of(self, node: Any) -> Axes:
        """The axes of a tensor; of what is no tensor none."""
        found = self.axes.get(node, ()) if isinstance(node, Node) else ()
        return found if isinstance(found, tuple) else ()

    def follow(self, node: Node) -> None:
        """Apply the operation's rule."""
        name = operation(node)
        if name in ELEMENTWISE:
            self.axes[node] = self._elementwise(node)
        elif name in RULES:
            self.axes[node] = RULES[name](self, node)
        elif name in NEW or not tensors(node):
            self.axes[node] = _nothing(node)
        else:
            self._stop(node)

    def _elementwise(self, node: Node) -> Axes:
        return broadcast(self.atoms, [(self.of(one), shape(one)) for one in tensors(node)], shape(node))

    def _stop(self, node: Node) -> None:
        touched = [axis for one in tensors(node) for axis in self.of(one) if axis is not None]
        if touched:
            self.atoms.fix(*touched)
            self.stopped_by[str(node.target)] = None
        self.axes[node] = _nothing(node)


def operation(node: Node) -> str:
    """`conv2d` of `aten.conv2d.default`, also for the form that works in place."""
    parts = str(node.target).split(".")
    name = parts[1] if parts[0] == "aten" and len(parts) > 1 else str(getattr(node.target, "__name__", node.target))
    return name if name.startswith("_") else name.rstrip("_")


def tensors(node: Node) -> list[Node]:
    """The inputs that are tensors, or rows of tensors."""
    return [one for one in node.all_input_nodes if "val" in one.meta and not isinstance(one.meta["val"], (int, float))]


def shape(node: Any) -> tuple[int, ...]:
    """The sizes of a node's output; of several tensors those of the first."""
    value = node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(size) for size in first.shape)


def _nothing(node: Node) -> Many:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return [(None,) * len(one.shape) for one in value if hasattr(one, "shape")]
    return (None,) * len(getattr(value, "shape", ()))


def _argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _convolution(trace: Trace, node: Node) -> Axes:
    """(batch, in, ...) with weight (out, in / groups, ...). Groups are removed as a whole."""
    x, weight = node.args[0], node.args[1]
    atoms, groups = trace.atoms, int(_argument(node, 6, "groups", 1))
    channels, (out, inner, *kernel) = trace.of(x)[1], trace.of(weight)
    atoms.fix(*kernel)
    if groups == 1:
        atoms.unite(inner, channels)
    else:
        atoms.fix(inner)
        _grouped(trace, channels, out, groups)
    _bias(trace, node, out)
    _note(trace, node, x, weight, (0, 1), groups)
    spatial: tuple[None, ...] = (None,) * (len(shape(node)) - 2)
    return (None, out, *spatial)


def _grouped(trace: Trace, channels: Axis, out: Axis, groups: int) -> None:
    if channels is None or out is None:
        trace.atoms.fix(channels, out)
    else:
        trace.atoms.unite_rows(np.concatenate([channels.reshape(groups, -1), out.reshape(groups, -1)], axis=1))


def _linear(trace: Trace, node: Node) -> Axes:
    """(..., in) with weight (out, in)."""
    *rest, last = trace.of(node.args[0])
    out, inner = trace.of(node.args[1])
    trace.atoms.unite(inner, last)
    _bias(trace, node, out)
    _note(trace, node, node.args[0], node.args[1], (0, 1), 1)
    return (*rest, out)


def _addmm(trace: Trace, node: Node) -> Axes:
    """bias + (rows, in) @ (in, out), as GPT-2 has it."""
    bias, x, weight = node.args[:3]
    rows, last = trace.of(x)
    inner, out = trace.of(weight)
    trace.atoms.unite(inner, last)
    trace.atoms.unite(trace.of(bias)[-1], out)
    _note(trace, node, x, weight, (1, 0), 1)
    return (rows, out)


def _bias(trace: Trace, node: Node, out: Axis) -> None:
    bias = _argument(node, 2, "bias")
    if isinstance(bias, Node):
        trace.atoms.unite(trace.of(bias)[0], out)


def _note(trace: Trace, node: Node, x: Any, weight: Any, axes: tuple[int, int], groups: int) -> None:
    if weight not in trace.names:
        return
    out_axis, in_axis = axes
    trace.made.append(trace.of(weight)[out_axis])
    batch = shape(node)[0]
    outputs, inputs = shape(weight)[out_axis], shape(weight)[in_axis] * groups
    numbers = [int(np.prod(shape(one))) // batch for one in (node, x)]
    contraction = Contraction(
        trace.names[weight], out_axis, in_axis, groups, numbers[0] // outputs, numbers[1] // inputs
    )
    trace.contractions.append(contraction)


def _batch_norm(trace: Trace, node: Node) -> Axes:
    axes = trace.of(node.args[0])
    for one in node.args[1:5]:
        if isinstance(one, Node):
            trace.atoms.unite(axes[1], trace.of(one)[0])
    source, scale = node.args[0], node.args[1]
    producer = source.args[1] if isinstance(source, Node) and len(source.args) > 1 else None
    if producer in trace.names and scale in trace.names:
        trace.norms[trace.names[producer]] = trace.names[scale]  # type: ignore[index] # both are nodes
    return axes


def _layer_norm(trace: Trace, node: Node) -> Axes:
    """What is averaged over cannot lose a member without changing all others."""
    axes = trace.of(node.args[0])
    count = len(node.args[1])  # type: ignore[arg-type] # the normalized shape
    trace.atoms.fix(*axes[-count:], *(axis for one in node.args[2:4] for axis in trace.of(one)))
    return (*axes[:-count], *(None,) * count)


def _group_norm(trace: Trace, node: Node) -> Axes:
    axes = trace.of(node.args[0])
    trace.atoms.fix(axes[1], *(axis for one in node.args[2:4] for axis in trace.of(one)))
    return (axes[0], None, *axes[2:])


def _softmax(trace: Trace, node: Node) -> Axes:
    return _without(trace, trace.of(node.args[0]), [int(node.args[1])])  # type: ignore[arg-type] # a dimension


def _without(trace: Trace, axes: Axes, places: Sequence[int]) -> Axes:
    """The same axes, with those at `places` fixed."""
    chosen = {place % len(axes) for place in places}
    trace.atoms.fix(*(axes[place] for place in chosen))
    return tuple(None if place in chosen else axis for place, axis in enumerate(axes))


def _reduce(trace: Trace, node: Node) -> Axes:
    axes = trace.of(node.args[0])
    given = _argument(node, 1, "dim")
    places = range(len(axes)) if given is None or given == [] else [given] if isinstance(given, int) else given
    left = _without(trace, axes, list(places))
    if len(shape(node)) == len(left):
        return left
    reduced = {place % len(axes) for place in places}
    return tuple(axis for place, axis in enumerate(left) if place not in reduced)


def _pool(trace: Trace, node: Node) -> Axes:
    """Channels stay separate: (batch, channels, ...)."""
    axes = trace.of(node.args[0])
    return (*axes[:2], *(None,) * (len(shape(node)) - 2))


def _pool_many(trace: Trace, node: Node) -> Many:
    axes = trace.of(node.args[0])
    return [axes, axes]


def _reshape(trace: Trace, node: Node) -> Axes:
    return reshaped(trace.atoms, trace.of(node.args[0]), shape(node.args[0]), shape(node))


def _permute(trace: Trace, node: Node) -> Axes:
    axes = trace.of(node.args[0])
    return tuple(axes[place] for place in node.args[1])  # type: ignore[union-attr, index] # dimensions


def _transpose(trace: Trace, node: Node) -> Axes:
    axes = list(trace.of(node.args[0]))
    one, other = (0, 1) if len(node.args) < 3 else (int(place) for place in node.args[1:3])  # type: ignore[arg-type]
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


def _cat(trace: Trace, node: Node) -> Axes:
    parts: Any = node.args[0]
    count = len(shape(node))
    place = int(_argument(node, 1, "dim", 0)) % count
    joined = _joined(trace, [(trace.of(part)[place], shape(part)[place]) for part in parts])
    rest = [(_replaced(trace.of(part), place, None), _replaced(shape(part), place, 1)) for part in parts]
    meeting = broadcast(trace.atoms, rest, _replaced(shape(node), place, 1))
    return tuple(joined if index == place else meeting[index] for index in range(count))


def _joined(trace: Trace, parts: Sequence[tuple[Axis, int]]) -> Axis:
    if all(axis is None for axis, _ in parts):
        return None
    return np.concatenate([_fixed(trace, size) if axis is None else axis for axis, size in parts])


def _fixed(trace: Trace, size: int) -> Any:
    axis = trace.atoms.fresh(size)
    trace.atoms.fix(axis)
    return axis


def _replaced(values: Sequence[Any], place: int, value: Any) -> tuple[Any, ...]:
    return tuple(value if index == place else each for index, each in enumerate(values))


def _chunk(trace: Trace, node: Node) -> Many:
    """Equal parts: the same positions of each go together, so that they stay equal."""
    axes = trace.of(node.args[0])
    place = int(_argument(node, 2, "dim", 0)) % len(axes)
    axis, count = axes[place], len(node.meta["val"])
    if axis is None or len(axis) % count:
        axes = _without(trace, axes, [place])
        return [axes] * count
    parts = axis.reshape(count, -1)
    trace.atoms.unite_rows(parts.T)
    return [_replaced(axes, place, part) for part in parts]


def _split(trace: Trace, node: Node) -> Many:
    """Parts of given sizes: none of them can change."""
    axes = _without(trace, trace.of(node.args[0]), [int(_argument(node, 2, "dim", 0))])
    return [axes] * len(node.meta["val"])


def _item(trace: Trace, node: Node) -> Axes:
    found = trace.axes[node.args[0]]  # type: ignore[index] # the node with several tensors
    return found[node.args[1]] if isinstance(found, list) else ()  # type: ignore[index] # which of them


def _slice(trace: Trace, node: Node) -> Axes:
    axes = trace.of(node.args[0])
    place = int(_argument(node, 1, "dim", 0)) % len(axes)
    whole = shape(node) == shape(node.args[0])
    return axes if whole else _without(trace, axes, [place])


def _select(trace: Trace, node: Node) -> Axes:
    place = int(_argument(node, 1, "dim", 0)) % len(trace.of(node.args[0]))
    axes = _without(trace, trace.of(node.args[0]), [place])
    return (*axes[:place], *axes[place + 1 :])


def _expand(trace: Trace, node: Node) -> Axes:
    return broadcast(trace.atoms, [(trace.of(node.args[0]), shape(node.args[0]))], shape(node))


def _pad(trace: Trace, node: Node) -> Axes:
    """Padding of channels adds some that must stay; elsewhere it changes nothing here."""
    axes = list(trace.of(node.args[0]))
    widths: Any = node.args[1]
    for index in range(len(widths) // 2):
        place, (before, after) = len(axes) - 1 - index, widths[2 * index : 2 * index + 2]
        if axes[place] is not None and (before or after):
            axes[place] = _joined(trace, [(None, before), (axes[place], 0), (None, after)])
    return tuple(axes)


def _embedding(trace: Trace, node: Node) -> Axes:
    rows, width = trace.of(node.args[0])
    trace.atoms.fix(rows)
    return (*(None,) * (len(shape(node)) - 1), width)


def _matmul(trace: Trace, node: Node) -> Axes:
    """(..., rows, inner) @ (..., inner, columns), two dimensions at least."""
    one, other = node.args[:2]
    a, b = trace.of(one), trace.of(other)
    if len(a) < 2 or len(b) < 2:
        trace.atoms.fix(*a, *b)
        return (None,) * len(shape(node))
    trace.atoms.unite(a[-1], b[-2])
    if other in trace.names:
        _note(trace, node, one, other, (len(b) - 1, len(b) - 2), 1)
    batch = broadcast(trace.atoms, [(a[:-2], shape(one)[:-2]), (b[:-2], shape(other)[:-2])], shape(node)[:-2])
    return (*batch, a[-2], b[-1])


def _attention(trace: Trace, node: Node) -> Axes:
    """(batch, heads, tokens, width): heads go whole, with the queries that share their keys."""
    q, k, v = (trace.of(one) for one in node.args[:3])
    trace.atoms.fix(*(axes[place] for axes in (q, k, v) for place in (0, 2, 3)))
    mask = _argument(node, 3, "attn_mask")
    if isinstance(mask, Node):
        trace.atoms.fix(*trace.of(mask))
    heads = q[1]
    for axis in (k[1], v[1]):
        repeated = axis
        if axis is not None and heads is not None and len(axis) != len(heads):
            repeated = np.repeat(axis, len(heads) // len(axis))
        trace.atoms.unite(heads, repeated)
    return (None, heads, None, None)


RULES: dict[str, Callable[[Trace, Node], Many]] = {
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "bmm": _matmul,
    "cat": _cat,
    "chunk": _chunk,
    "constant_pad_nd": _pad,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "embedding": _embedding,
    "expand": _expand,
    "getitem": _item,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "max_pool2d_with_indices": _pool_many,
    "pad": _pad,
    "permute": _permute,
    "scaled_dot_product_attention": _attention,
    "select": _select,
    "slice": _slice,
    "softmax": _softmax,
    "split": _split,
    "split_with_sizes": _split,
    "t": _transpose,
    "transpose": _transpose,
    **dict.fromkeys(POOLING, _pool),
    **dict.fromkeys(REDUCING, _reduce),
    **dict.fromkeys(RESHAPING, _reshape),
}
