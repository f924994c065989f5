import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microbudget.errors import InvalidOption, UnsupportedPreprocessing
from microbudget.images.geometry import ShortestEdge
from microbudget.images.photos import quiet_pillow, read_photo
from microbudget.images.preprocess import Preprocessing
from microbudget.images.processors import FOR_MODEL, PROCESSORS, with_type

FLOWERS = Path(__file__).parents[2] / "shared" / "assets" / "images" / "flowers12"
MODULES = {
    "Beit": "beit",
    "Bit": "bit",
    "CLIP": "clip",
    "ConvNext": "convnext",
    "DeiT": "deit",
    "EfficientNet": "efficientnet",
    "Levit": "levit",
    "MobileNetV1": "mobilenet_v1",
    "MobileNetV2": "mobilenet_v2",
    "MobileViT": "mobilevit",
    "PoolFormer": "poolformer",
    "Pvt": "pvt",
    "Siglip": "siglip",
    "ViT": "vit",
}
# configurations as they are on the hub, old and new: what a file says beyond the defaults
HUB = [
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
    {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 95, "width": 61}, "resample": 3},
    {"image_processor_type": "ViTImageProcessor", "size": [40, 60], "do_rescale": False, "image_mean": 127.5},
    {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3, "size": 224},
    {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.95, "size": {"shortest_edge": 288}},
    {"image_processor_type": "ConvNextImageProcessor", "size": 400, "do_center_crop": True, "crop_size": 64},
    {"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 224, "size": 256, "do_center_crop": True},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_convert_rgb": True},
    {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 96, "longest_edge": 120},
        "crop_size": {"height": 90, "width": 110},
    },
    {"image_processor_type": "EfficientNetImageProcessor", "include_top": False, "size": {"height": 60, "width": 60}},
    {
        "image_processor_type": "EfficientNetImageProcessor",
        "rescale_offset": True,
        "rescale_factor": 1 / 127.5,
        "do_normalize": False,
        "do_center_crop": True,
        "resample": 0,
    },
    {"feature_extractor_type": "MobileViTFeatureExtractor", "crop_size": 256, "size": 288, "resample": 2},
    {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False, "do_normalize": True},
    {
        "image_processor_type": "MobileNetV1ImageProcessor",
        "size": {"shortest_edge": 220},
        "crop_size": {"height": 192, "width": 192},
    },
    {"image_processor_type": "LevitImageProcessor", "size": {"height": 50, "width": 70}, "do_center_crop": False},
    {"feature_extractor_type": "PoolFormerFeatureExtractor", "crop_pct": 0.95, "size": 100, "crop_size": 97},
    {"image_processor_type": "PoolFormerImageProcessor", "size": {"height": 80, "width": 80}, "crop_size": 60},
    {"image_processor_type": "PoolFormerImageProcessor", "size": {"height": 80, "width": 60}, "crop_size": 50},
    {"feature_extractor_type": "BeitFeatureExtractor", "size": 224, "crop_size": 224, "reduce_labels": True},
    {"image_processor_type": "CLIPImageProcessor", "resample": 1, "do_resize": False, "crop_size": 77},
    {"image_processor_type": "CLIPImageProcessor", "size": [30, 20], "do_center_crop": None, "do_normalize": None},
    {"image_processor_type": "DeiTImageProcessor", "do_resize": None, "resample": None, "do_rescale": None},
    {"image_processor_type": "PoolFormerImageProcessor", "crop_pct": None, "size": 60, "crop_size": 50},
]


def family(config):
    name = config.get("image_processor_type") or config["feature_extractor_type"]
    return name.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")


def theirs(config):
    """transformers' own Pillow processor for the configuration."""
    name = family(config)
    module = importlib.import_module(f"transformers.models.{MODULES[name]}.image_processing_pil_{MODULES[name]}")
    options = {key: value for key, value in config.items() if not key.endswith("_type")}
    return getattr(module, f"{name}ImageProcessorPil")(**options)


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


PHOTOS = {
    "odd": noise(123, 77),
    "tall": noise(31, 301),
    "wide": noise(287, 40),
    "tiny": noise(3, 2),
    "one pixel": noise(1, 1),
    "square": noise(224, 224),
    "large": noise(641, 479),
}


def check_parity(config, photo):
    ours = Preprocessing.parse(config)
    values = ours([photo])
    expected = np.stack(theirs(config)(photo, return_tensors="np")["pixel_values"])
    assert values.dtype == np.float32
    assert values.shape == expected.shape == (1, 3, *ours.input_size)
    # the arithmetic is theirs, operation by operation: not close but equal
    np.testing.assert_array_equal(values, expected.astype(np.float32))


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_defaults_are_those_of_transformers(name, photo):
    config = {"image_processor_type": f"{name}ImageProcessor"}
    check_parity(config, PHOTOS[photo])


@pytest.mark.parametrize("photo", ["odd", "tall", "wide", "tiny"])
@pytest.mark.parametrize("config", HUB, ids=lambda config: json.dumps(config)[:60])
def test_configurations_of_the_hub_are_read_as_transformers_reads_them(config, photo):
    check_parity(config, PHOTOS[photo])


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_transformers_saves_is_read(name, tmp_path):
    """A saved processor has more keys than a written one, and changes its type's name."""
    processor = theirs({"image_processor_type": f"{name}ImageProcessor"})
    processor.save_pretrained(tmp_path)
    saved = json.loads(next(tmp_path.glob("*processor*.json")).read_text())
    nested = {"image_processor": saved, "processor_class": "SomeProcessor"}
    for config in (saved, nested):
        np.testing.assert_array_equal(
            Preprocessing.parse(config)([PHOTOS["odd"]]), processor(PHOTOS["odd"], return_tensors="np")["pixel_values"]
        )


@given(
    name=st.sampled_from(["MobileNetV2", "Bit", "ConvNext", "Levit", "PoolFormer"]),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    edge=st.integers(1, 70),
    crop=st.integers(1, 70),
    resample=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_rounding_of_sizes_and_crops_is_that_of_transformers(name, width, height, edge, crop, resample):
    if max(width, height) * edge > 4000 * min(width, height):
        return  # a strip would be resized to megabytes
    config = {
        "image_processor_type": f"{name}ImageProcessor",
        "size": {"shortest_edge": edge},
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": max(1, crop // 2)},
        "resample": resample,
    }
    check_parity(config, noise(width, height))


@given(edge=st.integers(1, 300), longest=st.integers(1, 600), height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_bounded_sizes_are_those_of_transformers(edge, longest, height, width):
    from transformers.image_transforms import get_size_with_aspect_ratio

    assert ShortestEdge(edge, longest).size(height, width) == get_size_with_aspect_ratio((height, width), edge, longest)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "PA"])
def test_any_mode_becomes_the_rgb_that_transformers_makes(mode, tmp_path):
    """With do_convert_rgb; without it transformers would hand one or four channels to a network of three."""
    photo = noise(50, 37)
    if mode in ("RGBA", "LA", "PA"):
        photo.putalpha(noise(50, 37, "L"))
        photo = photo.convert("RGBA").quantize(16) if mode == "PA" else photo.convert(mode)
    else:
        photo = photo.convert(mode)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    photo.save(path)
    config = {"image_processor_type": "CLIPImageProcessor"}
    with Image.open(path) as image:
        expected = theirs(config)(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(Preprocessing.parse(config)([read_photo(path)]), expected)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.asarray(read_photo(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(24, 16).resize((240, 160)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    from PIL import ImageOps

    with Image.open(tmp_path / "turned.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "turned.jpg")), expected)
    assert expected.shape[:2] == ((240, 160) if orientation > 4 else (160, 240))


def test_damaged_exif_does_not_cost_the_photo(tmp_path):
    data = io.BytesIO()
    noise(20, 10).save(data, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (tmp_path / "odd.jpg").write_bytes(data.getvalue())
    with quiet_pillow():
        assert read_photo(tmp_path / "odd.jpg").size == (20, 10)


def test_real_photos_are_equal_too():
    if not FLOWERS.is_dir():
        pytest.skip(f"real photos are not here: {FLOWERS}")
    for path in sorted(FLOWERS.rglob("*.jpg"))[::90]:
        with Image.open(path) as image:
            check_parity({"image_processor_type": "MobileNetV2ImageProcessor"}, image.convert("RGB"))


def test_normalize_is_the_equation_for_every_photo_of_a_batch():
    config = {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 9},
        "crop_size": {"height": 8, "width": 6},
    }
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    expected = pixels[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_allclose(Preprocessing.parse(config).normalize(pixels), expected, atol=1e-7)
    config = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    mean, std = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(Preprocessing.parse(config).normalize(pixels), expected, atol=1e-6)


def test_equal_geometries_are_one_whatever_the_normalization():
    first = Preprocessing.parse({"image_processor_type": "ViTImageProcessor", "resample": 3})
    second = Preprocessing.parse({"image_processor_type": "BeitImageProcessor", "image_mean": [0.1, 0.2, 0.3]})
    assert {first.geometry: 1}[second.geometry] == 1
    assert first.geometry != Preprocessing.parse({"image_processor_type": "ViTImageProcessor"}).geometry


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor"),
        ({"image_processor_type": "ViTImageProcessor", "do_thumbnail": True}, "do_thumbnail"),
        ({"image_processor_type": "ViTImageProcessor", "crop_pct": 0.9}, "crop_pct"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "data_format": "channels_last"}, "data_format"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}}, "longest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 9, "width": 0}}, "size"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 9}}, "do_center_crop"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}}, "shortest_edge"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0, "size": 224}, "crop_pct"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample"),
        ({"image_processor_type": "ViTImageProcessor", "resample": "bilinear"}, "resample"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": "0.5"}, "image_mean"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": "1/255"}, "rescale_factor"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "size"),
        ({"image_processor_type": "CLIPImageProcessor", "crop_size": {"shortest_edge": 9}}, "crop_size"),
        ({"auto_map": {"AutoImageProcessor": "code.Mine"}, "size": 9}, "auto_map"),
        ({"do_resize": True}, "image_processor_type"),
    ],
)
def test_what_is_not_known_is_refused_by_name(config, named):
    with pytest.raises(UnsupportedPreprocessing, match=named):
        Preprocessing.parse(config)


def test_a_refusal_lists_what_is_known():
    with pytest.raises(UnsupportedPreprocessing, match=r"ConvNextImageProcessor.*ViTImageProcessor"):
        Preprocessing.parse({"image_processor_type": "DonutImageProcessor"})
    with pytest.raises(UnsupportedPreprocessing, match=r"it knows .*crop_size.*image_mean"):
        Preprocessing.parse({"image_processor_type": "ViTImageProcessor", "patch_size": 4})


def test_a_configuration_without_a_type_needs_its_size():
    config = {"size": {"height": 30, "width": 20}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.2, 0.2, 0.2]}
    assert Preprocessing.parse(config).input_size == (30, 20)


def test_the_type_comes_from_the_model_where_the_file_has_none():
    assert set(FOR_MODEL.values()) <= set(PROCESSORS)
    assert with_type({"size": 224}, "resnet")["image_processor_type"] == "ConvNextImageProcessor"
    assert with_type({"size": 224}, "never-heard-of") == {"size": 224}
    named = {"feature_extractor_type": "ViTFeatureExtractor"}
    assert with_type(named, "resnet") is named


def test_models_take_the_processors_that_transformers_gives_them():
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    for model, name in FOR_MODEL.items():
        assert IMAGE_PROCESSOR_MAPPING_NAMES[model]["pil"] == f"{name}ImageProcessorPil", model


@pytest.mark.parametrize(
    ("config", "size", "crop"),
    [
        (
            {"image_processor_type": "MobileNetV2ImageProcessor"},
            {"shortest_edge": 183},
            {"height": 160, "width": 160},
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": 224}, {"height": 160, "width": 160}, None),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": 256},
            {"height": 183, "width": 183},
            {"height": 160, "width": 160},
        ),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224}, {"shortest_edge": 160}, None),
        ({"image_processor_type": "LevitImageProcessor"}, {"shortest_edge": 160}, {"height": 160, "width": 160}),
        (
            {"image_processor": {"image_processor_type": "CLIPImageProcessor"}},
            {"shortest_edge": 160},
            {"height": 160, "width": 160},
        ),
    ],
)
def test_a_smaller_input_keeps_the_proportions(config, size, crop):
    smaller = Preprocessing.parse(config).resized(160)
    assert Preprocessing.parse(smaller).input_size == (160, 160)
    assert smaller["size"] == size
    assert smaller.get("crop_size") == crop


def test_a_smaller_input_of_a_warping_convnext_still_warps():
    """At 384 and above ConvNext warps, below it crops: the smaller configuration must show the same picture."""
    config = {"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.4, 0.5, 0.6], "crop_pct": 0.9}
    photo = Image.linear_gradient("L").resize((600, 300)).convert("RGB")
    large = Preprocessing.parse(config)
    small = Preprocessing.parse(large.resized(96))
    assert (large.input_size, small.input_size) == ((384, 384), (96, 96))
    np.testing.assert_allclose(small([photo])[:, :, ::16, ::16], large([photo])[:, :, ::64, ::64], atol=0.06)


@given(name=st.sampled_from(sorted(PROCESSORS)), pixels=st.integers(1, 512))
@settings(max_examples=60)
def test_any_input_size_can_be_had_and_the_given_configuration_stays(name, pixels):
    config = {"image_processor_type": f"{name}ImageProcessor"}
    before = json.dumps(config)
    smaller = Preprocessing.parse(config).resized(pixels)
    assert Preprocessing.parse(json.loads(json.dumps(smaller))).input_size == (pixels, pixels)
    assert json.dumps(config) == before


def test_no_pixels_at_all_are_refused():
    with pytest.raises(InvalidOption, match="0 pixels"):
        Preprocessing.parse({"image_processor_type": "ViTImageProcessor"}).resized(0)
