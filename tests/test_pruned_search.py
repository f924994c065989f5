"""What `shrink` tries of pruned photo classifiers, and that the search with them delivers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import CONFIG, write_photos
from microbudget.judge.budget import Budget
from microbudget.kinds.image_classification import schooling, search_space
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods.distill import PATIENT, Distill
from microbudget.methods.finetune import Finetune
from microbudget.progress import Progress
from microbudget.runtimes.loading import load
from microbudget.search.shrink import shrink
from microbudget.task import DataOptions
from microbudget.units import Drop
from quick import QUICK

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def photos_for_pruning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("pruned") / "photos", per_class=30)


def tried(model: Path, photos: Path, tmp_path: Path, first: tuple) -> list[str]:
    space = search_space.SearchSpace(load(model), ImageTask.open(photos, DataOptions(cache=tmp_path)))
    return [recipe.short() for recipe in space.recipes(first)]


def test_pruned_networks_come_last_and_the_one_that_is_taught_after_them(
    resnet: Path, photos_for_pruning: Path, tmp_path: Path
) -> None:
    names = tried(resnet, photos_for_pruning, tmp_path, (Finetune(),))
    pruned = [name for name in names if "prune" in name]
    assert names[-3:] == pruned
    cut = "prune(size='0.5x', samples=32) > export > quantize"
    assert pruned[0] == f"finetune > {cut}"
    assert pruned[1].startswith("resize(pixels=")
    assert pruned[1].endswith(f"> finetune > {cut}")
    assert pruned[2].endswith("finetune > prune(size='0.35x', samples=32) > distill > export > quantize")


def test_a_model_that_knows_the_labels_is_not_trained(resnet: Path, photos_for_pruning: Path, tmp_path: Path) -> None:
    """Its data are then evidence."""
    names = tried(resnet, photos_for_pruning, tmp_path, ())
    assert any("prune" in name for name in names)
    assert not any("distill" in name for name in names)


def test_what_cannot_lose_channels_is_not_pruned(
    resnet: Path, resnet_onnx: Path, photos_for_pruning: Path, tmp_path: Path
) -> None:
    from transformers import BitConfig, BitForImageClassification

    torch.manual_seed(0)
    config = BitConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4, num_labels=3)
    BitForImageClassification(config).save_pretrained(str(tmp_path / "bit"))
    (tmp_path / "bit" / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for model in (tmp_path / "bit", resnet_onnx):
        assert not any("prune" in name for name in tried(model, photos_for_pruning, tmp_path, ()))


def test_shrink_tries_them(
    resnet: Path, photos_for_pruning: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_space, "SCALES", (1.0,))
    monkeypatch.setattr(schooling, "PATIENT", replace(PATIENT, epochs=2))
    log = io.StringIO()
    result = shrink(
        resnet,
        photos_for_pruning,
        Budget(max_drop=Drop(0.9)),
        out=tmp_path / "run",
        durations=QUICK,
        progress=Progress(log),
    )
    rows = {row.recipe: row for row in result.candidates}
    pruned = [row for recipe, row in rows.items() if "prune" in recipe]
    assert len(pruned) == 2, log.getvalue()
    assert all(row.measurement is not None for row in pruned), log.getvalue()
    assert any(Distill.name() in row.recipe for row in pruned)
    assert result.best is not None
    assert "prune" in result.best.recipe, "half and a third of the parameters are the smallest"
