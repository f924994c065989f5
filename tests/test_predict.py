"""`predict`: what a model answers to photos, texts and prompts, from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import write_hf_model, write_onnx_model
from microbudget import cli
from microbudget.data.splitting import walk
from microbudget.judge.judging import judging_of
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.metrics import softmax
from microbudget.runtimes.loading import load
from microbudget.runtimes.prediction import classified
from microbudget.task import DataOptions
from toy_texts import answers, rows, write_classifier


def predicted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, object]]:
    assert cli.main(["predict", *map(str, arguments), "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_labels_come_with_their_probabilities_the_most_likely_first() -> None:
    (one,) = classified(["a"], np.log([[0.2, 0.7, 0.1]]), ("x", "y", "z"))
    assert (one.answer, list(one.probabilities)) == ("y", ["y", "x", "z"])
    assert list(one.probabilities.values()) == pytest.approx([0.7, 0.2, 0.1])
    (unnamed,) = classified(["a"], np.zeros((1, 2)), None)
    assert unnamed.answer == "class 0"


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_photos_are_answered_as_when_they_are_judged(
    format: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ImageTask.open(photos, DataOptions(splits=False, cache=tmp_path / "cache"))
    model = write_hf_model(tmp_path / "hf", labels=task.labels)
    if format == "onnx":
        model = write_onnx_model(model, tmp_path / "onnx")
    examples = task.examples("test")[:40]  # more than are answered at once
    paths = [task.path_of(example) for example in examples]
    judged = softmax(judging_of(task).answers(load(model), examples))
    found = predicted(capsys, model, *paths)
    assert [row["input"] for row in found] == list(map(str, paths))
    for row, shares in zip(found, judged, strict=True):
        assert row["answer"] == task.labels[int(shares.argmax())]
        own = [row["probabilities"][label] for label in task.labels]  # type: ignore[index]
        assert own == pytest.approx(list(shares), abs=1e-5)


def test_texts_are_answered_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, texts = write_classifier(tmp_path / "m"), [text for text, _ in rows(70)]
    found = predicted(capsys, model, *texts)
    logits = answers(load(model), texts)
    assert [row["answer"] for row in found] == [("neg", "pos")[place] for place in logits.argmax(1)]
    assert cli.main(["predict", str(model), " "]) == 2
    assert "text 1 of 1 is empty" in capsys.readouterr().err


def test_a_folder_leaves_out_what_is_no_photo(
    onnx_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    photo = next(path for path in walk(photos) if path.suffix == ".png")
    (tmp_path / "mine" / "b.png").write_bytes(photo.read_bytes())
    (tmp_path / "mine" / "a.png").write_bytes(b"no photo")
    assert cli.main(["predict", str(onnx_model), str(tmp_path / "mine"), "--top", "2"]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert line.startswith(f"{tmp_path / 'mine' / 'b.png'}: ")
    assert line.count("%") == 2
    assert "a.png: it is not an image (left out)" in printed.err


@pytest.mark.parametrize(
    ("content", "said"), [(b"no photo", "it is not an image"), (None, "there is no file or folder")]
)
def test_a_photo_that_is_named_must_be_one(
    onnx_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["predict", str(onnx_model), str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_photos_is_refused(
    onnx_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(onnx_model), str(tmp_path)]) == 2
    assert "holds no photos" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"no photo")
    assert cli.main(["predict", str(onnx_model), str(tmp_path)]) == 2
    assert "none of the 1 photos could be read" in capsys.readouterr().err


def test_prompts_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From arguments, a file with one a line, and stdin."""
    from toy_pair import write_pair

    model = write_pair(tmp_path / "pair").hf
    (tmp_path / "prompts.txt").write_text("one two\n\nthree\n", encoding="utf-8")
    found = predicted(capsys, model, "a prompt", tmp_path / "prompts.txt")
    assert [row["input"] for row in found] == ["a prompt", "one two", "three"]
    assert all(isinstance(row["answer"], str) for row in found)
    monkeypatch.setattr("sys.stdin", io.StringIO("from stdin\n"))
    assert [row["input"] for row in predicted(capsys, model, "-")] == ["from stdin"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert cli.main(["predict", str(model), "-"]) == 2
    assert "the input is empty" in capsys.readouterr().err
    assert cli.main(["predict", str(model), " "]) == 2
    assert "prompt 1 of 1 is empty" in capsys.readouterr().err
