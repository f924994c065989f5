"""Students and teachers of image classifiers: what they have seen, what can be named and cut, and bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import onnx
import pytest
import torch

from conftest import COLOURS, CONFIG, PIXELS, write_hf_model, write_onnx_model, write_photos, write_resnet
from microbudget.errors import InvalidOption, LabelsDisagree, UnsafeModel, UnsupportedModel
from microbudget.kind import facet, having
from microbudget.kinds.image_classification import student
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.distill import Distill
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build, build_step, step_fingerprint
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from test_distill import vision_transformer

QUICK = Distill(epochs=1, views=1)
LABELS = tuple(COLOURS)


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    photos = write_photos(tmp_path_factory.mktemp("students") / "photos", per_class=8)
    return Context(ImageTask.open(photos, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
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
        folder = write_resnet(tmp_path / f"hf{outputs}", tuple("abcdefg"[:outputs]))
        teacher = write_onnx_model(folder, tmp_path / f"onnx{outputs}") / "model.onnx"
        proto = onnx.load(str(teacher))
        kept = [entry for entry in proto.metadata_props if "label" not in entry.key]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        onnx.save(proto, str(teacher))
        assert load(teacher).labels is None
        with pytest.raises(LabelsDisagree, match=f"the teacher has {outputs} outputs, the data have 3 labels"):
            build_step(taught, replace(QUICK, teacher=str(teacher)), context, tmp_path / "store")


def efficientnet(coefficient: float = 0.2) -> torch.nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    return EfficientNetForImageClassification(
        EfficientNetConfig(
            image_size=PIXELS, width_coefficient=coefficient, hidden_dim=round(1280 * coefficient),
            depth_coefficient=0.5, id2label=dict(enumerate(LABELS)),
        )
    ).eval()  # fmt: skip


def written(network: torch.nn.Module, folder: Path) -> Model:
    network.save_pretrained(str(folder))  # type: ignore[operator]
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    return load(folder)


def test_a_cut_that_takes_nothing_away_is_refused(taught: Model, tmp_path: Path) -> None:
    """The configuration has words for it that the network does not read."""
    from transformers import FocalNetConfig, FocalNetForImageClassification

    model = written(efficientnet(), tmp_path / "efficient")
    with pytest.raises(UnsupportedModel, match="configuration of efficientnet cannot express fewer blocks: use width"):
        student.cut(model, 0.5, 1.0, LABELS, 0)
    with pytest.raises(UnsupportedModel, match="cannot express fewer blocks"):
        student.cut(model, 0.5, 0.5, LABELS, 0)
    config = FocalNetConfig(image_size=PIXELS, embed_dim=8, depths=[2, 2], focal_levels=[1, 1], focal_windows=[3, 3])
    focal = FocalNetForImageClassification(config)
    with pytest.raises(UnsupportedModel, match="configuration of focalnet cannot express fewer channels: use depth"):
        student.check_cut(focal, 1.0, 0.5)
    student.check_cut(focal, 0.5, 1.0)
    with pytest.raises(InvalidOption, match=r"depth=0\.9 leaves all blocks that the model has"):
        student.cut(taught, 0.9, 1.0, LABELS, 0)


def test_a_narrower_efficientnet_answers(tmp_path: Path) -> None:
    """Its last width stands in the configuration twice."""
    whole = efficientnet()
    cut, _ = student.cut(written(whole, tmp_path / "efficient"), 1.0, 0.5, LABELS, 0)
    assert cut(pixel_values=torch.zeros(2, 3, PIXELS, PIXELS)).logits.shape == (2, 3)
    assert sum(each.numel() for each in cut.parameters()) < 0.6 * sum(each.numel() for each in whole.parameters())


class Recorded(Progress):
    """What was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_named_student_with_a_pickle_is_refused(name: str, taught: Model, context: Context, tmp_path: Path) -> None:
    """It was randomly initialized, as if there were no weights."""
    folder = tmp_path / "old"
    vision_transformer(layers=1).config.save_pretrained(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeModel, match=r"only pytorch_model\.bin: a pickle can run code"):
        build_step(taught, replace(QUICK, student=str(folder / name)), context, tmp_path / "store")


def test_a_named_student_with_other_weights_is_not_drawn(taught: Model, context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    vision_transformer(layers=1).config.save_pretrained(str(folder))
    shutil.copyfile(
        write_onnx_model(write_hf_model(tmp_path / "hf"), tmp_path / "o") / "model.onnx", folder / "model.onnx"
    )
    with pytest.raises(UnsupportedModel, match=r"a student must be a Hugging Face folder, and .* is onnx"):
        build_step(taught, replace(QUICK, student=str(folder)), context, tmp_path / "store")


def test_a_config_alone_brings_its_preprocessing(taught: Model, context: Context, tmp_path: Path) -> None:
    """Beside it: half the size, and part of the hash. That the weights are random is said."""
    folder = tmp_path / "alone"
    vision_transformer(layers=1).config.save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_size": 16}))
    step = replace(QUICK, epochs=0, student=str(folder))
    before = step_fingerprint(taught, step, context)
    (folder / "preprocessor_config.json").write_text(json.dumps({**CONFIG, "size": {"height": 16, "width": 16}}))
    assert step_fingerprint(taught, step, context) != before
    progress = Recorded()
    made = build_step(taught, step, replace(context, progress=progress), tmp_path / "store")
    assert (made.record.preprocessing or {})["size"] == {"height": 16, "width": 16}
    assert any("alone has a config.json without weights: randomly initialized" in line for line in progress.lines)


def test_a_config_with_weights_beside_it_is_their_folder(taught: Model, context: Context, tmp_path: Path) -> None:
    whole = replace(QUICK, epochs=0, student=str(taught.path))
    by_file = replace(whole, student=str(taught.path / "config.json"))
    assert student.fingerprint(str(taught.path / "config.json")) == taught.fingerprint
    progress = Recorded()
    made = build_step(taught, by_file, replace(context, progress=progress), tmp_path / "store")
    theirs = student.load_network(taught.path).state_dict()
    for name, tensor in student.load_network(made.path).state_dict().items():
        torch.testing.assert_close(tensor, theirs[name])
    assert not any("at random" in line for line in progress.lines)


@pytest.mark.parametrize("kind", ["Deit", "Levit"])
def test_a_config_that_does_not_say_which_classifier_is_refused_with_what_to_add(kind: str, tmp_path: Path) -> None:
    import transformers

    getattr(transformers, {"Deit": "DeiTConfig", "Levit": "LevitConfig"}[kind])().save_pretrained(str(tmp_path))
    with pytest.raises(UnsupportedModel, match=r'add "architectures": \["(DeiT|Levit)ForImageClassification"\] to'):
        student.named(str(tmp_path), LABELS, 0)


def test_options_for_transcription_are_refused(taught: Model, context: Context, tmp_path: Path) -> None:
    for options in ({"decoder_layers": 1}, {"encoder_layers": 1}, {"max_wer": 0.5}):
        with pytest.raises(InvalidOption, match=f"distill: {next(iter(options))} is for transcription; an image"):
            build_step(taught, replace(QUICK, **options), context, tmp_path)  # type: ignore[arg-type]


def test_each_option_is_read_by_a_kind() -> None:
    """Whoever adds one has to say which kind reads it."""
    read = [set(facet(kind, "distill").OPTIONS) for kind in having("distill")]
    assert {spec.name for spec in fields(Distill)} == set.union(*read)
    assert set.intersection(*read) == {"epochs", "patience", "learning_rate", "batch_size"}


def test_a_student_that_does_not_take_the_photos_is_reported_before_the_teacher_is_asked(
    taught: Model, context: Context, tmp_path: Path, images_answered: list[int]
) -> None:
    folder = tmp_path / "small"
    config = vision_transformer(layers=1).config
    config.image_size = 16
    config.save_pretrained(str(folder))
    own = replace(context, cache=tmp_path / "cache")
    message = f"does not take photos of {PIXELS} x {PIXELS} pixels .*: write that size as image_size into its config"
    with pytest.raises(InvalidOption, match=message):
        build_step(taught, replace(QUICK, student=str(folder)), own, tmp_path / "store")
    assert not images_answered


def test_a_cut_that_does_not_run_is_reported_before_the_teacher_is_asked(
    context: Context, tmp_path: Path, images_answered: list[int]
) -> None:
    """TextNet's stages read other words of its configuration than the ones that say their widths."""
    from transformers import TextNetConfig, TextNetForImageClassification

    whole = TextNetForImageClassification(TextNetConfig(image_size=PIXELS, id2label=dict(enumerate(LABELS))))
    model = written(whole.eval(), tmp_path / "textnet")
    with pytest.raises(UnsupportedModel, match=r"the student that depth=1 and width=0\.5 leave does not run"):
        build_step(model, replace(QUICK, width=0.5), context, tmp_path / "store")
    assert not images_answered


def test_a_cut_keeps_the_zeros_of_pruned_weights(context: Context, tmp_path: Path) -> None:
    """Narrower and with blocks taken out, so that names move: what it inherits as zero is zero afterwards."""
    network = vision_transformer(layers=5)
    model = build(written(network, tmp_path / "vit"), Recipe.parse("prune(structure='weights')"), context, tmp_path)[-1]
    named = model.record.state["zeros"]
    step = replace(QUICK, epochs=8, patience=8, depth=0.6, width=0.5, learning_rate=3e-3, hard=1.0)
    start = build_step(model, replace(step, epochs=0), context, tmp_path)
    made = build_step(model, step, context, tmp_path)
    zeros = made.record.state["zeros"]
    assert len(zeros) == len([name for name in named if ".layers.1." not in name and ".layers.3." not in name])
    before, after = (student.load_network(each.path).state_dict() for each in (start, made))
    for name in zeros:
        zero = before[name] == 0
        assert 0.2 < zero.float().mean() < 0.8
        assert not after[name][zero].any()
    assert made.record.history["distill"]["kept"]
    assert any(not torch.equal(before[name], after[name]) for name in zeros)


def test_a_named_student_of_other_classes_gets_a_new_head(
    taught: Model, hf_model: Path, context: Context, tmp_path: Path
) -> None:
    """It keeps the rest of its weights, and its labels become the data's."""
    step = replace(QUICK, epochs=0, student=str(hf_model))
    made = build_step(taught, step, context, tmp_path)
    assert made.labels == LABELS
    before, after = (student.load_network(each).state_dict() for each in (hf_model, made.path))
    changed = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert after["classifier.weight"].shape[0] == 3
    again = build_step(taught, step, context, tmp_path / "again")
    assert torch.equal(student.load_network(again.path).classifier.weight, after["classifier.weight"])
