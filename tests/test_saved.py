"""Data sets as the `datasets` library keeps them, for photos, recordings and text; the hub without a network."""

from __future__ import annotations

import datetime
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import CONFIG
from microbudget import cli
from microbudget.data import saved
from microbudget.errors import BadData, ModelNotFound
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.language_modelling.chats import ChatTask
from microbudget.progress import Progress
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, open_data
from quick import QUICK
from test_refused_models import classifier

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")
NAMES = ["rose", "iris", "elm"]
JUDGED = DataOptions(splits=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROBUDGET_CACHE", str(tmp_path / "cache"))


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 40, 200)).save(stream, "PNG")
    return stream.getvalue()


def recording(seed: int) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(seed).normal(0, 0.1, 800), 16_000, format="WAV")
    return stream.getvalue()


def photos(count: int = 12, first: int = 0, label: Any = None) -> Any:
    features = datasets.Features({"picture": datasets.Image(), "kind": label or datasets.ClassLabel(names=NAMES)})
    rows = {
        "picture": [{"bytes": picture(first + index), "path": None} for index in range(count)],
        "kind": [index % 3 for index in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def sounds(count: int = 6) -> Any:
    """Made as a table: `datasets` encodes recordings with torchcodec, which needs ffmpeg's libraries."""
    text, audio = datasets.Value("string"), datasets.Audio()
    features = datasets.Features({"id": text, "audio": audio, "sentence": text})
    rows = {
        "id": [str(index) for index in range(count)],
        "audio": [{"bytes": recording(index), "path": f"{index}.wav"} for index in range(count)],
        "sentence": [f'he said "{index}"\nand\u2028went' for index in range(count)],
    }
    return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.table(rows, schema=features.arrow_schema)))


def in_form(found: Any, form: str, place: Path) -> Any:
    """A data set as an object, a saved folder, a file or a repository's folder."""
    place.mkdir(exist_ok=True)
    if form == "object":
        return found
    if form == "folder":
        found.save_to_disk(str(place / "saved"))
        return place / "saved"
    if form == "arrow":
        found.save_to_disk(str(place / "saved"))
        (arrow,) = (place / "saved").glob("*.arrow")
        return str(arrow.rename(place / "a.arrow"))
    (place / "data").mkdir()
    found.to_parquet(str(place / "data/train-00000-of-00001.parquet"))
    return str(place if form == "repository" else place / "data/train-00000-of-00001.parquet")


FORMS = ["object", "folder", "arrow", "parquet", "repository"]


@pytest.mark.parametrize("form", FORMS)
def test_photos(tmp_path: Path, form: str) -> None:
    data = in_form(photos(), form, tmp_path / "x")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "x").rglob("*")}
    task = open_data(data, "image-classification", JUDGED)
    assert isinstance(task, ImageTask)
    assert task.labels == tuple(NAMES)
    assert len(task.examples("test")) == 12
    by_key = {example.key: example.label for example in task.examples("test")}
    from microbudget.data.contents import content_key

    assert by_key == {content_key(picture(index)): index % 3 for index in range(12)}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "x").rglob("*")} == before
    assert open_data(data, "image-classification", JUDGED).fingerprint == task.fingerprint


@pytest.mark.parametrize("form", ["object", "folder", "parquet"])
def test_recordings(tmp_path: Path, form: str) -> None:
    task: Any = open_data(in_form(sounds(), form, tmp_path / "x"), "transcription", JUDGED)
    assert len(task.examples("test")) == 6
    assert {task.text(example) for example in task.examples("test")} == {
        f'he said "{index}"\nand\u2028went' for index in range(6)
    }
    assert {task.seconds(example) for example in task.examples("test")} == {0.05}


@pytest.mark.parametrize("form", ["object", "folder", "parquet"])
def test_text(tmp_path: Path, form: str) -> None:
    found = datasets.Dataset.from_dict({"url": ["x"] * 40, "text": [f"Line {index} of a text." for index in range(40)]})
    task: Any = open_data(in_form(found, form, tmp_path / "x"), "language-modelling", JUDGED)
    said = "".join(task.text(example) for example in task.examples("test"))
    assert said == "".join(f"Line {index} of a text.\n" for index in range(40))


def test_conversations() -> None:
    messages = [
        [{"role": "user", "content": f"{at}?"}, {"role": "assistant", "content": "Yes.\u2028No."}] for at in range(8)
    ]
    task: Any = open_data(datasets.Dataset.from_dict({"messages": messages}), "language-modelling", JUDGED)
    found = {json.dumps(task.conversation(example)) for example in task.examples("test")}
    assert found == {json.dumps(row) for row in messages}


def test_splits_and_one_of_them(tmp_path: Path) -> None:
    parts = {"train": photos(12), "validation": photos(6, 100), "test": photos(6, 200), "extra": photos(3, 50)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "all"))
    log = io.StringIO()
    task = open_data(tmp_path / "all", "image-classification", DataOptions(progress=Progress(log)))
    assert "warning: extra in" in log.getvalue()
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [12, 6, 6]
    chosen = open_data(saved.Source(tmp_path / "all", "extra"), "image-classification", JUDGED)  # type: ignore[arg-type]
    assert len(chosen.examples("test")) == 3
    with pytest.raises(BadData, match=r"all has .*train.*, not the split 'dev'"):
        open_data(saved.Source(tmp_path / "all", "dev"), "image-classification")  # type: ignore[arg-type]


def test_splits_of_other_names_are_a_choice() -> None:
    parts = datasets.DatasetDict({"easy": photos(3), "hard": photos(3, 9)})
    with pytest.raises(BadData, match="has the splits easy, hard: choose one with --split"):
        open_data(parts, "image-classification")


def test_labels_that_are_texts_and_labels_that_are_missing() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [{"bytes": picture(at), "path": None} for at in range(4)], "label": ["b", "a", None, "a"]}
    task = open_data(datasets.Dataset.from_dict(rows, features=features), "image-classification", JUDGED)
    assert task.labels == ("a", "b")
    assert len(task.examples("unlabelled")) == 1


def test_what_lies_beside_a_path_is_found(tmp_path: Path) -> None:
    """A row may name its file in place of holding it."""
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "b.png").write_bytes(picture(2))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    rows = {"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "label": [0, 1]}
    task = open_data(datasets.Dataset.from_dict(rows, features=features), "image-classification", JUDGED)
    assert task.labels == ("x", "y")


def without_images() -> Any:
    return datasets.Dataset.from_dict({"label": ["a", "b"]})


def without_labels() -> Any:
    return photos().remove_columns("kind")


def of_two_classes() -> Any:
    return photos().add_column("genus", [0] * 12, feature=datasets.ClassLabel(names=["a"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_images, r"has no columns of the type Image, one is needed; it has label \(Value\)"),
        (without_labels, r"has no column of classes, and none called label.*it has picture"),
        (of_two_classes, r"has the columns of classes kind, genus: keep one"),
    ],
)
def test_columns_that_cannot_serve(make: Any, message: str) -> None:
    with pytest.raises(BadData, match=message):
        open_data(make(), "image-classification", JUDGED)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(BadData, match=r"a\.parquet cannot be opened: "):
        open_data(tmp_path / "a.parquet", "image-classification")


def test_the_hub_is_asked_for_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: Any, **options: Any) -> Any:
        asked.append((*names, options["split"]))
        return photos()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert open_data("owner/flowers:small", "image-classification", JUDGED).labels == tuple(NAMES)
    open_data(saved.Source("flowers", "train[:50%]"), "image-classification", JUDGED)  # type: ignore[arg-type]
    assert asked == [("owner/flowers", "small", None), ("flowers", None, "train[:50%]")]


@pytest.mark.parametrize("name", ["photos/flowrs", "./flowers", "~/flowers", "owner/flowers.parquet", "../x"])
def test_a_mistyped_path_is_not_asked_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for data in (name, saved.Source(name, "test")):
        with pytest.raises(
            BadData, match=rf"there is no (folder|folder or file) {re.escape(str(Path(name)))}|{re.escape(name)}"
        ):
            open_data(data, "image-classification")  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound, match=f"there is no folder or file {re.escape(name)}: check the path"):
        load(name)
    with pytest.raises(BadData, match="photos is there, so the hub is not asked"):
        open_data(saved.Source("photos/flowrs", "test"), "image-classification")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "asked"),
    [
        ({"question": "Why?", "answer": "So."}, "Why?"),
        ({"query": "Why?", "response": "So.", "id": "7"}, "Why?"),
        ({"system_prompt": "Be brief.", "question": "Why?", "response": "So."}, "Why?"),
        ({"prompt": "Why?", "answer": "So."}, "Why?"),
        ({"instruction": "Why?", "context": "", "response": "So."}, "Why?"),
    ],
)
def test_columns_of_questions_and_answers_are_conversations(columns: dict[str, str], asked: str) -> None:
    rows = [columns | {list(columns)[-1]: f"So {number}.", "at": datetime.date(2026, 1, 1)} for number in range(9)]
    if "id" in columns:
        rows = [columns | {"response": f"So {number}."} for number in range(9)]
    task = open_data(datasets.Dataset.from_list(rows), "language-modelling", JUDGED)
    assert isinstance(task, ChatTask)
    example = task.examples("test")[0]
    assert task.question(example) == asked
    assert task.conversation(example)[-1]["content"].startswith("So")
    assert (task.conversation(example)[0]["role"] == "system") == ("system_prompt" in columns)


def test_a_question_without_an_answer_is_no_conversation() -> None:
    rows = [{"question": "Why?", "text": "a text of its own " * 40}] * 20
    assert not isinstance(open_data(datasets.Dataset.from_list(rows), "language-modelling", JUDGED), ChatTask)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1: what the library says is passed on."""

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/flowers' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = r"there is no folder or file owner/flowers, and as a data set of the hub .*OfflineModeIsEnabled"
    with pytest.raises(BadData, match=said):
        open_data("owner/flowers", "image-classification")


def test_a_split_is_chosen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier(tmp_path / "net.onnx")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
    config = CONFIG | {"size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    parts = {"train": photos(12), "holdout": photos(6, first=40)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "flowers"))
    command = ["measure", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "flowers"), "--threads", "1", "--json"]
    assert cli.main([*command, "--split", "holdout"], durations=QUICK) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 6
    assert cli.main([*command, "--split", "tset"], durations=QUICK) == 2
    assert "has train, holdout, not the split 'tset'" in capsys.readouterr().err
