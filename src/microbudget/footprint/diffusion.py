"""Operations of image and video generators, from the configs of diffusers' U-Nets and diffusion transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidOption, UnsupportedModel

Config = Mapping[str, Any]
PATCH, SHRINK = 2, 8  # of diffusion transformers; of their autoencoders
DECODER = 9.5e6  # operations a pixel of Stable Diffusion's autoencoder: 1.24e12 multiply-adds at 512 x 512
TEXT = 77  # tokens of CLIP
SLOW_ATTENTION = 1.7  # attention reaches so much less of the peak than products of matrices: FlashAttention-2, figure 6
GUIDED = 2  # passes of a step: with and without the prompt (Ho & Salimans 2022)


@dataclass(frozen=True)
class Picture:
    """What is asked for."""

    steps: int
    height: int
    width: int
    frames: int = 1

    @property
    def pixels(self) -> float:
        """Of all frames."""
        return float(self.height * self.width * self.frames)


@dataclass(frozen=True)
class ImageWork:
    """A generator: how its operations follow from a picture."""

    config: Config
    parameters: float
    layers: int  # blocks that are launched in each pass

    def operations(self, picture: Picture) -> float:
        """Of all steps and the decoder, attention weighted by how slow it is."""
        passes = picture.steps * (1 if _distilled(self.config) else GUIDED)
        return passes * self.step(picture) + DECODER * picture.pixels

    def step(self, picture: Picture) -> float:
        """Of one pass."""
        if is_unet(self.config):
            shrink = SHRINK
            return 2 * UNet(self.config).multiply_adds(picture.height // shrink, picture.width // shrink)
        return _transformer_step(self.config, self.parameters, picture)

    def passes(self, picture: Picture) -> int:
        """Blocks that are launched for a picture; with guidance both passes go as one batch."""
        return self.layers * picture.steps


def is_unet(config: Config) -> bool:
    """Whether it is a U-Net of diffusers."""
    return "UNet" in str(config.get("_class_name", "")) or "block_out_channels" in config


def is_generator(config: Config) -> bool:
    """Whether a config is one of diffusers' networks."""
    return "_class_name" in config and (
        is_unet(config) or "ransformer" in str(config["_class_name"]) or "DiT" in str(config["_class_name"])
    )


def of_config(config: Config, name: str) -> ImageWork:
    """The generator of a config. Raises UnsupportedModel for one without blocks."""
    if is_unet(config):
        network = UNet(config)
        return ImageWork(config, network.parameters(), network.blocks)
    layers, width = _layers(config), _width(config)
    if layers < 1 or width < 1:
        raise UnsupportedModel(
            f"the config of {name} names no layers (num_layers, num_attention_heads, attention_head_dim)"
        )
    modulation = {"FluxTransformer2DModel": 10, "SD3Transformer2DModel": 24}.get(str(config.get("_class_name")), 1)
    return ImageWork(config, layers * width * width * (_matrices(config, width) + modulation), layers)


def of_size(parameters: float) -> ImageWork:
    """A diffusion transformer with so many parameters: its width grows as its depth (Peebles & Xie 2022, table 1)."""
    width = (parameters / 14 / 0.018) ** (1 / 3)
    return ImageWork(
        {"_width": width, "_layers": max(4, round(0.018 * width))}, parameters, max(4, round(0.018 * width))
    )


def picture_of(config: Config, steps: int | None, resolution: str | None, frames: int | None) -> Picture:
    """What is asked for, by default what the network was trained for. Raises InvalidOption for impossible sizes."""
    unit = config.get("sample_size", 128)
    side = max(unit) if isinstance(unit, list) else unit
    shrink = _shrink(config)
    text = resolution or str(int(side or 128) * shrink)
    parts = text.lower().replace("×", "x").split("x")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdigit() for part in parts):
        raise InvalidOption(f"resolution {text!r} cannot be read: write 1024 or 1024x768")
    height, width = int(parts[0]), int(parts[-1])
    wanted = 50 if steps is None else steps
    for what, value, most in (
        ("steps", wanted, 10_000),
        ("resolution", min(height, width), 65_536),
        ("frames", frames or 1, 100_000),
    ):
        if not 1 <= value <= most:
            raise InvalidOption(f"{what} must be from 1 to {most}, not {value}")
    if min(height, width) < 16 or max(height, width) > 65_536:
        raise InvalidOption(f"resolution {text!r} must be from 16 to 65536 pixels a side")
    return Picture(wanted, height, width, frames or 1)


def _distilled(config: Config) -> bool:
    return bool(config.get("guidance_embeds"))  # one pass imitates both: FLUX.1-dev


def _width(config: Config) -> int:
    if "_width" in config:
        return int(config["_width"])
    heads = config.get("num_attention_heads", 0) or 0
    default = config.get("hidden_size", 0)
    return int(heads) * int(config.get("attention_head_dim", 0) or 0) or int(default or 0)


def _layers(config: Config) -> int:
    if "_layers" in config:
        return int(config["_layers"])
    depth = config.get("num_layers", config.get("depth", 0)) or 0
    return int(depth) + int(config.get("num_single_layers", 0) or 0)


def _linear(config: Config) -> bool:
    return "Sana" in str(config.get("_class_name", ""))


def _matrices(config: Config, width: int) -> float:
    """Matrices of width x width that a token of a picture goes through in a block."""
    ratio = float(config.get("mlp_ratio", 2.5 if _linear(config) else 4.0) or 4.0)
    inner = float(config.get("ffn_dim") or ratio * width) / width
    crossed = any(key in config for key in ("cross_attention_dim", "caption_channels", "text_dim")) and not config.get(
        "joint_attention_dim"
    )
    return 4 + inner * (3 if _linear(config) else 2) + (2 if crossed else 0)


def _shrink(config: Config) -> int:
    return 32 if _linear(config) else SHRINK


def _transformer_step(config: Config, parameters: float, picture: Picture) -> float:
    patch, times = config.get("patch_size", PATCH), 1
    if isinstance(patch, list):  # of a video: time, height, width
        patch = patch[-1]
        times = 1 + (picture.frames - 1) // 4
    patch = int(patch or 1)
    if "Flux" in str(config.get("_class_name", "")):
        patch = 2  # packed before the network
    side = _shrink(config) * patch
    image = (picture.height // side) * (picture.width // side) * times
    joint = config.get("joint_attention_dim")
    tokens = image + ((512 if "Flux" in str(config.get("_class_name", "")) else 333) if joint else 0)
    width, layers = _width(config), _layers(config)
    dense = parameters if "_width" in config else layers * width * width * _matrices(config, width)
    attention = 0.0 if _linear(config) else 4.0 * layers * tokens * tokens * width
    return 2 * dense * tokens + SLOW_ATTENTION * attention


class UNet:
    """A U-Net of diffusers (UNet2DConditionModel): multiply-adds and parameters, block by block."""

    def __init__(self, config: Config) -> None:
        widths = config.get("block_out_channels")
        if not isinstance(widths, list) or not widths or not all(isinstance(c, int) and 0 < c < 65536 for c in widths):
            raise UnsupportedModel("the config of the U-Net names no block_out_channels")
        self.widths: list[int] = widths
        count = len(widths)
        self.each = _per_block(config.get("layers_per_block", 2), count)
        self.depth = _per_block(config.get("transformer_layers_per_block", 1), count)
        down = config.get("down_block_types") or ["CrossAttnDownBlock2D"] * (count - 1) + ["DownBlock2D"]
        self.attends = ["Attn" in str(name) for name in down]
        self.text = int(_per_block(config.get("cross_attention_dim") or 768, count)[0])
        self.blocks = (
            sum(n * 2 + 1 for n in self.each)
            + 2
            + 3 * sum(n * d for n, d, a in zip(self.each, self.depth, self.attends, strict=True) if a)
        )

    def multiply_adds(self, height: int, width: int) -> float:
        """Of one pass over a latent picture of this size."""
        return sum(self._parts(float(height * width), self._residual, self._transformer, 9.0))

    def parameters(self) -> float:
        """Of all blocks."""

        def residual(source: int, target: int, _area: float) -> float:
            return 9.0 * target * (source + target) + (source * target if source != target else 0) + 1280.0 * target

        def transformer(c: int, _area: float, depth: int) -> float:
            return depth * (6.0 * c * c + 2.0 * self.text * c + 12.0 * c * c) + 2.0 * c * c

        return sum(self._parts(1.0, residual, transformer, 0.0))

    def _residual(self, source: int, target: int, area: float) -> float:
        return area * (9.0 * target * (source + target) + (source * target if source != target else 0))

    def _transformer(self, c: int, area: float, depth: int) -> float:
        own = 4.0 * c * c * area + SLOW_ATTENTION * 2.0 * area * area * c
        text = 2.0 * c * c * area + 2.0 * self.text * c * TEXT + 2.0 * area * TEXT * c
        return depth * (own + text + 12.0 * c * c * area) + 2.0 * c * c * area

    def _parts(self, area: float, residual: Any, transformer: Any, kernel: float) -> list[float]:
        """The same walk for operations and parameters; kernel: of the convolutions that change the size."""
        parts, skips, before = [], [self.widths[0]], self.widths[0]
        last = len(self.widths) - 1
        for index, c in enumerate(self.widths):
            for _ in range(self.each[index]):
                parts.append(residual(before, c, area))
                if self.attends[index]:
                    parts.append(transformer(c, area, self.depth[index]))
                before = c
                skips.append(c)
            if index < last:
                area = area / 4 if kernel else area
                parts.append((kernel * area if kernel else 9.0) * c * c)
                skips.append(c)
        parts += [2 * residual(before, before, area), transformer(before, area, self.depth[-1])]
        for index in range(last, -1, -1):
            c = self.widths[index]
            for _ in range(self.each[index] + 1):
                parts.append(residual(before + skips.pop(), c, area))
                if self.attends[index]:
                    parts.append(transformer(c, area, self.depth[index]))
                before = c
            if index:
                area = area * 4 if kernel else area
                parts.append((kernel * area if kernel else 9.0) * c * c)
        return parts


def _per_block(value: Any, count: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value)] * count
