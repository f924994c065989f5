"""A run whose data have changed in part: the files are named, and what other examples gave is not computed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import write_photos
from microbudget.data.kept_rows import KeptRows
from microbudget.errors import InvalidOption, RunMismatch
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.model import Model, Record
from microbudget.progress import Progress
from microbudget.runs.manifest import Changes, Manifest
from microbudget.runs.run import check_place, open_run
from microbudget.runtimes.loading import load
from microbudget.search.shrink import shrink
from microbudget.task import DataOptions, Example
from microbudget.training.features import FeatureStore

MODEL = Model(Path("net.onnx"), "onnx", Record(fingerprint="0123", source="net.onnx"))


class Asked:
    """Computes a row of its place's key, and remembers which keys were asked for."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.asked = keys, []

    def __call__(self, places: list[int]) -> np.ndarray:
        self.asked += [self.keys[place] for place in places]
        return np.array([[ord(self.keys[place])] * 3 for place in places], np.float32)


def test_only_rows_of_new_keys_are_computed(tmp_path: Path) -> None:
    first, second = Asked(list("abcd")), Asked(list("dxba"))
    KeptRows(tmp_path).complete(first.keys, first)
    rows = KeptRows(tmp_path).complete(second.keys, second)
    assert first.asked == list("abcd")
    assert second.asked == ["x"]
    np.testing.assert_array_equal(rows[:, 0], [ord(key) for key in "dxba"])
    again = Asked(list("dxba"))
    np.testing.assert_array_equal(KeptRows(tmp_path).complete(again.keys, again), rows)
    assert not again.asked
    assert rows.dtype == np.float32


def test_whether_rows_are_known_needs_no_file_with_just_these(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    assert not kept.known(["a"])
    kept.complete(list("abc"), Asked(list("abc")))
    assert kept.known(["c", "a"])
    assert not kept.known(["a", "z"])


def test_texts_are_rows_too_and_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    kept.complete(["a", "b"], lambda places: np.array(["so", "long and more"]))
    whole = set(tmp_path.iterdir())
    kept.complete(["z"], lambda places: np.array(["lost"]))
    (cut,) = set(tmp_path.iterdir()) - whole
    cut.write_bytes(cut.read_bytes()[:40])
    rows = kept.complete(["b", "z", "a"], lambda places: np.array(["Łódź"] * len(places)))
    assert rows.tolist() == ["long and more", "Łódź", "so"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=8, size=8)


def opened(photos: Path) -> ImageTask:
    return ImageTask.open(photos, DataOptions(cache=photos.parent / "cache"))


def test_features_of_other_photos_stay(photos: Path, tmp_path: Path, resnet_onnx: Path) -> None:
    before = opened(photos).examples("train")
    (photos / "red" / "003.png").unlink()
    after = opened(photos)
    config = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    stores = [FeatureStore((resnet_onnx / "model.onnx").read_bytes(), config, tmp_path / "features") for _ in range(3)]

    class Grey:
        def collate(self, examples: list[Example], preprocessing: dict, view: int) -> dict:
            values = [int(example.key[:2], 16) / 255 for example in examples]
            return {
                "pixel_values": np.ones((len(examples), 3, 32, 32), np.float32) * np.array(values).reshape(-1, 1, 1, 1)
            }

    stores[0].rows(Grey(), before, 0)
    rows = stores[1].rows(Grey(), after.examples("train"), 0)
    new = {example.key for example in after.examples("train")} - {example.key for example in before}
    assert stores[0].answered == len(before)
    assert stores[1].answered == len(new) < 4
    fresh = FeatureStore((resnet_onnx / "model.onnx").read_bytes(), config, tmp_path / "others")
    np.testing.assert_allclose(rows, fresh.rows(Grey(), after.examples("train"), 0), atol=1e-6)


def test_a_run_goes_on_and_names_the_files_that_have_changed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with open_run(out, MODEL, str(photos), opened(photos), 0) as run:
        (run.cache / "features").mkdir(parents=True)
        (run.folder / "answers").mkdir()
        run.rows.write_text("{}\n", encoding="utf-8")
    (photos / "red" / "003.png").unlink()
    shutil.copy(photos / "green" / "001.png", photos / "blue" / "004.png")
    (photos / "blue" / "000.png").rename(photos / "green" / "sky.png")
    with open_run(out, MODEL, str(photos), opened(photos), 0, progress=Progress()) as run:
        assert (run.cache / "features").is_dir()
        assert not run.rows.exists()
        assert not (run.folder / "answers").exists()
        assert run.settings["data_fingerprint"] == opened(photos).fingerprint
    said = capsys.readouterr().err
    assert "1 is gone (red/003.png)" in said
    assert "1 is renamed (blue/000.png to green/sky.png)" in said
    assert "1 has another content (blue/004.png)" in said
    with open_run(out, MODEL, str(photos), opened(photos), 0, progress=Progress()):
        assert not capsys.readouterr().err, "unchanged data are nothing to say"


def test_another_data_set_in_the_same_place_is_refused_with_what_differs(photos: Path, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", MODEL, str(photos), opened(photos), 0):
        pass
    before = (tmp_path / "run" / "run.toml").read_bytes()
    write_photos(photos, per_class=8, size=8, seed=1)
    task = opened(photos)
    refusal = pytest.raises(RunMismatch, match=r"24 have other contents \(.*give another --out, or --force")
    with refusal, open_run(tmp_path / "run", MODEL, str(photos), task, 0):
        pass
    assert (tmp_path / "run" / "run.toml").read_bytes() == before


def test_a_run_of_another_model_or_place_names_both(photos: Path, tmp_path: Path) -> None:
    task = opened(photos)
    with open_run(tmp_path / "run", MODEL, str(photos), task, 0):
        pass
    other = Model(Path("big.onnx"), "onnx", Record(fingerprint="4567", source="big.onnx"))
    with (
        pytest.raises(
            RunMismatch, match=r"another model, net\.onnx, and not big\.onnx; with another seed, 0, and not 1"
        ),
        open_run(tmp_path / "run", other, str(photos), task, 1),
    ):
        pass
    changed = Model(Path("net.onnx"), "onnx", Record(fingerprint="4567", source="net.onnx"))
    refusal = pytest.raises(RunMismatch, match=r"another model: what net\.onnx holds has changed since")
    with refusal, open_run(tmp_path / "run", changed, str(photos), task, 0):
        pass


def test_a_run_lies_outside_of_what_was_given(photos: Path, tmp_path: Path) -> None:
    """It would be read as data, and a classifier of photos learn the photos of its own report."""
    (tmp_path / "model").mkdir()
    for out in (photos, photos / "run", photos / ".." / "photos" / "a" / "b"):
        with pytest.raises(InvalidOption, match=r"--out .* lies in the data .*photos, into which nothing is written"):
            check_place(out, data=photos, model="owner/name")
    with pytest.raises(InvalidOption, match="lies in the model"):
        check_place(tmp_path / "model" / "run", data=photos, model=str(tmp_path / "model"))
    text = tmp_path / "text.txt"
    text.write_text("", encoding="utf-8")
    check_place(tmp_path / "photos2", data=photos, model=tmp_path / "model")
    check_place(tmp_path / "out", data=text, model=tmp_path / "net.onnx")
    with pytest.raises(InvalidOption, match="lies in the data"):
        shrink(tmp_path / "none.onnx", photos, out=photos / "run")
    assert not (photos / "run").exists()


def test_labels_are_compared_by_name() -> None:
    class Labelled:
        def __init__(self, labels: tuple[str, ...], label: int) -> None:
            self.labels, self.label = labels, label

        def examples(self, split: str) -> list[Example]:
            return [Example("k", self.label, "a.jpg")] if split == "train" else []

    cat = Manifest.of(Labelled(("ant", "cat"), 1))
    same = Changes.between(cat, Manifest.of(Labelled(("cat",), 0)))
    other = Changes.between(cat, Manifest.of(Labelled(("ant", "cat"), 0)))
    assert same is not None
    assert not same.relabelled
    assert other is not None
    assert str(other) == "of 1 examples 1 has another label (a.jpg)"


def test_a_run_of_an_earlier_version_is_measured_again(photos: Path, resnet_onnx: Path, tmp_path: Path) -> None:
    """Its answers were in another order, which nothing in the file tells."""
    model, task = load(resnet_onnx), ImageTask.open(photos)
    with open_run(tmp_path / "run", model, "photos", task, 0) as run:
        run.save_answers("abc", "validation", np.zeros((3, 2)))
    path = tmp_path / "run" / "run.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "layout" not in line))
    with open_run(tmp_path / "run", model, "photos", task, 0) as run:
        assert run.answers("abc", "validation") is None
        run.save_answers("abc", "validation", np.zeros((3, 2)))
    with open_run(tmp_path / "run", model, "photos", task, 0) as run:
        assert run.answers("abc", "validation") is not None
