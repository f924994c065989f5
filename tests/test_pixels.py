import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microbudget.data import cache
from microbudget.errors import DiskFull, Failed
from microbudget.images import photos, pixels
from microbudget.images.geometry import Exact, Geometry
from microbudget.images.pixels import PixelCache, Rendering
from microbudget.images.views import augmented
from microbudget.machine import files
from toy_photos import photo, two_classes

SMALL = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}


class TestPixelCache:
    KEYS = ("a", "b", "c")
    HOW = Rendering(Geometry(Exact(6, 7), (), 2))

    def sources(self, tmp_path):
        return {key: photo(tmp_path / f"{key}.png", seed) for seed, key in enumerate(self.KEYS)}

    def fill(self, tmp_path, keys=KEYS):
        PixelCache(tmp_path).fill(self.sources(tmp_path), [(keys, self.HOW)], threads=2)

    def test_the_rows_are_in_the_order_of_the_keys(self, tmp_path):
        keys = ("c", "a", "b")
        self.fill(tmp_path, keys)
        rows = PixelCache(tmp_path).open(keys, self.HOW)
        for key, row in zip(keys, rows, strict=True):
            np.testing.assert_array_equal(row, self.HOW(photos.read_photo(tmp_path / f"{key}.png"), key))
        assert isinstance(rows, np.memmap)

    def test_a_damaged_file_is_made_again(self, tmp_path):
        self.fill(tmp_path)
        path = PixelCache(tmp_path).path(self.KEYS, self.HOW)
        whole = path.read_bytes()
        for damage in (b"", whole[:100], whole[:-5], b"text"):
            path.write_bytes(damage)
            assert PixelCache(tmp_path).open(self.KEYS, self.HOW) is None
            self.fill(tmp_path)
            assert path.read_bytes() == whole

    def test_the_name_depends_on_all_that_matters(self, tmp_path):
        store = PixelCache(tmp_path)
        geometry = self.HOW.geometry
        names = [
            store.path(("a", "b"), self.HOW),
            store.path(("b", "a"), self.HOW),
            store.path(("a", "b"), Rendering(Geometry(Exact(7, 6), (), 2))),
            store.path(("a", "b"), Rendering(Geometry(Exact(6, 7), (), 3))),
            store.path(("a", "b"), Rendering(geometry, view=1)),
            store.path(("a", "b"), Rendering(geometry, view=2)),
            store.path(("a", "b"), Rendering(geometry, view=1, seed=1)),
        ]
        assert len(set(names)) == len(names)
        assert store.path(("a", "b"), Rendering(geometry, seed=5)) == names[0]  # view 0 has no randomness

    def test_nothing_is_left_of_an_interrupted_write(self, tmp_path, monkeypatch):
        def interrupt(path):
            raise KeyboardInterrupt

        monkeypatch.setattr(pixels, "read_photo", interrupt)
        with pytest.raises(KeyboardInterrupt):
            self.fill(tmp_path)
        assert list((tmp_path / "pixels").iterdir()) == []

    def test_a_disk_that_fills_while_writing(self, tmp_path, monkeypatch):
        def full(writer, photo_, key):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pixels._Writer, "put", full)
        with pytest.raises(DiskFull, match="MICROBUDGET_CACHE"):
            self.fill(tmp_path)
        assert list((tmp_path / "pixels").iterdir()) == []

    def test_a_disk_that_is_full_before(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
        with pytest.raises(DiskFull, match="378 B"):
            self.fill(tmp_path)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "pixels").write_text("a file in the way")
        with pytest.raises(Failed, match="cannot be written"):
            self.fill(tmp_path)

    def test_two_at_once(self, tmp_path, monkeypatch):
        """Another process finishes the same file while ours is being written."""
        self.sources(tmp_path)
        path = PixelCache(tmp_path).path(self.KEYS, self.HOW)
        move = files.move_into_place
        inside = []

        def racing(*names, same_bytes):
            if not inside:
                inside.append(True)
                self.fill(tmp_path)
            move(*names, same_bytes=same_bytes)

        monkeypatch.setattr(files, "move_into_place", racing)
        self.fill(tmp_path)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert PixelCache(tmp_path).open(self.KEYS, self.HOW).shape == (3, 6, 7, 3)

    def test_two_processes(self, tmp_path):
        folder, store = two_classes(tmp_path / "data"), tmp_path / "cache"
        code = (
            "import sys, zlib; from pathlib import Path\n"
            "from microbudget.kinds.image_classification.data import ImageTask\n"
            "from microbudget.task import DataOptions\n"
            f"task = ImageTask.open(sys.argv[1], DataOptions(cache=Path(sys.argv[2]))); config = {SMALL!r}\n"
            "for size in range(8, 24):\n"
            "    task.prepare([{**config, 'size': {'height': size, 'width': size}}], views=2)\n"
            "print(zlib.crc32(task.collate(task.examples('train'), config, 1)['pixel_values'].tobytes()))"
        )
        command = [sys.executable, "-c", code, str(folder), str(store)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        answers = [process.communicate() for process in started]
        assert answers[0] == answers[1]
        assert int(answers[0][0]) > 0
        assert {path.suffix for path in (store / "pixels").iterdir()} == {".npy"}

    def test_where_the_other_ones_file_is_open_it_stays(self, tmp_path, monkeypatch):
        """Windows does not replace a file that is mapped."""
        ours, theirs = tmp_path / "x.tmp", tmp_path / "x.npy"
        ours.write_text("same")

        def refuse(self, target):
            raise PermissionError(errno.EACCES, "in use")

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(PermissionError):
            files.move_into_place(ours, theirs, same_bytes=True)
        theirs.write_text("same")
        with pytest.raises(PermissionError):
            files.move_into_place(ours, theirs)
        files.move_into_place(ours, theirs, same_bytes=True)
        assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


class TestCacheFolder:
    def test_the_variable_comes_first(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.delenv(cache.VARIABLE, raising=False)
        if os.name == "posix":
            assert cache.default_folder() == tmp_path / "xdg" / "microbudget"
            monkeypatch.delenv("XDG_CACHE_HOME")
            assert cache.default_folder() == Path.home() / ".cache" / "microbudget"
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
        assert cache.default_folder() == tmp_path / "mine"

    def test_trim_deletes_what_was_not_read_for_longest(self, tmp_path):
        now = time.time()
        for name, age_s in (("old", 9000), ("older", 99000), ("fresh", 10), ("half.partial", 2 * 24 * 3600)):
            (tmp_path / name).write_bytes(bytes(100))
            os.utime(tmp_path / name, (now - age_s, now - age_s))
        assert cache.trim(tmp_path, limit_bytes=250) == 200
        assert {path.name for path in tmp_path.iterdir()} == {"old", "fresh"}
        assert cache.trim(tmp_path, limit_bytes=0) == 100  # what was read within the hour belongs to a run
        assert {path.name for path in tmp_path.iterdir()} == {"fresh"}


class TestViews:
    def view(self, picture, number, seed=0, key="k", size=(24, 20)):
        return augmented(picture, size, 2, seed, key, number)

    def test_known_values(self):
        """The same on every machine and in every version: written down once."""
        gradient = np.add.outer(np.arange(40), 2 * np.arange(50))[..., None] + np.array([0, 20, 40])
        view = self.view(Image.fromarray(gradient.astype(np.uint8)), 1, seed=3, key="0123456789abcdef", size=(3, 3))
        assert view.tolist() == GOLDEN

    @given(width=st.integers(1, 60), height=st.integers(1, 60), number=st.integers(1, 50))
    @settings(max_examples=80)
    def test_a_view_has_the_asked_size_and_stays_inside_the_photo(self, width, height, number):
        marked = Image.new("RGB", (width, height), (100, 150, 200))
        view = self.view(marked, number)
        assert view.shape == (24, 20, 3)
        assert view.min() > 70  # nothing black from outside, and the light changes mildly

    def test_views_are_mirrored_half_of_the_time_and_show_a_third_or_more(self):
        ramp = Image.fromarray(np.tile(np.arange(0, 200, dtype=np.uint8)[None, :, None], (200, 1, 3)))
        views = [self.view(ramp, number).astype(float) for number in range(1, 301)]
        mirrored = np.mean([view[:, 0].mean() > view[:, -1].mean() for view in views])
        assert 0.4 < mirrored < 0.6
        widths = [abs(view[0, -1, 0] - view[0, 0, 0]) / 200 for view in views]
        assert min(widths) > 0.35  # sqrt(0.35 * 3/4 * 20/24) of the width, less light and edges
        assert max(widths) > 0.8


GOLDEN = [
    [[34, 57, 80], [68, 92, 115], [101, 124, 147]],
    [[49, 72, 95], [84, 107, 130], [116, 139, 162]],
    [[63, 86, 109], [97, 121, 144], [130, 153, 176]],
]
