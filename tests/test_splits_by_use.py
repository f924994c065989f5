"""What the recipes of a run learn from the data decides the cut: what nothing learns from is evidence."""

from __future__ import annotations

import io
import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.data.splits import about_cut, complete
from microbudget.errors import BadData, RunMismatch
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.methods import Method
from microbudget.model import Model, Record
from microbudget.progress import Progress
from microbudget.recipes.recipe import Recipe
from microbudget.runs.run import kept_use, open_run
from microbudget.search.examples import about_splits
from microbudget.search.opening import Plan, RunData
from microbudget.search.options import RunOptions
from microbudget.search.space import SearchSpace
from microbudget.task import SPLITS, USES, DataOptions, Example, Task
from test_folders import classes
from toy_seq2seq import write_recordings


def sizes(splits: dict[str, list[Example]]) -> tuple[int, ...]:
    return tuple(len(splits[split]) for split in SPLITS)


@pytest.mark.parametrize(
    ("recipe", "given", "use"),
    [
        ("export(format='ct2')", "hf", "nothing"),
        ("resize(pixels=96) > export()", "hf", "nothing"),
        ("export() > quantize()", "hf", "calibration"),
        ("quantize(samples=2000)", "onnx", "training"),  # more than calibration keeps out of the evidence
        ("export(format='gguf') > quantize(type='Q4_K_M')", "hf", "calibration"),
        ("export(format='gguf') > quantize(type='Q4_K_M', imatrix=False)", "hf", "nothing"),
        ("quantize(bits=8)", "gguf", "nothing"),  # Q8_0 takes no account of an importance matrix
        ("quantize(bits=8, tensors='attn_v=Q6_K')", "gguf", "calibration"),
        ("prune() > export() > quantize()", "hf", "calibration"),
        ("finetune() > export() > quantize()", "hf", "training"),
        ("lora()", "hf", "training"),
        ("distill() > export()", "hf", "training"),
        ("window(seconds=12) > export(format='ct2')", "hf", "nothing"),
        ("window(seconds=12, epochs=5) > export(format='ct2')", "hf", "training"),
        ("trim() > export(format='ct2')", "hf", "training"),
    ],
)
def test_what_a_recipe_learns(recipe: str, given: str, use: str) -> None:
    assert Recipe.parse(recipe).learns_from(given) == use


def test_a_method_that_does_not_say_is_taken_to_train() -> None:
    class Other(Method):
        pass

    assert Other().learns_from("hf") == "training"


def test_36_recordings() -> None:
    recordings = {"train": classes(36)}
    assert sizes(complete(recordings, 0)) == (25, 6, 5)
    assert sizes(complete(recordings, 0, "nothing")) == (0, 14, 22)
    assert sum(sizes(complete(recordings, 0, "calibration"))[1:]) >= 24


def test_260_photos_of_as_many_classes() -> None:
    photos = {"train": classes(*[1] * 200, *[2] * 30)}
    assert sizes(complete(photos, 0))[2] <= 20  # a class with a single photo is trained on
    train, _, test = sizes(complete(photos, 0, "calibration"))
    assert (train, test) == (78, pytest.approx(109, abs=8))
    assert sizes(complete(photos, 0, "nothing"))[2] == pytest.approx(156, abs=8)


def test_large_data_calibrate_with_few_and_are_judged_on_enough() -> None:
    train, *evidence = sizes(complete({"train": classes(2500)}, 0, "calibration"))
    assert (train, sum(evidence)) == (512, 1988)
    assert sizes(complete({"train": classes(2500)}, 0, "calibration", enough=500)) == (1500, 500, 500)
    assert sizes(complete({"train": classes(2500)}, 0, "calibration", enough=100)) == (1750, 375, 375)  # as to train


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8).filter(lambda found: sum(found) >= 12),
    st.sampled_from(USES),
    st.integers(0, 9),
)
def test_a_cut_loses_nothing_and_depends_on_the_contents_alone(counts: list[int], use: str, seed: int) -> None:
    examples = classes(*counts)
    mixed = random.Random(seed).sample(examples, len(examples))
    one, other = (complete({"train": found}, seed, use) for found in (examples, mixed))  # type: ignore[arg-type]
    assert sorted(each.key for split in SPLITS for each in one[split]) == sorted(each.key for each in examples)
    assert {each.key for each in one["test"]} == {each.key for each in other["test"]}


def test_what_the_model_was_made_with_is_no_evidence() -> None:
    examples = classes(50, 50)
    seen = frozenset(each.key for each in examples[20:80])
    for use in ("nothing", "calibration"):
        done = complete({"train": examples}, 0, use, seen)  # type: ignore[arg-type]
        assert sizes(done) == (60, 16, 24)  # which is more than calibration needs
        assert {each.key for each in done["train"]} == seen
    few = complete({"train": examples}, 0, "calibration", frozenset(each.key for each in examples[:10]))
    assert sizes(few) == (30, 28, 42)
    assert complete({"train": examples}, 0, "training", seen) == complete({"train": examples}, 0)
    with pytest.raises(BadData, match="after the 99 that the model was made with"):
        complete({"train": examples}, 0, "nothing", frozenset(each.key for each in examples[1:]))


def test_splits_that_are_given_stay() -> None:
    data = {"train": classes(40), "validation": classes(0, 10), "test": classes(0, 0, 20)}
    for use in USES:
        assert complete(data, 0, use) == data
    (line,) = about_cut(data, "nothing", frozenset(), "images")
    assert "the 40 images of the split train are not used" in line
    assert "1.3 times as much evidence as the 30 others" in line
    assert not list(about_cut(data, "training", frozenset(), "images"))
    assert not list(about_cut({"train": classes(40)}, "nothing", frozenset(), "images"))


def test_without_a_training_the_data_need_no_train_split() -> None:
    assert sizes(complete({"test": classes(20)}, 0, "nothing")) == (0, 8, 12)
    assert sizes(complete({"validation": classes(10), "test": classes(0, 20)}, 0, "nothing")) == (0, 10, 20)
    assert sizes(complete({"validation": classes(10), "test": classes(0, 20)}, 0, "calibration")) == (3, 7, 20)


def test_a_text_keeps_its_passages_to_read_few(tmp_path: Path) -> None:
    words = random.Random(0).choices(string.ascii_lowercase, k=100_000)
    text = tmp_path / "text.txt"
    text.write_text("".join(letter + " " * (place % 7 == 0) for place, letter in enumerate(words)), encoding="utf-8")

    def cut(use: str, stride: int) -> list[int]:
        task = TextTask.open(text, DataOptions(use=use), stride=stride)  # type: ignore[arg-type]
        return [len(task.examples(split)) for split in SPLITS]

    long = cut("training", 100)
    assert cut("calibration", 100) == pytest.approx(long, abs=16)  # more would cost minutes and decide nothing
    short, more = cut("training", 1000), cut("calibration", 1000)
    assert more[2] > 2 * short[2]
    assert cut("nothing", 1000)[0] == 0


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "data", 12)


@pytest.fixture
def given_model(tmp_path: Path) -> Model:
    return Model(tmp_path, "hf", Record(task="transcription", fingerprint="f"))


class TestOpening:
    def opened(self, given: Model, data: Path, out: Path, *recipes: str) -> tuple[Task, str, str]:
        said = io.StringIO()

        def plan(task: Task) -> Plan:
            assert isinstance(task, TranscriptionTask)
            return Plan(SearchSpace(given, task), (), tuple(map(Recipe.parse, recipes)))

        found = RunData(given, data, out, RunOptions(progress=Progress(said))).opened(plan)
        assert found.task is found.plan.space.task
        return found.task, found.use, said.getvalue()

    def test_the_recipes_decide_the_cut(self, given_model: Model, recordings: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        task, use, _ = self.opened(given_model, recordings, out, "export(format='ct2')", "window() > export()")
        assert use == "nothing"
        expected = "recordings 5 to choose by, 7 to test; no recipe learns from the data"
        assert about_splits(task, "nothing") == expected
        task, use, _ = self.opened(given_model, recordings, out, "export(format='ct2')", "trim() > export()")
        assert use == "training"
        assert about_splits(task, "training") == "recordings 8 to train, 2 to choose by, 2 to test"

    def test_warnings_are_said_once(self, given_model: Model, recordings: Path, tmp_path: Path) -> None:
        with (recordings / "metadata.csv").open("a", encoding="utf-8") as stream:
            stream.write("missing.wav,yes\n")
        _, _, said = self.opened(given_model, recordings, tmp_path / "run", "export(format='ct2')")
        assert said.count("missing.wav") == 1

    def test_a_run_goes_on_with_its_cut(self, given_model: Model, recordings: Path, tmp_path: Path) -> None:
        """A recipe that learns less is compared on the same examples; one that learns more needs another folder."""
        trained, judged = tmp_path / "trained", tmp_path / "judged"
        first, use, _ = self.opened(given_model, recordings, trained, "trim() > export()")
        with open_run(trained, given_model, "data", first, 0):
            pass
        second, use, _ = self.opened(given_model, recordings, trained, "export(format='ct2')")
        assert (use, second.fingerprint) == ("training", first.fingerprint)
        with open_run(trained, given_model, "data", second, 0):
            pass

        third, use, _ = self.opened(given_model, recordings, judged, "export(format='ct2')")
        with open_run(judged, given_model, "data", third, 0):
            assert kept_use(judged) == "nothing"
        with (
            pytest.raises(RunMismatch, match=r"learn nothing from the data.*needs more of them to train on.*--out"),
            open_run(judged, given_model, "data", first, 0),
        ):
            pass
        with open_run(judged, given_model, "data", first, 0, force=True):
            assert kept_use(judged) == "training"

    def test_a_run_of_an_earlier_version_has_the_cut_of_a_training(self, tmp_path: Path) -> None:
        assert kept_use(tmp_path) == "nothing"
        (tmp_path / "run.toml").write_text("seed = 0\n", encoding="utf-8")
        assert kept_use(tmp_path) == "training"
