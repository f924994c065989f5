"""Patient distillation: views that are new in each epoch, the same for teacher and student, and their schedule."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import COLOURS, CONFIG, write_photos, write_resnet
from microbudget.errors import BadData, InvalidOption, OutOfTime
from microbudget.images.originals import FINER, Originals, shorter_side
from microbudget.images.preprocess import Preprocessing
from microbudget.images.views import SCALE
from microbudget.kinds.image_classification import distill as images
from microbudget.kinds.image_classification import schooling
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.teacher import DistillationData, Teacher
from microbudget.kinds.image_classification.views import TEACHER_LOGITS, FreshViews
from microbudget.methods import Context
from microbudget.methods.distill import AUTO, FIXED_VIEWS, FRESH, Distill
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from microbudget.training.trial import Trial, timed

LABELS = tuple(COLOURS)
PATIENT = Distill(views=FRESH, epochs=2)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("fresh")
    return Context(ImageTask.open(write_photos(folder / "photos"), DataOptions(cache=folder)), folder, threads=1)


@pytest.fixture(scope="module")
def taught(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_resnet(tmp_path_factory.mktemp("taught") / "resnet")
    return build(load(folder), Recipe.parse("finetune"), context, folder.parent / "store")[-1]


@pytest.fixture(scope="module")
def data(taught: Model, context: Context) -> DistillationData:
    return images.distillation_data(context, taught.record.preprocessing or {})


# Photos


def test_originals_are_as_small_as_the_views_allow(tmp_path: Path) -> None:
    paths = {"wide": tmp_path / "wide.png", "small": tmp_path / "small.png"}
    Image.new("RGB", (400, 200), "red").save(paths["wide"])
    Image.new("RGB", (40, 20), "red").save(paths["small"])
    originals = Originals(paths, largest=32)
    side = shorter_side(32)
    assert originals["wide"].size == (2 * side, side)
    assert originals["small"].size == (40, 20)
    assert side * SCALE[0] ** 0.5 >= FINER * 32, "the smallest crop has more pixels than the view"
    assert originals["wide"] is originals["wide"]


def test_without_room_originals_are_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    originals = Originals({"a": path}, largest=8, kept_bytes=100)
    one, other = originals["a"], originals["a"]
    assert one is not other
    assert one.tobytes() == other.tobytes() == Originals({"a": path}, largest=8)["a"].tobytes()
    path.write_bytes(b"no image")
    with pytest.raises(BadData, match=r"a\.png was whole when the folder was opened"):
        originals["a"]


def test_both_sizes_show_the_same_crop_as_collate(context: Context) -> None:
    """What a small photo's fresh view is, `collate` gives too; a larger input sees the same part of it."""
    task, small = context.task, Preprocessing.parse(CONFIG).resized(8)
    assert isinstance(task, ImageTask)
    examples = task.examples("train")[:4]
    ours, theirs = task.fresh(examples, [CONFIG, small], view=3)
    np.testing.assert_array_equal(ours["pixel_values"], task.collate(examples, CONFIG, 3)["pixel_values"])
    assert theirs["pixel_values"].shape[2:] == (8, 8)
    means = [each["pixel_values"].mean(axis=(2, 3)) for each in (ours, theirs)]
    np.testing.assert_allclose(*means, atol=0.15)
    other = task.fresh(examples, [CONFIG], view=4)[0]["pixel_values"]
    assert not np.array_equal(ours["pixel_values"], other)


# Batches


def test_the_teacher_answers_what_the_student_sees(taught: Model, data: DistillationData) -> None:
    teacher = Teacher.open(taught, LABELS, features=False)
    views = FreshViews(data, teacher, seed=0, threads=1)
    rows = np.arange(11)
    batch = views.batch(rows, 5, taught=True)
    pixels = np.ascontiguousarray(batch["pixel_values"].numpy())
    expected = open_session(taught).answer({"pixel_values": pixels})
    np.testing.assert_allclose(batch[TEACHER_LOGITS].numpy(), expected, rtol=1e-3, atol=1e-4)
    again = FreshViews(data, teacher, seed=0, threads=1).batch(rows, 5, taught=True)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(batch["pixel_values"], views.batch(rows, 6, taught=False)["pixel_values"])


def test_mixed_photos_are_answered_as_they_are_mixed(taught: Model, data: DistillationData) -> None:
    teacher = Teacher.open(taught, LABELS, features=False)
    plain, mixed = (FreshViews(data, teacher, 0, 1, mix).batch(np.arange(6), 0, taught=True) for mix in (0.0, 1.0))
    assert not torch.allclose(plain["pixel_values"], mixed["pixel_values"])
    pixels = np.ascontiguousarray(mixed["pixel_values"].numpy())
    expected = open_session(taught).answer({"pixel_values": pixels})
    np.testing.assert_allclose(mixed[TEACHER_LOGITS].numpy(), expected, rtol=1e-3, atol=1e-4)
    lessons = images.Lessons(data, FreshViews(data, teacher, 0, 1, 1.0), fixed(2))
    labels = images.objective(replace(PATIENT, mix=1.0), lessons, images.Training(), 0).batch(np.arange(6), 0)["label"]
    assert (labels == images.UNLABELLED).all()


def test_a_patient_student_learns(taught: Model, context: Context, tmp_path: Path) -> None:
    made = build_step(taught, Distill(width=0.5, views=FRESH, epochs=12), context, tmp_path)
    history = made.record.history["distill"]
    assert (history["views"], history["temperature"], history["hard"]) == (FRESH, 1.0, 0.0)
    photos = len(context.task.examples("train"))
    assert history["teacher_passes"] == 12 * photos
    assert history["validation"]["accuracy"] > 0.6
    examples = context.task.examples("validation")
    logits = open_session(made).answer(context.task.collate(examples, made.record.preprocessing or {}))
    right = float((logits.argmax(1) == [example.label for example in examples]).mean())
    assert right == pytest.approx(history["validation"]["accuracy"])


def test_features_are_learnt_of_fresh_views_too(taught: Model, context: Context, tmp_path: Path) -> None:
    plain, featured = (
        build_step(taught, replace(PATIENT, width=0.5, features=weight), context, tmp_path / str(weight))
        for weight in (0.0, 1.0)
    )
    losses = [each.record.history["distill"]["epochs"][0]["train_loss"] for each in (plain, featured)]
    assert losses[1] > losses[0]


def test_a_task_without_fresh_views_gives_its_own(taught: Model, data: DistillationData) -> None:
    class Own:
        labels, seed = LABELS, 0
        collate = staticmethod(data.task.collate)

    views = FreshViews(replace(data, task=Own()), Teacher.open(taught, LABELS, features=False), 0, 1)  # type: ignore[arg-type]
    batch = views.batch(np.arange(3), 1, taught=True)
    expected = data.task.collate(data.examples[:3], data.preprocessing, 2)["pixel_values"]
    np.testing.assert_array_equal(batch["pixel_values"].numpy(), expected)


# The schedule


def fixed(views: int) -> schooling.Schooling:
    return schooling.Schooling(views, Distill().learning())


def decided(step: Distill, context: Context, minutes: float | None, epoch_s: float = 1.0) -> schooling.Schooling:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    trial = Trial(step_s=epoch_s / 10, steps=10, validation_s=0.0)
    return schooling.decided(step, network, replace(context, deadline=deadline), lambda: trial)


def test_all_epochs_without_a_limit(context: Context) -> None:
    for views in (FRESH, AUTO):
        found = decided(Distill(views=views), context, None)
        assert (found.views, found.learning.epochs, found.cut) == (FRESH, 90, False)
    assert decided(Distill(views=3), context, None).learning == Distill().learning()


def test_the_epochs_fit_the_minutes(context: Context) -> None:
    found = decided(Distill(views=FRESH), context, 1.0, epoch_s=1.0)
    assert found.cut
    assert found.learning.epochs == pytest.approx(schooling.LEARNING_SHARE * 60, abs=1.01)
    assert decided(Distill(views=FRESH), context, 60.0).learning.epochs == 90
    given = decided(Distill(views=FRESH, epochs=200), context, 1.0)
    assert (given.learning.epochs, given.cut) == (200, False), "what was asked for is not cut"


def test_few_epochs_of_fresh_views_are_not_worth_it(context: Context) -> None:
    assert decided(Distill(views=AUTO), context, 0.5).views == FRESH
    assert decided(Distill(views=AUTO), context, 0.1).views == FIXED_VIEWS
    fitted = decided(Distill(views=AUTO), context, 0.1)
    assert (fitted.learning.epochs, fitted.cut) == (4, True), "as many as fit, and what is learnt by then is kept"
    assert decided(Distill(views=AUTO), context, 0.005).learning.epochs == 1
    assert not decided(Distill(views=AUTO, epochs=100), context, 0.1).cut
    assert decided(Distill(views=AUTO, epochs=10), context, 0.5).views == FRESH
    assert decided(Distill(views=AUTO, epochs=100), context, 0.1).views == FIXED_VIEWS
    with pytest.raises(OutOfTime, match=r"one epoch takes 1\.00 min"):
        decided(Distill(views=FRESH), context, 1.0, epoch_s=60.0)


def test_a_training_that_resumes_keeps_its_schedule(context: Context, tmp_path: Path) -> None:
    own = replace(context, checkpoints=tmp_path)
    before = decided(Distill(views=FRESH), own, 1.0)
    assert decided(Distill(views=FRESH), own, 60.0) == before
    assert decided(Distill(views=FRESH), own, None) == before


def test_networks_without_batch_norm_and_those_that_are_near_learn_carefully() -> None:
    plain, normalized = torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(3))

    def rate(network: torch.nn.Module, distance: float, step: Distill = PATIENT) -> float:
        return schooling.with_views(step, FRESH, network, lambda: distance).learning.learning_rate

    assert [rate(plain, 1.0), rate(normalized, 1.0), rate(normalized, 0.01)] == [1e-3, 3e-3, 1e-3]
    assert rate(normalized, 0.01, replace(PATIENT, learning_rate=0.02)) == 0.02


def test_the_distance_is_a_share_of_a_guess(taught: Model, data: DistillationData) -> None:
    """Of the teacher from itself none; of one that guesses, by the equation."""
    network = images.students.cut(taught, 1.0, 1.0, LABELS, 0)[0]
    batch = FreshViews(data, Teacher.open(taught, LABELS, features=False), 0, 1).batch(np.arange(16), 0, taught=True)
    assert images._distance(network, batch) == pytest.approx(0, abs=1e-4)
    head = images.head_of(network)[1]
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    odds = torch.softmax(batch[TEACHER_LOGITS].double(), 1).numpy()
    expected = np.mean((odds * np.log(odds * 3)).sum(1)) / np.log(3)
    assert images._distance(network, batch) == pytest.approx(expected, rel=1e-3)


def test_the_trial_changes_nothing(taught: Model, data: DistillationData) -> None:
    network = images.students.cut(taught, 1.0, 1.0, LABELS, 0)[0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lessons = images.Lessons(data, FreshViews(data, Teacher.open(taught, LABELS, features=False), 0, 1), fixed(2))
    learner = images._Student(network, 0)
    coin = torch.get_rng_state()
    found = timed(learner, images.objective(PATIENT, lessons, images.Training(), 0), 16)
    assert found.epoch_s > found.steps * found.step_s > 0
    assert torch.equal(torch.get_rng_state(), coin)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views must be 'fresh', 'auto' or 1 to 64, not 0"),
        ({"views": 65}, "views must be"),
        ({"views": "new"}, "views must be"),
        ({"mix": 0.5}, "mix= needs views='fresh'"),
        ({"mix": 0.5, "views": 4}, "mix= needs views='fresh'"),
        ({"mix": -1.0, "views": "fresh"}, "mix must be"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Distill(**options)


def test_a_photo_that_is_damaged_during_the_training_is_named(taught: Model, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=8)
    task = ImageTask.open(photos, DataOptions(cache=tmp_path / "cache"))
    own = Context(task, tmp_path / "cache", threads=1)
    first = task.path_of(task.examples("train")[0])
    shutil.copyfile(first, tmp_path / "kept")
    first.write_bytes(b"no image")
    with pytest.raises(BadData, match=first.name):
        build_step(taught, PATIENT, own, tmp_path / "store")
