"""The example of docs/tasks.md, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import microbudget
from microbudget.task import Task
from quick import QUICK
from toy_models import SIZE, linear

pytestmark = pytest.mark.usefixtures("without_plots")

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The names that the page's first code block defines, where the files that the second one names are real."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = (rng.random(90) < 0.25).astype(int)
    pixels = np.clip(rng.normal(120, 40, (90, SIZE, SIZE)) + 8 * labels[:, None, None], 0, 255).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", pixels=pixels, labels=labels)
    brightness = np.outer(np.ones(3 * SIZE * SIZE), [-1, 1]) / SIZE**2
    linear(tmp_path / "model.onnx", brightness, np.array([1.46, -1.46]), labels=("even", "odd"))
    names = {}
    exec(compile(code()[0], PAGE.name, "exec"), names)
    return names


def code():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_is_a_task(example):
    task = example["Arrays"]("digits.npz", ["even", "odd"])
    assert isinstance(task, Task)
    splits = [task.examples(split) for split in ("train", "validation", "test")]
    assert len({e.key for split in splits for e in split}) == sum(map(len, splits)) == 90
    assert task.fingerprint == example["Arrays"]("digits.npz", ["even", "odd"]).fingerprint
    inputs = task.collate(splits[0][:5], {})["pixel_values"]
    assert (inputs.shape, inputs.dtype) == ((5, 3, SIZE, SIZE), np.float32)


def test_its_metric_is_balanced_accuracy_even_in_pieces(example):
    from sklearn.metrics import balanced_accuracy_score

    task = example["Arrays"]("digits.npz", ["even", "odd"])
    examples = task.examples("test")
    outputs = np.random.default_rng(1).normal(size=(len(examples), 2))
    targets = [e.label for e in examples]
    expected = balanced_accuracy_score(targets, outputs.argmax(axis=1))
    pieces = [task.score(outputs[i : i + 7], examples[i : i + 7]) for i in range(0, len(examples), 7)]
    numerator = np.concatenate([piece.numerator for piece in pieces])
    denominator = np.concatenate([piece.denominator for piece in pieces])
    assert numerator.sum() / denominator.sum() == pytest.approx(expected)
    assert task.score(outputs, examples).value == pytest.approx(expected)
    odds = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(task.loss(outputs, examples), -np.log(odds[np.arange(len(targets)), targets]))


def test_measure_takes_it(example, capsys, monkeypatch):
    from sklearn.metrics import balanced_accuracy_score

    quick = microbudget.measure
    monkeypatch.setattr(microbudget, "measure", lambda model, task: quick(model, task, seconds=0.2, threads=1))
    exec(compile(code()[1], PAGE.name, "exec"), example)
    measurement, task = example["measurement"], example["task"]
    examples = task.examples("test")
    predictions = task.collate(examples, {})["pixel_values"].mean(axis=(1, 2, 3)) * 3 > 1.46
    expected = balanced_accuracy_score([e.label for e in examples], predictions)
    assert 0.5 < measurement.quality < 1
    assert measurement.quality == pytest.approx(expected)
    assert measurement.metric == "balanced accuracy"
    assert capsys.readouterr().out == f"balanced accuracy {expected:.3f} of {len(examples)} examples\n"


def test_run_takes_it(example, tmp_path):
    """A task without paths, pixels to prepare or unlabelled examples goes through the whole run."""
    task = example["Arrays"]("digits.npz", ["even", "odd"])
    result = microbudget.run_recipe("model.onnx", "quantize(samples=8)", task, out=tmp_path / "run", durations=QUICK)
    assert result.best.measurement.metric == "balanced accuracy"
    assert (tmp_path / "run" / "best" / "model.onnx").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_kind_of_ones_own_is_judged_by_what_the_task_has(example, tmp_path):
    """Its name is in no folder of `kinds`: the methods and the search space are those of the model's format."""
    task = example["Arrays"]("digits.npz", ["even", "odd"])
    task.kind = "parity"
    recipe = "finetune(epochs=2) > quantize(samples=8)"
    result = microbudget.run_recipe("model.onnx", recipe, task, out=tmp_path / "run", durations=QUICK)
    assert result.best.measurement.task == "parity"
    assert result.best.measurement.metric == "balanced accuracy"
    assert {"precision", "recall", "f1"} <= set(result.best.measurement.extra)
    assert microbudget.load(tmp_path / "run").task == "parity"
    again = microbudget.measure(tmp_path / "run", task, seconds=0.2)
    assert again.quality == result.best.test.quality
