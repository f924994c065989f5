"""Students and teachers of image classifiers: what they have seen, what can be named and cut, and bad input."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from conftest import COLOURS, write_hf_model, write_onnx_model, write_photos
from microbudget.build import build, build_step
from microbudget.errors import LabelsDisagree
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.model import Model
from microbudget.recipe import Recipe
from microbudget.tasks.images import ImageTask
from test_distill import write_resnet

QUICK = Distill(epochs=1, views=1)
LABELS = tuple(COLOURS)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    photos = write_photos(tmp_path_factory.mktemp("students") / "photos", per_class=8)
    return Context(ImageTask.open(photos, cache=cache), cache, threads=1)


@pytest.fixture(scope="module")
def taught(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny residual network with a head for the photos."""
    folder = write_resnet(tmp_path_factory.mktemp("taught") / "resnet")
    return build(load(folder), Recipe.parse("finetune(epochs=3)"), context, folder.parent / "store")[-1]


def seen_also(model: Model, key: str, folder: Path) -> Path:
    """A copy of the model that has seen one example more."""
    shutil.copytree(model.path, folder)
    replace(model.record, seen=(*model.record.seen, key), fingerprint=None).save(folder)
    return folder


def test_what_teacher_and_named_student_have_seen_is_no_evidence(
    taught: Model, context: Context, tmp_path: Path
) -> None:
    """Photos that the given model has never met, and that would be measured on otherwise."""
    teacher, named = (str(seen_also(taught, key, tmp_path / key)) for key in ("shown", "known"))
    step = replace(QUICK, epochs=0, teacher=teacher, student=named)
    made = build_step(taught, step, context, tmp_path / "store")
    assert {"shown", "known", *taught.record.seen} <= set(made.record.seen)
    referred = replace(context, reference=load(teacher))
    cut = build_step(taught, replace(QUICK, epochs=0, width=0.5), referred, tmp_path / "store")
    assert "shown" in cut.record.seen
    assert "known" not in cut.record.seen


def test_a_nameless_teacher_of_other_classes_is_refused(context: Context, taught: Model, tmp_path: Path) -> None:
    """Its first outputs are not the data's labels because they come first."""
    for outputs in (2, 7):
        folder = write_hf_model(tmp_path / f"hf{outputs}", tuple("abcdefg"[:outputs]))
        teacher = write_onnx_model(folder, tmp_path / f"onnx{outputs}") / "model.onnx"
        proto = onnx.load(str(teacher))
        kept = [entry for entry in proto.metadata_props if "label" not in entry.key]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        onnx.save(proto, str(teacher))
        assert load(teacher).labels is None
        with pytest.raises(LabelsDisagree, match=f"the teacher has {outputs} outputs, the data have 3 labels"):
            build_step(taught, replace(QUICK, teacher=str(teacher)), context, tmp_path / "store")
