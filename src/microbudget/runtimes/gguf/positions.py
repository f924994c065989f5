"""Where a token is: how a config says that positions are rotated and scaled, and how many of them there are."""

from __future__ import annotations

import warnings

from ...errors import UnsupportedModel
from .families.family import Family, Settings
from .settings import positive, whole

# What scales rotated positions, and the numbers that each way needs.
NUMBERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
_FOREIGN_YARN = ("attention_factor", "mscale", "mscale_all_dim")  # other than llama.cpp's own 1 + 0.1 ln(factor)


def rotation(settings: Settings, family: Family, name: str) -> tuple[Settings, float, float]:
    """Scaling with "rope_type", base, and the rotated share of a head; transformers 5 keeps them in one place.

    Raises UnsupportedModel for a scaling that llama.cpp's graph of the family does not have.
    """
    if not family.rotary:
        return {"rope_type": "default"}, 0.0, 0.0
    parts = [settings.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(part, dict) for part in parts):
        raise UnsupportedModel(f"{name}: rope_scaling and rope_parameters hold settings by name, not {parts!r}")
    found = {**parts[0], **parts[1]}
    rope_type = found.get("rope_type", found.get("type", "default"))
    if not isinstance(rope_type, str) or rope_type not in family.scalings:
        raise UnsupportedModel(
            f"{name}: positions are scaled by {rope_type!r}, which is not supported for {settings['model_type']};"
            f" supported are {', '.join(family.scalings)}. Where the texts are no longer than those that it was first"
            " trained on, take rope_scaling out of a copy of config.json"
        )
    if any(found.get(key) is not None for key in _FOREIGN_YARN):
        raise UnsupportedModel(f"{name}: {' and '.join(_FOREIGN_YARN)} of rope_scaling are not supported")
    optional = ("original_max_position_embeddings", "beta_fast", "beta_slow")
    for key in (*NUMBERS[rope_type], *(key for key in optional if found.get(key))):
        positive(found.get(key), f"{key} of rope_scaling", name)
    theta = found.get("rope_theta", settings.get("rope_theta", 10000.0))
    share = found.get("partial_rotary_factor", settings.get("partial_rotary_factor", family.rotary))
    theta, share = positive(theta, "rope_theta", name), positive(share, "partial_rotary_factor", name)
    if share > 1:
        raise UnsupportedModel(f"{name}: partial_rotary_factor is {share:g}: more than a whole head cannot rotate")
    return {**found, "rope_type": rope_type}, theta, share


def context(raw: Settings, settings: Settings, family: Family, name: str) -> int:
    """Tokens: the positions, or the window over which each token looks back where that is less.

    llama.cpp's graphs of most families look back over everything; within one window the two are the same.
    """
    most = whole(settings, "max_position_embeddings", name)
    slides = family.slides or settings.get("use_sliding_window")
    window = raw.get("sliding_window", family.window) if slides else None
    if window is None:
        return most
    window = whole({"sliding_window": window}, "sliding_window", name)
    if window < most:
        warnings.warn(
            f"{name}: tokens look back over {window} others of {most}, which llama.cpp does not do in this family:"
            f" its context is set to {window} tokens",
            stacklevel=2,
        )
    return min(most, window)
