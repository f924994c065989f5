"""Random networks with residuals, gates, concatenations, shared weights, depthwise and grouped convolutions."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

WIDTHS = (4, 6, 8, 12)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, max(2, width // 2), 1), nn.Conv2d(max(2, width // 2), width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class RandomNet(nn.Module):
    """A program of steps, each of which adds a tensor; the last is pooled (or flattened) and classified."""

    def __init__(self, program: list[tuple[Any, ...]], flat: bool, classes: int = 3) -> None:
        super().__init__()
        self.program, self.flat = program, flat
        widths = [3]
        layers = []
        for kind, *rest in program:
            layer, width = _layer(kind, rest, widths)
            if kind == "twin":
                layer.weight = layers[rest[1]].weight
            layers.append(layer)
            widths.append(width)
        self.layers = nn.ModuleList(layers)
        self.classifier = nn.Linear(widths[-1] * (16 if flat else 1), classes)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        tensors = [pixel_values]
        for layer, (kind, *rest) in zip(self.layers, self.program, strict=True):
            if kind == "add":
                tensors.append(tensors[rest[0]] + tensors[rest[1]])
            elif kind == "cat":
                tensors.append(torch.cat([tensors[rest[0]], tensors[rest[1]]], dim=1))
            else:
                tensors.append(layer(tensors[rest[0]]))
        last = tensors[-1] if self.flat else tensors[-1].mean((2, 3))
        return ImageClassifierOutput(logits=self.classifier(last.flatten(1)))


def _layer(kind: str, rest: list[Any], widths: list[int]) -> tuple[nn.Module, int]:
    width = widths[rest[0]]
    if kind == "add":
        return nn.Identity(), width
    if kind == "cat":
        return nn.Identity(), width + widths[rest[1]]
    if kind == "twin":  # the layer whose weight it shares, and what that layer was made with
        return _layer("conv", [rest[0], *rest[2:]], widths)
    if kind == "conv":
        _, out, groups, kernel = rest
        return nn.Conv2d(width, out, kernel, padding=kernel // 2, groups=groups, bias=bool(out % 3)), out
    if kind == "depthwise":
        return nn.Conv2d(width, width * rest[1], 3, padding=1, groups=width), width * rest[1]
    return {"norm": nn.BatchNorm2d(width), "relu": nn.ReLU(), "silu": nn.SiLU(), "gate": Gate(width)}[kind], width


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Steps whose widths fit."""
    widths, steps = [3], []

    def step(*parts: Any, width: int) -> None:
        steps.append(parts)
        widths.append(width)

    first = draw(st.sampled_from(WIDTHS))
    step("conv", 0, first, 1, 3, width=first)
    for _ in range(draw(st.integers(2, 9))):
        source = draw(st.integers(1, len(widths) - 1))
        width = widths[source]
        alike = [index for index in range(1, len(widths)) if widths[index] == width and index != source]
        twins = [
            (index, *rest) for index, (kind, at, *rest) in enumerate(steps) if kind == "conv" and widths[at] == width
        ]
        kinds = [
            "conv",
            "conv",
            "grouped",
            "depthwise",
            "norm",
            "relu",
            "silu",
            "gate",
            "cat",
            *["add"] * 3 * bool(alike),
            *["twin"] * 2 * bool(twins),
        ]
        kind = draw(st.sampled_from(kinds))
        if kind == "add":
            step("add", source, draw(st.sampled_from(alike)), width=width)
        elif kind == "twin":
            layer, out, groups, kernel = draw(st.sampled_from(twins))
            step("twin", source, layer, out, groups, kernel, width=out)
        elif kind == "cat":
            other = draw(st.integers(1, len(widths) - 1))
            step("cat", source, other, width=width + widths[other])
        elif kind == "depthwise":
            times = draw(st.sampled_from((1, 1, 2)))
            step("depthwise", source, times, width=width * times)
        elif kind in ("conv", "grouped"):
            out = draw(st.sampled_from([*WIDTHS, width if width in WIDTHS else 8]))
            groups = 2 if kind == "grouped" and width % 2 == 0 and out % 2 == 0 else 1
            step("conv", source, out, groups, draw(st.sampled_from((1, 3))), width=out)
        else:
            step(kind, source, width=width)
    return steps


def random_net(program: list[tuple[Any, ...]], flat: bool, seed: int) -> RandomNet:
    """In eval mode, with statistics and scales that are not those of a fresh batch norm."""
    torch.manual_seed(seed)
    network = RandomNet(program, flat)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()
