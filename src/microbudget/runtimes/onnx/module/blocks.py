"""Blocks: where the last block of a graph begins, by its shape alone, since a file has no list of blocks."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import Parameter

from .network import OnnxNetwork
from .step import Step


def last_block(network: OnnxNetwork) -> list[Parameter]:
    """The parameters from the last block on, the head included.

    Through some tensors all of the data have to pass; a block is what lies between two of them on several paths (a
    residual, a branch) and has weights. Where there is none, such as in a VGG, the last block is the last layer before
    the head.
    """
    steps = network.steps
    weights = [_weights(network, step) for step in steps]
    with_weights = [place for place, found in enumerate(weights) if found]
    starts = [part.start for part in _parts(steps) if len(part) > 1 and any(weights[place] for place in part[:-1])]
    before_head = with_weights[:-1]
    starts = [start for start in starts if any(place >= start for place in before_head)]
    first = starts[-1] if starts else (before_head or with_weights)[-1]
    chosen = {id(each): each for found in weights[first:] for each in found}
    return list(chosen.values())


def _weights(network: OnnxNetwork, step: Step) -> list[Parameter]:
    return [each for each in network.tensors_of(step) if isinstance(each, Parameter)]


def _parts(steps: tuple[Step, ...]) -> Iterator[range]:
    """The steps between tensors through which all of the data pass: rows of steps, most often of a single one."""
    last: dict[str, int] = {}
    made: set[str] = set()
    for place, step in enumerate(steps):
        last.update(dict.fromkeys(step.inputs, place))
    start, live = 0, set[str]()
    for place, step in enumerate(steps):
        if step.op != "Shape":  # shapes are no data
            made = {name for name in step.outputs if last.get(name, -1) > place}
            live = {name for name in live if last[name] > place} | made
        if len(live) <= 1:
            yield range(start, place + 1)
            start = place + 1
