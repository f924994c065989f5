"""A new kind of model is a folder of its own: opened, searched, judged, delivered and reported, no edit elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import microbudget
from microbudget import kinds
from microbudget.kind import names
from microbudget.model import Record
from quick import QUICK
from toy_models import SIZE, linear

pytestmark = pytest.mark.usefixtures("without_plots")

FILES = {
    "__init__": "",
    "network": """
        from microbudget.model import Record
        KIND, ARCHITECTURES, FORMATS, RUNTIMES = "brightness", ("*ForBrightness",), (), {}
        def hf_record(folder, config):
            return Record(task=KIND, source=str(folder))
    """,
    "data": """
        import numpy as np
        from microbudget.data.contents import content_key
        from microbudget.errors import BadData
        from microbudget.metrics import cross_entropy
        from microbudget.task import Example, Scores

        class Brightness:
            kind, labels, fingerprint = "brightness", ("dark", "bright"), "fixed"
            def __init__(self, path):
                if not path.is_file():
                    raise BadData(f"{path} is no .npz file")
                stored = np.load(path)
                self.pixels, self.targets = stored["pixels"], stored["targets"]
            def examples(self, split):
                rows = range({"train": 0, "validation": 1, "test": 2}.get(split, 3), len(self.pixels), 3)
                return [Example(content_key(self.pixels[row].tobytes()), int(self.targets[row]), str(row))
                        for row in rows if split != "unlabelled"]
            def collate(self, examples, preprocessing, view=0):
                return {"pixel_values": self.pixels[[int(example.name) for example in examples]]}
            def score(self, outputs, examples):
                right = outputs.argmax(1) == [example.label for example in examples]
                return Scores("accuracy", right.astype(float), np.ones(len(examples)))
            def loss(self, outputs, examples):
                return cross_entropy(outputs, np.array([example.label for example in examples]))

        def open_task(path, options):
            from pathlib import Path
            return Brightness(Path(path))
    """,
    "search_space": """
        from microbudget.methods.quantize import Quantize
        from microbudget.recipes.recipe import Recipe
        from microbudget.search import space
        from microbudget.units import Drop

        class SearchSpace(space.SearchSpace):
            default_drop = Drop(0.5)
            def recipes(self, first):
                yield Recipe((*first, Quantize(samples=8)))
    """,
}


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kind's folder, where `kinds` finds it."""
    folder = tmp_path / "kinds" / "brightness"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        lines = [line.removeprefix(" " * 8) for line in text.splitlines()]
        (folder / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder.parent)])
    yield "brightness"
    for name in [name for name in sys.modules if name.startswith("microbudget.kinds.brightness")]:
        del sys.modules[name]


def test_a_kind_is_a_folder(brightness: str, tmp_path: Path) -> None:
    assert brightness in names()
    rng = np.random.default_rng(0)
    targets = (rng.random(90) < 0.5).astype(np.int64)
    pixels = (rng.normal(0, 0.3, (90, 3, SIZE, SIZE)) + (targets * 2 - 1)[:, None, None, None]).astype(np.float32)
    np.savez(tmp_path / "data.npz", pixels=pixels, targets=targets)
    folder = tmp_path / "model"
    folder.mkdir()
    weights = np.outer(np.ones(3 * SIZE * SIZE), [-1.0, 1.0])
    linear(folder / "model.onnx", weights, np.zeros(2), labels=("dark", "bright"))
    Record(task=brightness, labels=("dark", "bright")).save(folder)
    result = microbudget.shrink(folder, tmp_path / "data.npz", out=tmp_path / "run", durations=QUICK)
    assert result.met
    assert result.budget.max_drop is not None
    assert result.budget.max_drop.amount == 0.5  # the kind's own default
    assert result.best is not None
    assert result.best.measurement is not None
    assert (result.best.measurement.task, result.best.measurement.quality) == (brightness, 1.0)
    assert (tmp_path / "run" / "best" / "README.md").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    measured = microbudget.measure(tmp_path / "run", tmp_path / "data.npz", seconds=0.2)
    assert (measured.task, measured.quality) == (brightness, 1.0)
