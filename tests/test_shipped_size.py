"""What is promised is what ships: sizes and limits are of the files in RUN/best that opening the model reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import COLOURS, CONFIG
from microbudget.images.preprocess import Preprocessing
from microbudget.judge.budget import Budget
from microbudget.kinds.image_classification import predict
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.runtimes.loading import load
from microbudget.search.shrink import run_recipe
from microbudget.ship import shipped_bytes
from microbudget.ship.plan import PLAN_KEY
from quick import QUICK
from test_refused_models import classifier

pytestmark = pytest.mark.usefixtures("without_plots")


def test_the_size_of_a_row_is_that_of_what_ships(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    """Also the limit: what is a byte too large in RUN/best is too large."""
    recipe = "finetune(epochs=1) > quantize(samples=8)"
    found = run_recipe(resnet_onnx, recipe, photos, out=tmp_path / "run", threads=1, durations=QUICK)
    assert found.best is not None
    assert found.best.measurement is not None
    size = found.best.measurement.size_bytes
    shipped = load(tmp_path / "run" / "best")
    assert size == shipped.size_bytes == (tmp_path / "run" / "best" / "model.onnx").stat().st_size
    assert found.best.broken_limits(Budget(max_size_bytes=size)) == []
    assert found.best.broken_limits(Budget(max_size_bytes=size - 1))


def test_the_reference_is_counted_as_the_candidates_are(photos: Path, tmp_path: Path) -> None:
    """With the labels and the plan that delivering it would write into the file."""
    file = tmp_path / "net.onnx"
    classifier(file)
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS), encoding="utf-8")
    config = CONFIG | {"size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = run_recipe(file, "quantize(samples=8)", photos, out=tmp_path / "run", threads=1, durations=QUICK)
    assert found.reference.measurement is not None
    assert found.reference.measurement.size_bytes == shipped_bytes(load(file), ImageTask.open(photos))
    assert found.reference.measurement.size_bytes > file.stat().st_size


def test_what_predict_needs_takes_few_bytes(resnet_onnx: Path, photos: Path, tmp_path: Path) -> None:
    import onnx

    run_recipe(resnet_onnx, "finetune(epochs=1)", photos, out=tmp_path / "run", threads=1, durations=QUICK)
    proto = onnx.load(str(tmp_path / "run" / "best" / "model.onnx"))
    assert len({prop.key: prop.value for prop in proto.metadata_props}[PLAN_KEY]) < 400


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        {**CONFIG, "do_rescale": False},
        {**CONFIG, "do_normalize": False},
        {**CONFIG, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255},
        {**CONFIG, "image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True, "include_top": True},
    ],
)
def test_predict_computes_the_same_floats(config: dict[str, object]) -> None:
    """To the bit: int8 makes steps of what float32 rounds away."""
    parsed = Preprocessing.parse(config)
    plan = {
        "edge": None,
        "size": None,
        "crops": [],
        "resample": 2,
        "flipped": False,
        "channels_last": False,
        "batch": 1,
        "dtype": "float32",
        **parsed.levels.as_dict(),
    }
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    photo = Image.fromarray(np.stack([levels, levels[::-1], levels.T], axis=-1))
    expected = parsed.normalize(np.asarray(photo)[None])
    np.testing.assert_array_equal(predict.prepare(photo, json.loads(json.dumps(plan))), expected)
