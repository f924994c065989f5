"""The dependency graph: which channels of which tensors can be removed, and which only together."""

from __future__ import annotations

import traceback
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedModel
from .axes import FIXED, Axis, Ids
from .rules import Contraction, Trace, shape

Use = tuple[str, int]  # a stored tensor and one of its axes


@dataclass(frozen=True)
class Site:
    """Bundles that run through the same axes: the channels of a layer, or of all that a residual ties together."""

    name: str  # of the first layer that makes them
    bundles: Ids  # (channels,)
    made: Use  # the weight that makes them, and its axis
    uses: tuple[Use, ...]

    @property
    def width(self) -> int:
        """How many channels, heads or neurons there are."""
        return len(self.bundles)


@dataclass(frozen=True)
class Dependencies:
    """What can be removed from a network.

    axes: for each stored tensor and dimension the bundle of each position, FIXED where it must stay; a tensor that
    several layers share is there under each of its names. tied: of those names all but the first, which `contractions`
    and `norms` use.
    """

    axes: Mapping[str, tuple[Ids, ...]]
    sites: tuple[Site, ...]
    contractions: tuple[Contraction, ...]
    norms: Mapping[str, str]  # weight of a convolution -> scale of the batch norm after it
    stopped_by: tuple[str, ...]  # operations without a rule: what they touch stays
    tied: frozenset[str] = frozenset()

    @cached_property
    def count(self) -> int:
        """One more than the highest bundle."""
        return 1 + max((int(axis.max(initial=FIXED)) for axes in self.axes.values() for axis in axes), default=FIXED)

    def kept(self, removed: Ids) -> dict[str, tuple[Ids | None, ...]]:
        """For each tensor that changes the positions that stay, by dimension; None for all of them."""
        removed_mask = np.zeros(self.count + 1, bool)  # the last is FIXED's
        removed_mask[removed] = True
        found = {}
        for name, axes in self.axes.items():
            places = tuple(np.flatnonzero(~removed_mask[axis]) if removed_mask[axis].any() else None for axis in axes)
            if any(place is not None for place in places):
                found[name] = places
        return found


# What a network whose channels cannot be removed is told to use: the first needs nothing of the network.
OTHER_WAYS = (
    "structure='weights' works with every network, structure='layers' where blocks keep the shape of their input"
)


def trace(network: Any, inputs: Mapping[str, torch.Tensor]) -> Dependencies:
    """Follow the network's channels through its graph (torch.export). inputs: an example with a batch of 2.

    Raises UnsupportedModel, with the operation, when nothing can be followed.
    """
    program = _exported(network, inputs)
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    first, found = first_names(network), Trace()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = stored.get(node.name)
            _place(found, node, first.get(name, name) if name else None)
        elif node.op == "call_function":
            found.follow(node)
        elif node.op == "output":
            found.atoms.fix(*(axis for one in node.all_input_nodes for axis in found.of(one)))
    return _dependencies(found, first, network)


def first_names(network: Any) -> dict[str, str]:
    """For each name of a parameter or buffer the first name of the same tensor: layers may share one."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _exported(network: Any, inputs: Mapping[str, torch.Tensor]) -> Any:
    options: dict[str, Any] = {"use_cache": False} if "input_ids" in inputs else {}  # a cache of keys is no tensor
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network, (), {**inputs, **options}, strict=False)
    except Exception as error:  # torch raises many kinds of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedModel(
            f"{type(network).__name__} cannot be traced{_place_of(error)}: {reason[0]}. {OTHER_WAYS}"
        ) from error


def _place_of(error: BaseException) -> str:
    """Where in the network's own code it happened: the innermost line that is not torch's."""
    inside = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((inside, "<")) and frame.filename != __file__]
    if not own:
        return ""
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].line})"


def _place(found: Trace, node: Any, name: str | None) -> None:
    if name is None:
        found.axes[node] = (None,) * len(getattr(node.meta.get("val"), "shape", ()))
        return
    found.names[node] = name
    if name not in found.stored:  # by its first name: whatever reads a shared tensor has the same axes
        found.stored[name] = tuple(found.atoms.fresh(size) for size in shape(node))
    found.axes[node] = found.stored[name]


def _dependencies(found: Trace, first: Mapping[str, str], network: Any) -> Dependencies:
    labels = found.atoms.bundles()
    axes = {name: tuple(_labelled(axis, labels) for axis in one) for name, one in found.stored.items()}
    tied = {name: other for name, other in first.items() if name != other and other in axes}
    axes |= {name: axes[other] for name, other in tied.items()}
    made = np.unique(np.concatenate([np.array([FIXED]), *(_labelled(axis, labels) for axis in found.made)]))
    sites = _sites(axes, set(made.tolist()) - {FIXED}, found.contractions)
    if not sites:
        why = f" beyond {', '.join(found.stopped_by)}" if found.stopped_by else ""
        raise UnsupportedModel(
            f"no channel of this network can be removed: it cannot be traced{why}{_grouped(network)}. {OTHER_WAYS}"
        )
    return Dependencies(axes, sites, tuple(found.contractions), found.norms, tuple(found.stopped_by), frozenset(tied))


def _grouped(network: Any) -> str:
    """That channels are normalized in groups, where they are."""
    grouped = any(isinstance(module, torch.nn.GroupNorm) for module in network.modules())
    return ", and its GroupNorm layers need groups of equal size" if grouped else ""


def _labelled(axis: Axis, labels: Ids) -> Ids:
    return np.zeros(0, np.int64) if axis is None else labels[axis]


def _sites(axes: Mapping[str, Sequence[Ids]], made: set[int], contractions: Sequence[Contraction]) -> tuple[Site, ...]:
    """Bundles that some layer makes, by the axes in which they appear; in the order of the layers."""
    uses: dict[int, list[Use]] = defaultdict(list)
    for name, one in axes.items():
        for place, axis in enumerate(one):
            for bundle in np.unique(axis).tolist():
                if bundle in made:
                    uses[bundle].append((name, place))
    together: dict[tuple[Use, ...], list[int]] = defaultdict(list)
    for bundle, places in uses.items():
        together[tuple(places)].append(bundle)
    order = {(one.weight, one.out_axis): index for index, one in reversed(list(enumerate(contractions)))}
    sites = []
    for where, bundles in together.items():
        first = min((use for use in where if use in order), key=order.__getitem__)
        sites.append((order[first], Site(first[0].removesuffix(".weight"), np.array(sorted(bundles)), first, where)))
    return tuple(site for _, site in sorted(sites, key=lambda pair: (pair[0], int(pair[1].bundles[0]))))
