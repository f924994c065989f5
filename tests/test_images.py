import errno
import io
import json
import os
import pickle
import shutil
import struct
import tracemalloc
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microbudget.data.contents import content_key
from microbudget.errors import BadData
from microbudget.images import photos, pixels
from microbudget.images.preprocess import Preprocessing
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.progress import Progress
from microbudget.task import DataOptions, Task
from toy_photos import LONG_AGO_S, noise, photo, two_classes

FLOWERS = Path(__file__).parents[2] / "shared" / "assets" / "images" / "flowers12"
IMAGENET = FLOWERS.parent / "imagenet_val"
SMALL = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}


@pytest.fixture
def folder(tmp_path):
    return two_classes(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "cache"


def test_a_folder_of_photos_is_a_task(folder, store):
    task = ImageTask.open(folder, DataOptions(cache=store))
    assert isinstance(task, Task)
    assert (task.kind, task.labels, task.warnings) == ("image-classification", ("cat", "dog"), [])
    counts = {split: Counter(e.label for e in task.examples(split)) for split in ("train", "validation", "test")}
    assert {split: sum(count.values()) for split, count in counts.items()} == {"train": 14, "validation": 3, "test": 3}
    assert counts["train"] == {0: 7, 1: 7}
    for split in counts:
        for example in task.examples(split):
            assert example.key == content_key(task.path_of(example).read_bytes())
            assert task.labels[example.label] == example.name.split("/")[0]
    assert task.examples("unlabelled") == ()


def test_pixel_values_are_those_of_the_preprocessing(folder, store):
    task = ImageTask.open(folder, DataOptions(cache=store, threads=2))
    examples = [*task.examples("test"), *task.examples("train")[:3], task.examples("test")[0]]
    expected = Preprocessing.parse(SMALL)([photos.read_photo(task.path_of(e)) for e in examples])
    for _ in range(2):
        np.testing.assert_array_equal(task.collate(examples, SMALL)["pixel_values"], expected)
    assert task.collate([], SMALL)["pixel_values"].shape == (0, 3, 8, 8)


def test_score_and_loss(folder, store):
    task = ImageTask.open(folder, DataOptions(cache=store))
    examples = task.examples("test")
    logits = np.tile([2.0, 0.0], (len(examples), 1))
    scores = task.score(logits, examples)
    labels = np.array([e.label for e in examples])
    assert (scores.metric, scores.value) == ("accuracy", (labels == 0).mean())
    assert scores.numerator.tolist() == (labels == 0).astype(float).tolist()
    expected = np.where(labels == 0, np.log(1 + np.exp(-2)), 2 + np.log(1 + np.exp(-2)))
    np.testing.assert_allclose(task.loss(logits, examples), expected)


def test_the_same_contents_are_the_same_task(folder, store, tmp_path):
    first = ImageTask.open(folder, DataOptions(cache=store))
    copy = tmp_path / "copy"
    for number, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name / f"renamed-{number}.png")
    second = ImageTask.open(copy, DataOptions(cache=store))
    assert first.fingerprint == second.fingerprint
    assert [e.key for e in first.examples("train")] == [e.key for e in second.examples("train")]
    assert ImageTask.open(folder, DataOptions(cache=store, seed=1)).fingerprint != first.fingerprint
    (copy / "cat").rename(copy / "zebra")
    assert ImageTask.open(copy, DataOptions(cache=store)).fingerprint != first.fingerprint


class TestJudging:
    def test_every_example_of_an_unsplit_folder(self, folder, store):
        seen = frozenset(e.key for e in ImageTask.open(folder, DataOptions(cache=store)).examples("train"))
        task = ImageTask.open(folder, DataOptions(splits=False, cache=store))
        assert (len(task.examples("test")), task.left_out, task.examples("train")) == (20, 0, ())
        task = ImageTask.open(folder, DataOptions(splits=False, leave_out=seen | {"of-other-data"}, cache=store))
        assert (len(task.examples("test")), task.left_out) == (6, 14)
        assert not {e.key for e in task.examples("test")} & seen

    def test_only_the_test_split_where_there_is_one(self, tmp_path, store):
        for split, start in (("train", 0), ("validation", 10), ("test", 20)):
            for number in range(4):
                photo(tmp_path / "d" / split / "ab"[number % 2] / f"{number}.png", seed=start + number)
        task = ImageTask.open(tmp_path / "d", DataOptions(splits=False, cache=store))
        assert {e.name.split("/")[0] for e in task.examples("test")} == {"test"}
        shutil.rmtree(tmp_path / "d" / "test")
        task = ImageTask.open(tmp_path / "d", DataOptions(splits=False, cache=store))
        assert {e.name.split("/")[0] for e in task.examples("test")} == {"validation"}

    def test_nothing_is_left(self, folder, store):
        seen = frozenset(e.key for e in ImageTask.open(folder, DataOptions(splits=False, cache=store)).examples("test"))
        with pytest.raises(BadData, match="made with all 20 images"):
            ImageTask.open(folder, DataOptions(splits=False, leave_out=seen, cache=store))


def test_unlabelled_photos_are_examples_without_labels(folder, store):
    photo(folder / "unlabelled" / "new.png", seed=500)
    task = ImageTask.open(folder, DataOptions(cache=store))
    (example,) = task.examples("unlabelled")
    assert (example.label, example.name) == (None, "unlabelled/new.png")
    assert task.collate([example], SMALL)["pixel_values"].shape == (1, 3, 8, 8)
    with pytest.raises(BadData, match="1 of 1 examples have no label"):
        task.score(np.zeros((1, 2)), [example])


def test_copies_are_reported_and_test_stays_clean(tmp_path, store):
    for split, start in (("train", 0), ("validation", 100), ("test", 200)):
        for number in range(4):
            photo(tmp_path / split / "ab"[number % 2] / f"{number}.png", seed=start + number)
    shutil.copy(tmp_path / "test" / "a" / "0.png", tmp_path / "train" / "a" / "leak.png")
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "b" / "twice.png")
    task = ImageTask.open(tmp_path, DataOptions(cache=store))
    dropped, ambiguous = sorted(task.duplicates, key=lambda pair: pair.dropped is None)
    assert (dropped.first, dropped.second) == ("test/a/0.png", "train/a/leak.png")
    assert {ambiguous.first, ambiguous.second} == {"train/a/0.png", "train/b/twice.png"}
    assert not {e.key for e in task.examples("train")} & {e.key for e in task.examples("test")}
    assert len(task.examples("train")) == 5
    assert any("train/a/leak.png" in warning for warning in task.warnings)
    assert any("two labels" in warning for warning in task.warnings)
    values = task.collate(task.examples("train"), SMALL)["pixel_values"]
    same = [position for position, e in enumerate(task.examples("train")) if e.key == ambiguous_key(task, ambiguous)]
    np.testing.assert_array_equal(values[same[0]], values[same[1]])


def ambiguous_key(task, pair):
    return content_key((task.root / pair.first).read_bytes())


class TestBadFiles:
    """A few are left out with a warning that names them; a tenth of the folder is an error."""

    def spoil(self, folder, name, data):
        (folder / "cat" / name).write_bytes(data)
        return name

    def open(self, folder, store):
        for number in range(10):  # below a tenth: one of 31
            photo(folder / "dog" / f"more-{number}.png", seed=1000 + number)
        out = io.StringIO()
        task = ImageTask.open(folder, DataOptions(cache=store, progress=Progress(out)))
        assert out.getvalue() == "".join(f"warning: {warning}\n" for warning in task.warnings)
        return task

    def bad_bytes(self, kind):
        stream = io.BytesIO()
        noise(7, (64, 64)).save(stream, "JPEG")
        jpeg = stream.getvalue()
        stream = io.BytesIO()
        noise(7, (64, 64)).save(stream, "PNG")
        png = stream.getvalue()
        return {
            "truncated.jpg": jpeg[: len(jpeg) // 2],
            "holed.jpg": jpeg[:700] + b"\xff\xd8" * 200 + jpeg[1500:],
            "truncated.png": png[: len(png) // 2],
            "flipped.png": png[:500] + bytes([png[500] ^ 255]) + png[501:],
            "text.jpg": b"this is a shopping list\n" * 20,
            "empty.jpg": b"",
            "bomb.png": declared(40_000, 40_000),
            "large.png": declared(14_000, 13_000),
            "strip.png": declared(1, 5_000),
        }[kind]

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("truncated.jpg", "truncated"),
            ("holed.jpg", "broken data stream"),
            ("truncated.png", ""),
            ("flipped.png", "broken PNG"),
            ("text.jpg", "it is not an image"),
            ("empty.jpg", "it is not an image"),
            ("bomb.png", "more than 178,956,970 pixels, the limit"),
            ("large.png", "declares 14000 x 13000 pixels; the limit is 178,956,970"),
            ("strip.png", "1 x 5000 pixels; at most 100 times"),
        ],
    )
    def test_one_is_left_out_and_named(self, folder, store, name, reason, monkeypatch):
        if name == "large.png":  # between Pillow's warning and its error; the limit is ours alone
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        self.spoil(folder, name, self.bad_bytes(name))
        task = self.open(folder, store)
        (warning,) = task.warnings
        assert warning.startswith("1 of 31 images")
        assert f"cat/{name}" in warning
        assert reason in warning
        names = {e.name for split in ("train", "validation", "test") for e in task.examples(split)}
        assert (len(names), f"cat/{name}" in names) == (30, False)
        assert task.collate(task.examples("train"), SMALL)["pixel_values"].shape == (21, 3, 8, 8)

    def test_many_are_an_error_that_names_five(self, folder, store):
        for number in range(7):
            self.spoil(folder, f"bad-{number}.jpg", b"no")
        with pytest.raises(BadData, match=r"7 of 27 images .*bad-0\.jpg .*bad-4\.jpg .* and 2 more"):
            ImageTask.open(folder, DataOptions(cache=store))

    def test_a_file_that_cannot_be_opened(self, folder, store, monkeypatch):
        target = folder / "cat" / "3.png"
        read_bytes = Path.read_bytes

        def refuse(path):
            if path == target:
                raise PermissionError(errno.EACCES, "Permission denied")
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        assert "cat/3.png (Permission denied)" in self.open(folder, store).warnings[0]
        monkeypatch.undo()
        assert ImageTask.open(folder, DataOptions(cache=store)).warnings == []  # a refusal is not remembered

    def test_a_broken_link(self, folder, store):
        (folder / "cat" / "link.png").symlink_to(folder / "gone.png")
        assert "cat/link.png (No such file" in self.open(folder, store).warnings[0]

    def test_an_animation_gives_its_first_frame(self, folder, store):
        frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green")]
        frames[0].save(folder / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
        task = self.open(folder, store)
        assert "cat/moving.gif" in task.warnings[0]
        assert "several frames" in task.warnings[0]
        assert np.asarray(photos.read_photo(folder / "cat" / "moving.gif"))[0, 0].tolist() == [255, 0, 0]

    def test_cmyk(self, folder, store):
        Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(folder / "cat" / "print.jpg", quality=95)
        task = self.open(folder, store)
        assert task.warnings == []
        red, green, blue = np.asarray(photos.read_photo(folder / "cat" / "print.jpg"))[0, 0]
        assert red > 230
        assert max(green, blue) < 25

    def test_floats_and_large_integers_have_no_known_range(self, tmp_path):
        for pixels_, said in ((np.ones((4, 4), np.float32), "32-bit floats"), (np.full((4, 4), 70000), "integers")):
            Image.fromarray(pixels_.astype(pixels_.dtype if pixels_.dtype == np.float32 else np.int32)).save(
                tmp_path / "x.tif"
            )
            with pytest.raises(photos.UnreadableImage, match=said):
                photos.read_photo(tmp_path / "x.tif")

    def test_damage_after_the_start_is_reported(self, folder, store):
        task = ImageTask.open(folder, DataOptions(cache=store))
        victim = task.path_of(task.examples("test")[0])
        victim.write_bytes(b"gone bad")
        with pytest.raises(BadData, match=rf"1 images that were whole.*{victim.name} \(it is not an image\)"):
            task.collate(task.examples("test"), SMALL)
        assert list((store / "pixels").iterdir()) == []


def declared(width, height):
    """A whole PNG of one bit per pixel: its header says the size, its checksums hold, its data is short."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


class TestWarningsOfClasses:
    def test_a_single_image_goes_to_train(self, folder, store):
        photo(folder / "owl" / "1.png", seed=900)
        task = ImageTask.open(folder, DataOptions(cache=store))
        assert task.warnings == ["classes with a single image (trained on, never judged): owl"]
        assert "owl/1.png" in {e.name for e in task.examples("train")}

    def test_a_class_that_a_split_lacks(self, tmp_path, store):
        for name, seed in (("train/a/1", 1), ("train/b/1", 2), ("test/a/2", 3), ("test/c/2", 4), ("train/a/3", 5)):
            photo(tmp_path / f"{name}.png", seed)
        photo(tmp_path / "validation" / "a" / "4.png", 6)
        warnings = ImageTask.open(tmp_path, DataOptions(cache=store)).warnings
        assert "classes without an image to train on: c" in warnings
        assert "classes with a single image (trained on, never judged): b" in warnings

    def test_one_class_only(self, tmp_path, store):
        photo(tmp_path / "a" / "1.png", 1)
        with pytest.raises(BadData, match="one class only"):
            ImageTask.open(tmp_path, DataOptions(cache=store))


class TestHashes:
    def test_are_remembered(self, folder, store, monkeypatch):
        first = ImageTask.open(folder, DataOptions(cache=store))

        def never(path):
            raise AssertionError(path)

        monkeypatch.setattr(Path, "read_bytes", never)
        assert ImageTask.open(folder, DataOptions(cache=store)).fingerprint == first.fingerprint

    def test_a_changed_file_is_read_again(self, folder, store):
        first = ImageTask.open(folder, DataOptions(cache=store))
        photo(folder / "cat" / "0.png", seed=4242)
        os.utime(folder / "cat" / "0.png", (LONG_AGO_S + 1, LONG_AGO_S + 1))
        assert ImageTask.open(folder, DataOptions(cache=store)).fingerprint != first.fingerprint

    def test_a_file_that_just_changed_is_not_trusted(self, folder, store):
        """Within the clock's granularity it could change again without changing its time."""
        path = folder / "cat" / "0.png"
        path.touch()
        stamp = path.stat()
        first = ImageTask.open(folder, DataOptions(cache=store))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"\0")
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert ImageTask.open(folder, DataOptions(cache=store, splits=False)).warnings != first.warnings or (
            ImageTask.open(folder, DataOptions(cache=store)).fingerprint != first.fingerprint
        )

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"revision": -1, "files": {}}', b"\xff\xfe"])
    def test_a_damaged_memory_is_only_forgotten(self, folder, store, damage):
        first = ImageTask.open(folder, DataOptions(cache=store))
        (index,) = (store / "index").iterdir()
        index.write_bytes(damage)
        assert ImageTask.open(folder, DataOptions(cache=store)).fingerprint == first.fingerprint


class TestPreparing:
    def count_decodes(self, monkeypatch):
        decoded = Counter()
        read_photo = photos.read_photo

        def counting(path):
            decoded[path.name] += 1
            return read_photo(path)

        monkeypatch.setattr(pixels, "read_photo", counting)
        return decoded

    def test_every_photo_is_decoded_once(self, folder, store, monkeypatch):
        photo(folder / "unlabelled" / "new.png", seed=500)
        task = ImageTask.open(folder, DataOptions(cache=store))
        decoded = self.count_decodes(monkeypatch)
        smaller = Preprocessing.parse(SMALL).resized(5)
        other_mean = {**SMALL, "image_mean": [0.1, 0.2, 0.3]}
        task.prepare([SMALL, smaller, other_mean], views=3)
        assert sum(decoded.values()) == 20
        assert len(list((store / "pixels").iterdir())) == 2 * 3 + 2 + 2  # geometries x views of train, and the others
        for config in (SMALL, smaller, other_mean):
            for view in range(3):
                task.collate(task.examples("train"), config, view)
            task.collate(task.examples("test"), config)
        task.prepare([SMALL], views=2)
        ImageTask.open(folder, DataOptions(cache=store)).collate(task.examples("train"), SMALL, 2)
        assert sum(decoded.values()) == 20
        task.collate(task.examples("unlabelled"), SMALL)
        assert sum(decoded.values()) == 21

    def test_views_differ_and_are_the_same_at_every_call(self, folder, store, tmp_path):
        task = ImageTask.open(folder, DataOptions(cache=store))
        again = ImageTask.open(folder, DataOptions(cache=tmp_path / "elsewhere", threads=1))
        other = ImageTask.open(folder, DataOptions(cache=store, seed=9))
        examples = task.examples("train")[:4]
        views = [task.collate(examples, SMALL, view)["pixel_values"] for view in range(3)]
        assert not np.array_equal(views[0], views[1])
        assert not np.array_equal(views[1], views[2])
        common = [e for e in other.examples("train") if e in task.examples("train")][:4]
        for view in range(3):
            np.testing.assert_array_equal(again.collate(examples, SMALL, view)["pixel_values"], views[view])
        mine, theirs = (t.collate(common, SMALL, 1)["pixel_values"] for t in (task, other))
        assert not np.array_equal(mine, theirs)

    def test_threads_that_collate_at_once_decode_once(self, folder, store, monkeypatch):
        task = ImageTask.open(folder, DataOptions(cache=store))
        decoded = self.count_decodes(monkeypatch)
        examples = task.examples("train")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda example: task.collate([example], SMALL), examples))
        assert sum(decoded.values()) == len(examples)

    def test_a_task_can_be_sent_to_another_process(self, folder, store):
        task = ImageTask.open(folder, DataOptions(cache=store))
        expected = task.collate(task.examples("test"), SMALL)["pixel_values"]
        data = pickle.dumps(task)
        assert len(data) < 20_000
        np.testing.assert_array_equal(
            pickle.loads(data).collate(task.examples("test"), SMALL)["pixel_values"], expected
        )

    def test_an_example_of_another_task_is_refused(self, folder, store, tmp_path):
        photo(tmp_path / "other" / "a" / "1.png", 77)
        photo(tmp_path / "other" / "b" / "2.png", 78)
        other = ImageTask.open(tmp_path / "other", DataOptions(splits=False, cache=store))
        with pytest.raises(BadData, match="no example of"):
            ImageTask.open(folder, DataOptions(cache=store)).collate(other.examples("test"), SMALL)

    def test_only_the_rows_asked_for_are_in_memory(self, folder, store):
        task = ImageTask.open(folder, DataOptions(cache=store))
        large = Preprocessing.parse(SMALL).resized(300)
        task.prepare([large])
        examples = task.examples("train")
        task.collate(examples[:1], large)
        tracemalloc.start()
        task.collate(examples[:1], large)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        row = 300 * 300 * 3
        assert row * 5 <= peak < row * 8  # one photo as bytes and as floats, of fourteen


def test_real_photos_open_fast_the_second_time(tmp_path):
    if not FLOWERS.is_dir():
        pytest.skip(f"real photos are not here: {FLOWERS}")
    first = ImageTask.open(FLOWERS, DataOptions(cache=tmp_path, threads=2))
    assert len(first.labels) == 12
    assert sum(len(first.examples(split)) for split in ("train", "validation", "test")) == 720
    (index,) = (tmp_path / "index").iterdir()
    assert len(json.loads(index.read_text())["files"]) == 720
    assert ImageTask.open(FLOWERS, DataOptions(cache=tmp_path)).fingerprint == first.fingerprint


def test_real_metadata_is_read(tmp_path):
    if not IMAGENET.is_dir():
        pytest.skip(f"real photos are not here: {IMAGENET}")
    task = ImageTask.open(IMAGENET, DataOptions(splits=False, cache=tmp_path, threads=2))
    assert (len(task.examples("test")), len(task.labels)) == (260, 230)
    assert "canoe" in task.labels
