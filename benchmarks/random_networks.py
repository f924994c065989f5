"""Small networks of many kinds with random weights, as torch exports them: what matters here is only their speed."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU())


def head(width: int, classes: int = 10) -> nn.Sequential:
    """Global average and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Excited(nn.Module):
    """x times a gate of every channel: squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Encoder(nn.Module):
    """A transformer encoder over (batch, tokens, width), its layers before the addition normalized."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean(1))


class Block(nn.Module):
    """Attention and two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        q, k, v = (
            layer(y).reshape(y.shape[0], -1, self.heads, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) * self.size**-0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(y.shape[0], -1, self.heads * self.size))
        return x + self.narrow(nn.functional.gelu(self.wide(self.second(x))))


class Modern(nn.Module):
    """ConvNeXt's block: depthwise 7 x 7, layer norm over the channels, two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


def inverted(inside: int, outside: int, stride: int) -> nn.Sequential:
    """MobileNetV2's block without its shortcut."""
    wide = 6 * inside
    return nn.Sequential(
        nn.Conv2d(inside, wide, 1), nn.ReLU6(), nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.ReLU6(),
        nn.Conv2d(wide, outside, 1),
    )  # fmt: skip


def separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """MobileNetV1's block."""
    return nn.Sequential(conv(inside, inside, 3, stride, inside), conv(inside, outside, 1))


def chain(widths: tuple[int, ...], **options: int) -> list[nn.Module]:
    """Convolutions from width to width, every second one halving the image."""
    pairs = itertools.pairwise(widths)
    return [conv(a, b, stride=1 + i % 2, **options) for i, (a, b) in enumerate(pairs)]


def linears(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def residual_network() -> nn.Module:
    stages: list[nn.Module] = [conv(3, 32)]
    for inside, outside in ((32, 32), (32, 64), (64, 128)):
        stages.append(conv(inside, outside, stride=2))
        stages += [Residual(conv(outside, outside), nn.Conv2d(outside, outside, 3, padding=1)) for _ in range(2)]
    return nn.Sequential(*stages, head(128))


def excited_network() -> nn.Module:
    stages: list[nn.Module] = [conv(3, 16, stride=2)]
    for inside, outside in ((16, 24), (24, 40), (40, 96)):
        stages += [separable(inside, outside, 2), Excited(outside), nn.Hardswish()]
    return nn.Sequential(*stages, head(96))


@dataclass(frozen=True)
class Kind:
    """How to make a network, and the shape of one input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


KINDS = {
    "plain convolutions": Kind(lambda: nn.Sequential(*chain((3, 32, 32, 64, 64, 128, 128)), head(128)), (3, 64, 64)),
    "residual": Kind(residual_network, (3, 64, 64)),
    "depthwise separable": Kind(
        lambda: nn.Sequential(conv(3, 16, stride=2), *(separable(w, 2 * w, 2) for w in (16, 32, 64, 128)), head(256)),
        (3, 96, 96),
    ),
    "inverted residuals": Kind(
        lambda: nn.Sequential(
            conv(3, 16, stride=2), inverted(16, 24, 2), Residual(inverted(24, 24, 1)), inverted(24, 48, 2),
            Residual(inverted(48, 48, 1)), inverted(48, 96, 2), head(96),
        ),
        (3, 128, 128),
    ),
    "squeeze and excitation": Kind(excited_network, (3, 96, 96)),
    "grouped convolutions": Kind(
        lambda: nn.Sequential(conv(3, 64, stride=2), *chain((64, 64, 128, 128, 256), groups=8), head(256)), (3, 64, 64)
    ),
    "pointwise convolutions": Kind(
        lambda: nn.Sequential(*chain((3, 64, 128, 256, 256), kernel=1), head(256)), (3, 32, 32)
    ),
    "large kernels, layer norm": Kind(
        lambda: nn.Sequential(nn.Conv2d(3, 64, 4, 4), *(Modern(64) for _ in range(4)), head(64)), (3, 96, 96)
    ),
    "tiny convolutions": Kind(lambda: nn.Sequential(*chain((1, 8, 8, 16)), head(16)), (1, 16, 16)),
    "wide convolutions": Kind(lambda: nn.Sequential(*(conv(512, 512) for _ in range(2)), head(512)), (512, 7, 7)),
    "tiny linear": Kind(lambda: linears(32, 64, 64, 10), (32,)),
    "wide linear": Kind(lambda: linears(1024, 2048, 2048, 1000), (1024,)),
    "tiny transformer": Kind(lambda: Encoder(32, 2, 2), (16, 32)),
    "small transformer": Kind(lambda: Encoder(128, 4, 4), (65, 128)),
    "wide transformer": Kind(lambda: Encoder(384, 6, 3), (64, 384)),
    "long transformer": Kind(lambda: Encoder(192, 3, 2), (256, 192)),
}  # fmt: skip


def onnx_bytes(kind: Kind) -> bytes:
    """The network as an ONNX file: input `x`, any batch size. The same bytes at every call."""
    torch.manual_seed(0)
    network, buffer = kind.make().eval(), io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns about every Python branch
        torch.onnx.export(
            network,
            (torch.zeros(2, *kind.shape),),
            buffer,  # type: ignore[arg-type]
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return buffer.getvalue()
