"""Image classification: a folder of photos as a Task."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import contents, folders, labelled, parallel, saved
from ...data import splits as cutting
from ...data.cache import default_folder
from ...data.folders import Listing, some
from ...data.labelled import Medium
from ...data.splits import Duplicate, Splits
from ...errors import BadData, Failed
from ...images.originals import Originals
from ...images.photos import FORMATS, inspect, quiet_pillow
from ...images.pixels import PixelCache, Pixels, Rendering
from ...images.preprocess import Preprocessing
from ...metrics import cross_entropy
from ...progress import SILENT, Progress
from ...task import SPLITS, TO_TRAIN, DataOptions, Example, Inputs, Scores, Split, Use
from .network import KIND

PHOTOS = Medium("an image", "photos")
COLUMNS = saved.Columns("Image", FORMATS.extensions, ".png")


def open_task(path: str | Path, options: DataOptions) -> ImageTask:
    """The task of a folder of photos, or of a saved data set. Raises BadData."""
    return ImageTask.open(saved.folder_of(path, COLUMNS, options.progress), options)


@dataclass(eq=False)
class ImageTask:
    """Photos in class folders or with a metadata file; the metric is accuracy. Made by `ImageTask.open`."""

    root: Path
    labels: tuple[str, ...]
    fingerprint: str
    seed: int
    warnings: list[str]
    duplicates: tuple[Duplicate, ...]
    left_out: int  # examples that the model has seen and that are therefore not judged
    use: Use = "training"  # what is learnt from it, which decided the cut
    kind: str = KIND
    _splits: dict[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)
    _cache: PixelCache = field(default_factory=lambda: PixelCache(default_folder()), repr=False)
    _threads: int = 0
    _files: dict[tuple[str, Rendering], Pixels] = field(default_factory=dict, repr=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _originals: Originals | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path | str, options: DataOptions = TO_TRAIN) -> ImageTask:
        """Find the photos of a folder, check that they can be read, and split them.

        Warnings go to the progress and are kept in `warnings`. Raises BadData when the folder cannot serve.
        """
        root, store = Path(path), options.cache or default_folder()
        listing = folders.find(root, FORMATS)
        known = _scan(root, listing, store, options.threads, options.progress)
        distinct, duplicates = cutting.keep_apart(_examples(listing, known))
        warnings = [*listing.warnings, *_about_files(root, known), *labelled.about_copies(duplicates, PHOTOS)]
        if options.splits:
            done, left_out = cutting.complete(distinct, options.seed, options.use, options.leave_out), 0
            warnings += cutting.about_cut(distinct, options.use, options.leave_out, "images")
            warnings += labelled.about_classes(done, listing.labels, PHOTOS, trained=options.use == "training")
        else:
            done, left_out = _to_judge(root, distinct, options.leave_out)
        ordered = labelled.in_order(done)
        for warning in warnings:
            options.progress.warn(warning)
        return cls(
            root=root,
            labels=listing.labels,
            fingerprint=labelled.fingerprint(listing.labels, ordered),
            seed=options.seed,
            use=options.use,
            warnings=warnings,
            duplicates=tuple(duplicates),
            left_out=left_out,
            _splits=ordered,
            _cache=PixelCache(store),
            _threads=options.threads,
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split ("unlabelled" too), in the order of their keys: any beginning is a random sample."""
        return self._splits.get(split, ())

    def path_of(self, example: Example) -> Path:
        """The file of an example."""
        return self.root / example.name

    def prepare(
        self,
        preprocessings: Sequence[dict[str, Any]],
        views: int = 1,
        progress: Progress = SILENT,
        splits: Sequence[Split] = SPLITS,
    ) -> None:
        """Decode every photo once and keep what `collate` will ask for; what is in the cache already is not made again.

        views: of the train split; the others have view 0 alone. Whatever was not prepared, `collate` prepares itself.
        """
        geometries = dict.fromkeys(Preprocessing.parse(config).geometry for config in preprocessings)
        wanted = [
            (self._keys[split], Rendering(geometry, view, self.seed))
            for split in splits
            if split in self._keys
            for geometry in geometries
            for view in range(views if split == "train" else 1)
        ]
        self._cache.fill(self._paths, wanted, threads=self._threads, progress=progress)

    def collate(self, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> Inputs:
        """{"pixel_values": float32 (n, 3, H, W)}. View 0 is plain; a higher view is augmented, alike at every call."""
        how = Preprocessing.parse(preprocessing)
        return {"pixel_values": how.normalize(self._pixels(examples, Rendering(how.geometry, view, self.seed)))}

    def fresh(self, examples: Sequence[Example], preprocessings: Sequence[dict[str, Any]], view: int) -> list[Inputs]:
        """What `collate` gives of an augmented view, for several preprocessings of one crop; nothing is kept on disk.

        For views that are used once: the photos stay in memory, a little larger than the views, which are rendered
        at each call; so their pixels differ a little from those of `collate`. Raises BadData.
        """
        hows = [Preprocessing.parse(config) for config in preprocessings]
        largest = max(max(how.input_size) for how in hows)
        if self._originals is None or self._originals.largest < largest:
            self._originals = Originals(self._paths, largest)
        originals = self._originals
        renderings = [Rendering(how.geometry, view, self.seed) for how in hows]

        def render(example: Example) -> list[Pixels]:
            photo = originals[example.key]
            return [rendering(photo, example.key) for rendering in renderings]

        with quiet_pillow():
            rendered = list(parallel.each(render, examples, self._threads))
        return [
            {"pixel_values": how.normalize(np.stack([views[place] for views in rendered]))}
            for place, how in enumerate(hows)
        ]

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """Accuracy. outputs: logits (n, classes)."""
        right = outputs.argmax(axis=1) == labelled.targets(examples)
        return Scores("accuracy", right.astype(np.float64), np.ones(len(examples)))

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """Cross-entropy of each example in nats, (n,). outputs: logits (n, classes)."""
        return cross_entropy(outputs, labelled.targets(examples))

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped files, whose contents pickle would copy."""
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_files", "_opening", "_originals")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process the files are mapped again."""
        self.__dict__.update(state, _files={}, _opening=threading.Lock(), _originals=None)

    @cached_property
    def _keys(self) -> dict[str, tuple[str, ...]]:
        return {split: tuple(dict.fromkeys(example.key for example in self._splits[split])) for split in self._splits}

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {example.key: self.path_of(example) for examples in self._splits.values() for example in examples}

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        return {key: (split, row) for split, keys in self._keys.items() for row, key in enumerate(keys)}

    def _pixels(self, examples: Sequence[Example], rendering: Rendering) -> Pixels:
        """(n, H, W, 3), only these rows read."""
        rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, example in enumerate(examples):
            if example.key not in self._places:
                raise BadData(f"{example.name} is no example of {self.root}")
            split, row = self._places[example.key]
            rows[split].append((position, row))
        result = np.empty((len(examples), *rendering.size, 3), np.uint8)
        for split, pairs in rows.items():
            positions, sources = np.array(pairs).T
            result[positions] = self._file(split, rendering)[sources]
        return result

    def _file(self, split: str, rendering: Rendering) -> Pixels:
        with self._opening:  # threads that collate at once decode once
            if (split, rendering) not in self._files:
                self._files[split, rendering] = self._opened(self._keys[split], rendering)
            return self._files[split, rendering]

    def _opened(self, keys: Sequence[str], rendering: Rendering) -> Pixels:
        pixels = self._cache.open(keys, rendering)
        if pixels is None:
            self._cache.fill(self._paths, [(keys, rendering)], threads=self._threads)
            pixels = self._cache.open(keys, rendering)
        if pixels is None:
            raise Failed(f"the pixel cache in {self._cache.folder} loses its files: is something deleting them?")
        return pixels


def _scan(root: Path, listing: Listing, store: Path, threads: int, progress: Progress) -> dict[str, contents.Content]:
    files = {file.name: file.path for file in listing.files}
    index = contents.index_path(store, root)
    with quiet_pillow():
        return contents.scan(files, index, _examine, "reading images", threads=threads, progress=progress)


def _examine(path: Path) -> contents.Content:
    try:
        data = path.read_bytes()
    except OSError as error:
        return contents.Content("", problem=error.strerror or str(error))
    found = inspect(data)
    return contents.Content(contents.content_key(data), found.problem, found.animated)


def _examples(listing: Listing, known: Mapping[str, contents.Content]) -> Splits:
    """The readable files by split; an unsplit folder counts as train."""
    index = {value: position for position, value in enumerate(listing.values)}
    splits: Splits = {}
    for file in listing.files:
        content = known[file.name]
        if content.problem is None:
            label = None if file.label is None else index[file.label]
            splits.setdefault(file.split or "train", []).append(Example(content.key, label, file.name))
    return splits


def _to_judge(root: Path, splits: Splits, leave_out: frozenset[str]) -> tuple[Splits, int]:
    """Everything to judge on as "test", and how many of those the model has seen."""
    nothing = f"{root} has no image with a label that can be read"
    kept, left_out = cutting.to_judge(splits, leave_out, f"images of {root}", nothing)
    return {"test": kept, "unlabelled": splits.get("unlabelled", [])}, left_out


def _about_files(root: Path, known: Mapping[str, contents.Content]) -> Iterator[str]:
    yield from contents.about_unreadable(known, f"images in {root}")
    if animated := [name for name, content in known.items() if content.animated]:
        yield f"{len(animated)} images have several frames (only the first is used): {some(animated)}"
