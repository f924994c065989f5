"""What the image processors of transformers do when a configuration leaves a key out, and which keys they have.

Read off the classes *ImageProcessorPil of transformers 5.23; the parity test compares every one of them.
"""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedPreprocessing

HALF = (0.5, 0.5, 0.5)  # "ImageNet standard" in transformers
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3  # of PIL.Image.Resampling; Pillow would count as memory of a worker that answers
WARPED_FROM = 384  # ConvNext crops below this size and warps from it on

BASE: dict[str, Any] = {
    "do_resize": True,
    "size": None,
    "resample": BILINEAR,
    "default_to_square": True,  # what a size that is one number means
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": HALF,
    "image_std": HALF,
}
_SQUARE_224 = {"height": 224, "width": 224}
_CROPPED_224 = {"do_center_crop": True, "crop_size": _SQUARE_224, "default_to_square": False}
_CLIP = {
    **_CROPPED_224,
    "size": {"shortest_edge": 224},
    "resample": BICUBIC,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
_SEGMENTS = {"do_reduce_labels": False, "reduce_labels": False}  # about segmentation maps: nothing for pixels

PROCESSORS: dict[str, dict[str, Any]] = {
    "Beit": {**_SEGMENTS, "size": _SQUARE_224, "crop_size": _SQUARE_224, "resample": BICUBIC},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "ConvNext": {
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "resample": BICUBIC,
        "crop_pct": 224 / 256,
    },
    "DeiT": {
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": _SQUARE_224,
        "resample": BICUBIC,
    },
    "EfficientNet": {
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "resample": BICUBIC,
        "rescale_offset": False,
        "include_top": True,
    },
    "Levit": {
        **_CROPPED_224,
        "size": {"shortest_edge": 224},
        "resample": BICUBIC,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    },
    "MobileNetV1": {**_CROPPED_224, "size": {"shortest_edge": 256}},
    "MobileNetV2": {**_CROPPED_224, **_SEGMENTS, "size": {"shortest_edge": 256}},
    "MobileViT": {
        **_CROPPED_224,
        **_SEGMENTS,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 256, "width": 256},
        "resample": BICUBIC,
        "do_flip_channel_order": True,
    },
    "PoolFormer": {
        **_CROPPED_224,
        "size": {"shortest_edge": 224},
        "resample": BICUBIC,
        "crop_pct": 0.9,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    },
    "Pvt": {"size": _SQUARE_224, "resample": BICUBIC, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Siglip": {"size": _SQUARE_224, "resample": BICUBIC, "default_to_square": False},
    "ViT": {"size": _SQUARE_224},
}
NEVER_NORMALIZED = frozenset({"MobileViT"})  # takes the key do_normalize and does not look at it

# said of a file or a call, not of the pixels
ABOUT_THE_FILE = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "do_convert_rgb"}
)
ONLY_WHEN = {  # keys that are understood with these values only
    "do_pad": (None, False),
    "pad_size": (None,),
    "data_format": (None, "channels_first"),
    "input_data_format": (None,),
    "return_tensors": (None,),
    "device": (None, "cpu"),
    "disable_grouping": (None, False, True),
    "image_seq_length": (None,),
}

# model_type of a config.json -> the processor that transformers takes when the file does not name one
FOR_MODEL = {
    "beit": "Beit",
    "bit": "Bit",
    "clip": "CLIP",
    "convnext": "ConvNext",
    "convnextv2": "ConvNext",
    "cvt": "ConvNext",
    "data2vec-vision": "Beit",
    "deit": "DeiT",
    "dinat": "ViT",
    "dinov2": "Bit",
    "efficientnet": "EfficientNet",
    "focalnet": "Bit",
    "hiera": "Bit",
    "ijepa": "ViT",
    "levit": "Levit",
    "metaclip_2": "CLIP",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViT",
    "poolformer": "PoolFormer",
    "pvt": "Pvt",
    "pvt_v2": "Pvt",
    "regnet": "ConvNext",
    "resnet": "ConvNext",
    "siglip": "Siglip",
    "swiftformer": "ViT",
    "swin": "ViT",
    "swinv2": "ViT",
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
}


def family_of(config: dict[str, Any]) -> str:
    """The family "ViT" of ViTImageProcessor, ViTImageProcessorFast or ViTFeatureExtractor, and where none is named.

    Raises UnsupportedPreprocessing for a processor that is not in `PROCESSORS`.
    """
    named = config.get("image_processor_type") or config.get("feature_extractor_type")
    if named is None:
        return "ViT"  # the plainest one; older ViT files name no type
    family = str(named).removesuffix("Fast").removesuffix("Pil")
    family = family.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if family not in PROCESSORS:
        known = ", ".join(f"{name}ImageProcessor" for name in PROCESSORS)
        raise UnsupportedPreprocessing(f"the image processor {named!r} is not known; known are {known}")
    return family


def settings_of(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """The processor's settings with the configuration's values. A null is not the default: it switches a step off.

    Raises UnsupportedPreprocessing naming each key that this processor does not have.
    """
    defaults = {**BASE, **PROCESSORS[family]}
    unknown = [key for key in config if key not in defaults and not _without_effect(key, config[key])]
    if unknown:
        shown = ", ".join(f"{key} = {config[key]!r}" for key in unknown)
        raise UnsupportedPreprocessing(
            f"{family}ImageProcessor: {shown} is not supported; it knows {', '.join(sorted(defaults))}"
        )
    return {**defaults, **{key: value for key, value in config.items() if key in defaults}}


def _without_effect(key: str, value: Any) -> bool:
    return key in ABOUT_THE_FILE or (key in ONLY_WHEN and value in ONLY_WHEN[key])


def with_type(config: dict[str, Any], model_type: str | None) -> dict[str, Any]:
    """The configuration with the type that transformers would take from the model, where the file names none."""
    if config.get("image_processor_type") or config.get("feature_extractor_type") or model_type not in FOR_MODEL:
        return config
    return {**config, "image_processor_type": f"{FOR_MODEL[model_type]}ImageProcessor"}
