import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import toy_models
from microbudget.errors import BadData, BrokenModel, LabelsDisagree
from microbudget.judge import judging
from microbudget.judge import statistics as stats
from microbudget.judge.judging import judging_of
from microbudget.judge.quality import interval
from microbudget.task import Example, Scores
from toy_task import ToyTask


@pytest.fixture
def task():
    return ToyTask()


def naive(task, weights, bias):
    return task.pixels.reshape(len(task.pixels), -1) @ weights + bias


def test_answers_are_the_models_and_all_chunks_arrive_in_order(tmp_path, task, monkeypatch):
    monkeypatch.setattr(judging, "CHUNK_BYTES", 7 * 3 * 8 * 8 * 4)
    model = toy_models.random_linear(tmp_path / "a.onnx")
    found = judging_of(task).answers(model, task.examples("test"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive(task, *toy_models.parameters(0)), rtol=1e-4, atol=1e-4)
    assert task.collated[1:] == [7] * 5 + [5]


def test_chunks_hold_as_many_examples_as_the_largest_input_allows(tmp_path, task):
    model, many = toy_models.random_linear(tmp_path / "a.onnx"), [*task.examples("test")] * 2
    assert [len(chunk) for chunk in judging_of(task).chunks([model], many)] == [judging.LARGEST_CHUNK, 16]
    photos = np.zeros((1, 3, 224, 224), "f")
    task.collate = lambda examples, preprocessing: {"pixel_values": photos}
    assert len(judging_of(task).chunks([model], task.examples("test"))[0]) == 4
    photos = np.zeros((1, 3, 2240, 2240), "f")
    assert len(judging_of(task).chunks([model], task.examples("test"))[0]) == 1


def test_quality_is_accuracy_with_wilsons_interval_and_a_confusion_matrix(tmp_path, task):
    judged = judging_of(task).quality(toy_models.random_linear(tmp_path / "a.onnx"), task.examples("test"))
    predicted = naive(task, *toy_models.parameters(0)).argmax(axis=1)
    assert judged.scores.value == np.mean(predicted == task.targets)
    assert (judged.low, judged.high) == stats.wilson(int((predicted == task.targets).sum()), 40)
    confusion = np.array(judged.extra["confusion"])
    assert confusion[1, 2] == ((task.targets == 1) & (predicted == 2)).sum()
    assert confusion.sum() == 40


def test_labels_in_another_order_are_mapped_by_name(tmp_path, task):
    weights, bias = toy_models.parameters(0)
    order = [2, 0, 1]
    names = tuple(toy_models.CLASSES[i] for i in order)
    turned = toy_models.linear(tmp_path / "b.onnx", weights[:, order], bias[order], names)
    np.testing.assert_allclose(
        judging_of(task).answers(turned, task.examples("test")), naive(task, weights, bias), rtol=1e-4, atol=1e-4
    )


def test_a_model_with_more_labels_is_read_at_those_of_the_data(tmp_path, task):
    weights, bias = toy_models.parameters(0)
    wide = np.concatenate([np.full((192, 2), 9.0), weights], axis=1)
    names = ("dog", "eel", *toy_models.CLASSES)
    model = toy_models.linear(tmp_path / "c.onnx", wide, np.concatenate([[9, 9], bias]), names)
    found = judging_of(task).answers(model, task.examples("test"))
    assert found.shape[1] == 5, "a class that the data do not have can be answered too"
    np.testing.assert_allclose(found[:, :3], naive(task, weights, bias), rtol=1e-4, atol=1e-4)


def test_labels_that_the_model_does_not_know_are_refused_with_advice(tmp_path):
    task = ToyTask(labels=("ant", "bee", "cat", "zebu"))
    model = toy_models.random_linear(tmp_path / "a.onnx")
    with pytest.raises(LabelsDisagree, match=r"'zebu'.*finetune"):
        judging_of(task).answers(model, task.examples("test"))


def test_a_model_without_names_must_have_as_many_outputs(tmp_path, task):
    weights, bias = toy_models.parameters(0)
    same = toy_models.linear(tmp_path / "a.onnx", weights, bias, None)
    assert judging_of(task).answers(same, task.examples("test")).shape == (40, 3)
    more = toy_models.linear(tmp_path / "b.onnx", np.ones((192, 5)), np.ones(5), None)
    with pytest.raises(LabelsDisagree, match="5 outputs; the data have 3"):
        judging_of(task).answers(more, task.examples("test"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_make_a_broken_model(tmp_path, task, value):
    weights, bias = toy_models.parameters(0)
    model = toy_models.linear(tmp_path / "a.onnx", weights, np.full_like(bias, value))
    with pytest.raises(BrokenModel, match="40 of 40 examples with NaN or infinity"):
        judging_of(task).answers(model, task.examples("test"))


def test_the_same_answer_to_everything_is_a_broken_model(tmp_path, task):
    model = toy_models.linear(tmp_path / "a.onnx", np.zeros((192, 3)), np.arange(3.0))
    with pytest.raises(BrokenModel, match="the same answer to all 40 examples"):
        judging_of(task).quality(model, task.examples("test"))


def test_more_outputs_than_names_make_a_broken_model(tmp_path, task):
    model = toy_models.linear(tmp_path / "a.onnx", np.ones((192, 4)), np.ones(4), toy_models.CLASSES)
    with pytest.raises(BrokenModel, match="names 3 labels but has 4 outputs"):
        judging_of(task).answers(model, task.examples("test"))


def shaped(path, target):
    """A model that reshapes its input to `target` whatever the batch."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["pixel_values", "shape"], ["y"])],
        "shaped",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(target, np.int64), "shape")],
    )
    return toy_models.save(path, graph)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ([1, -1], "names 3 labels but has 192 outputs"),  # its batch is fixed: it is asked for one at a time
        ([-1, 64], r"answers 40 examples with an output of shape \("),
    ],
)
def test_a_wrong_number_of_rows_makes_a_broken_model(tmp_path, task, target, reason):
    with pytest.raises(BrokenModel, match=reason):
        judging_of(task).answers(shaped(tmp_path / "a.onnx", target), task.examples("test"))


def test_a_picture_as_output_makes_a_broken_model(tmp_path, task):
    with pytest.raises(BrokenModel, match="a classifier gives"):
        judging_of(task).answers(shaped(tmp_path / "a.onnx", [0, 0, 0, 0]), task.examples("test"))


def test_no_examples_are_refused(tmp_path, task):
    with pytest.raises(BadData, match="no example"):
        judging_of(task).answers(toy_models.random_linear(tmp_path / "a.onnx"), [])


def test_the_interval_of_a_ratio_of_sums_contains_it_and_narrows():
    coin = np.random.default_rng(0)

    def scores(n):
        words = coin.integers(3, 10, n).astype(float)
        return Scores("wer", coin.binomial(words.astype(int), 0.2).astype(float), words, higher_is_better=False)

    few, many = scores(30), scores(3000)
    for case in (few, many):
        low, high = interval(case)
        assert low < case.value < high
    assert np.diff(interval(many)) < np.diff(interval(few)) / 5


class ManyTask(ToyTask):
    """Thousands of pictures that are drawn when they are asked for."""

    def __init__(self, count):
        super().__init__(1, labels=tuple(map(str, range(200))))
        self.many = [Example(str(i), i % 200, str(i)) for i in range(count)]

    def collate(self, examples, preprocessing, view=0):
        coin = np.random.default_rng(int(examples[0].key))
        return {"pixel_values": coin.normal(size=(len(examples), 3, 8, 8)).astype("f")}


def test_memory_does_not_grow_with_the_examples(tmp_path):
    def peak(count):
        task = ManyTask(count)
        tracemalloc.start()
        judging_of(task).quality(model, task.many)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    coin = np.random.default_rng(0)
    model = toy_models.linear(
        tmp_path / "a.onnx", coin.normal(size=(192, 200)), np.zeros(200), tuple(map(str, range(200)))
    )
    peak(64)  # imports
    outputs_bytes = (4096 - 512) * 200 * 4
    assert peak(4096) - peak(512) < outputs_bytes / 5


def test_a_confusion_matrix_of_many_classes_is_left_out(tmp_path):
    names = tuple(map(str, range(200)))
    coin = np.random.default_rng(0)
    model = toy_models.linear(tmp_path / "a.onnx", coin.normal(size=(192, 200)), np.zeros(200), names)
    assert set(judging_of(ManyTask(10)).quality(model, ManyTask(10).many).extra) == {"precision", "recall", "f1"}
