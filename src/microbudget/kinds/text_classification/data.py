"""Text classification: labelled texts, or pairs of texts, as a Task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import contents, labelled, saved
from ...data import splits as cutting
from ...data.labelled import Medium
from ...data.splits import Duplicate, Splits
from ...metrics import cross_entropy
from ...runtimes.text.encoding import MAX_LENGTH, TEXT, Texts
from ...task import TO_TRAIN, Columns, DataOptions, Example, Inputs, Scores, Split, Use
from . import sources
from .network import KIND, USUAL_LENGTH
from .sources import Found

MEDIUM = Medium("a text", "texts")
COLUMNS = saved.Columns(None, rows=True)
CHARACTERS = 64  # of a text for each token that a model reads: what follows is cut before it is sent anywhere
BETWEEN = "\0"  # the texts of a pair, in what an example's key is the hash of


def open_task(path: str | Path, options: DataOptions) -> TextTask:
    """The task of a table, a folder of tables or class folders, or a saved data set. Raises BadData."""
    return TextTask.open(saved.folder_of(path, COLUMNS, options.progress), options)


@dataclass(eq=False)
class TextTask:
    """Labelled texts; the metric is accuracy. Made by `TextTask.open`."""

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
    _texts: dict[str, Texts] = field(default_factory=dict, repr=False)  # by key

    @classmethod
    def open(cls, path: Path | str, options: DataOptions = TO_TRAIN) -> TextTask:
        """Read the texts and split them. Warnings go to the progress and are kept in `warnings`. Raises BadData."""
        root = Path(path)
        source = sources.find(root, options.columns or Columns())
        splits, texts = _examples(source)
        distinct, duplicates = cutting.keep_apart(splits)
        warnings = [*source.warnings, *labelled.about_copies(duplicates, MEDIUM)]
        left_out = 0
        if options.splits:
            done = cutting.complete(distinct, options.seed, options.use, options.leave_out)
            warnings += cutting.about_cut(distinct, options.use, options.leave_out, MEDIUM.many)
            trained = options.use == "training"
            warnings += labelled.about_classes(done, source.labels, MEDIUM, trained=trained)
        else:
            nothing = f"{root} has no text with a label"
            kept, left_out = cutting.to_judge(distinct, options.leave_out, f"texts of {root}", nothing)
            done = {"test": kept, "unlabelled": distinct.get("unlabelled", [])}
        for note in source.notes:
            options.progress.say_once(f"data      {note}")
        for warning in warnings:
            options.progress.warn(warning)
        ordered = labelled.in_order(done)
        return cls(
            root=root,
            labels=source.labels,
            fingerprint=labelled.fingerprint(source.labels, ordered),
            seed=options.seed,
            use=options.use,
            warnings=warnings,
            duplicates=tuple(duplicates),
            left_out=left_out,
            _splits=ordered,
            _texts=texts,
        )

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return len(next(iter(self._texts.values()))) > 1

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split ("unlabelled" too), in the order of their keys: any beginning is a random sample."""
        return self._splits.get(split, ())

    def text_of(self, example: Example) -> Texts:
        """The text of an example, or the pair."""
        return self._texts[example.key]

    def collate(self, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> Inputs:
        """{"text": strings (n,) or, of pairs, (n, 2)}. There is one view of a text."""
        most = CHARACTERS * int(preprocessing.get(MAX_LENGTH, USUAL_LENGTH))
        rows = [tuple(part[:most] for part in self.text_of(example)) for example in examples]
        return {TEXT: np.array(rows if self.pairs else [row[0] for row in rows], np.str_)}

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """Accuracy. outputs: logits (n, classes)."""
        right = outputs.argmax(axis=1) == labelled.targets(examples)
        return Scores("accuracy", right.astype(np.float64), np.ones(len(examples)))

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """Cross-entropy of each example in nats, (n,). outputs: logits (n, classes)."""
        return cross_entropy(outputs, labelled.targets(examples))


def _examples(source: sources.Source) -> tuple[Splits, dict[str, Texts]]:
    """The examples by split, and the texts by the examples' keys; what is in no split counts as train."""
    index = {value: place for place, value in enumerate(source.values)}
    splits: Splits = {}
    texts: dict[str, Texts] = {}
    for found in source.found:
        key = _key(found)
        texts[key] = found.texts
        label = None if found.label is None else index[found.label]
        splits.setdefault(found.split or "train", []).append(Example(key, label, found.name))
    return splits, texts


def _key(found: Found) -> str:
    return contents.content_key(BETWEEN.join(found.texts).encode("utf-8", "surrogatepass"))
