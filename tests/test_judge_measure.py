import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import microbudget
import toy_models
from conftest import CONFIG
from microbudget.errors import BrokenModel, InvalidOption, LabelsDisagree, WorkerFailed
from microbudget.judge import compare, measure, measuring
from microbudget.judge.ceilings import Ceilings
from microbudget.judge.measuring import choose_threads, open_task
from microbudget.judge.options import MeasureOptions
from microbudget.judge.worker import Worker
from microbudget.units import Drop
from toy_task import ToyTask
from toy_timing import Simulated

DESIGN = {
    *("model", "format", "runtime", "task", "examples", "examples_left_out", "metric", "quality", "quality_low"),
    *("quality_high", "extra", "size_bytes", "parameters", "bits_per_weight", "latency_s", "latency_low_s"),
    *("latency_high_s", "throughput_per_s", "load_s", "threads", "memory_bytes", "energy_j", "energy_source"),
    *("machine", "not_measured"),
}


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch):
    limits = Ceilings(1, {"float32": 1e11, "int8": 4e11}, ((2**21, 1e11),))
    monkeypatch.setattr("microbudget.judge.roofline.ceilings", lambda threads: limits)


@pytest.fixture
def task():
    return ToyTask()


@pytest.fixture
def model(tmp_path):
    return toy_models.random_linear(tmp_path / "a.onnx")


@pytest.mark.usefixtures("fresh_workers")
def test_a_measurement_has_the_fields_of_the_design(model, task):
    found = measure(model, task, threads=1, seconds=0.2, ledger=True, batches=[4])
    row = json.loads(json.dumps(found.as_dict()))
    assert set(row) == DESIGN
    assert row["format"] == "onnx"
    assert row["runtime"].startswith("onnxruntime ")
    assert row["examples"] == 40
    assert row["quality_low"] < row["quality"] < row["quality_high"]
    assert row["size_bytes"] == model.size_bytes
    assert row["parameters"] == 192 * 3 + 3
    assert row["latency_low_s"] <= row["latency_s"] <= row["latency_high_s"]
    assert row["memory_bytes"] > 0
    assert row["energy_j"] > 0
    assert row["machine"]["cores"] >= 1
    assert row["not_measured"] == []
    extra = row["extra"]
    assert {"precision", "recall", "f1", "confusion", "labels", "preprocessing_s", "memory", "energy"} <= set(extra)
    assert extra["ledger"]["size_bytes"] == model.size_bytes
    assert extra["floor"]["multiply_adds_total"] == 192 * 3
    assert extra["batches"][0]["batch"] == 4


def test_quality_of_a_run_is_the_same_again(model, task):
    first, second = (measure(model, task, threads=1, seconds=0) for _ in range(2))
    assert (first.quality, first.extra["confusion"]) == (second.quality, second.extra["confusion"])


def test_a_broken_model_and_foreign_labels_are_refused(tmp_path, task):
    weights, bias = toy_models.parameters()
    with pytest.raises(BrokenModel, match="NaN"):
        measure(toy_models.linear(tmp_path / "nan.onnx", weights * np.nan, bias), task, seconds=0)
    with pytest.raises(LabelsDisagree):
        measure(toy_models.linear(tmp_path / "b.onnx", weights, bias, ("x", "y", "z")), task, seconds=0)


@pytest.mark.usefixtures("fresh_workers")
def test_a_model_above_its_memory_limit_is_stopped(tmp_path, task):
    labels = (*toy_models.CLASSES, *map(str, range(50_000)))
    wide = toy_models.linear(tmp_path / "w.onnx", np.ones((192, len(labels))), np.zeros(len(labels)), labels)
    with pytest.raises(WorkerFailed, match=r"used more than 20\.0 MB of memory, stopped"):
        measure(wide, task, threads=1, seconds=0, max_memory_bytes=20_000_000)


@pytest.mark.parametrize("threads", [-1, -5])
def test_threads_below_zero_are_refused(model, task, threads):
    with pytest.raises(InvalidOption, match="threads"):
        measure(model, task, threads=threads)


def test_threads(model, task, monkeypatch):
    sample = {"pixel_values": task.pixels[:1]}
    monkeypatch.setattr(measuring.machine, "cores", lambda: 7)
    assert choose_threads(model, sample, MeasureOptions()) == 7
    assert choose_threads(model, sample, MeasureOptions(threads=0)) == 7
    assert choose_threads(model, sample, MeasureOptions(threads=3)) == 3
    monkeypatch.setattr(measuring.machine, "cores", lambda: 2)
    monkeypatch.setattr(measuring, "AUTO_S", 0.2)
    assert choose_threads(model, sample, MeasureOptions(threads="auto")) in (1, 2)


def test_a_batch_below_one_is_refused(model, task):
    with pytest.raises(InvalidOption, match="batch"):
        measure(model, task, threads=1, seconds=0, batches=[0])


def colours(path):
    """A model that tells the plain colours of the `photos` apart by their mean."""
    means = np.array([[40, 60, 200], [50, 180, 60], [200, 50, 40]]) / 127.5 - 1
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "W", "b"], ["logits"], transB=1),
        ],
        "colours",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(means.astype("f"), "W"),
            numpy_helper.from_array((-(means**2).sum(axis=1) / 2).astype("f"), "b"),
        ],
    )
    return toy_models.save(path, graph, ("blue", "green", "red"), CONFIG)


def test_a_folder_of_photos_without_those_that_a_model_has_seen(tmp_path, photos):
    model = colours(tmp_path / "a.onnx")
    whole = measure(str(model.path), str(photos), threads=1, seconds=0)
    assert (whole.examples, whole.examples_left_out) == (60, 0)
    assert whole.quality > 0.9
    assert whole.extra["preprocessing_s"] > 0
    keys = [example.key for example in open_task(photos, [model]).examples("test")]
    taught = model.with_record(seen=tuple(keys[:10]))
    rest = measure(taught, photos, threads=1, seconds=0)
    assert (rest.examples, rest.examples_left_out) == (50, 10)
    (tmp_path / "best").mkdir()
    model.with_record(source="start.onnx").record.save(tmp_path / "best")
    model.path.rename(tmp_path / "best" / "model.onnx")
    both = compare(str(tmp_path / "best"), replace(taught, path=tmp_path / "best"), photos, threads=1, seconds=0)
    assert both.a.examples == both.b.examples == 50
    assert both.a.model == str(tmp_path / "best"), "a run's model, and not what the run began with"


def test_a_task_is_taken_as_it_is(task):
    assert open_task(task, []) is task


def test_a_model_against_itself_shows_no_difference(model, task, monkeypatch):
    clocks = {}  # of each worker; their times are simulated, since those of a loaded machine may differ

    def time_block(worker, calls, dropped, place=None):
        clock = clocks.setdefault(worker, Simulated(1e-3, seed=len(clocks)))
        return clock.time_block(calls, dropped, place)

    monkeypatch.setattr(Worker, "time_block", time_block)
    found = compare(model, model, task, threads=1, seconds=1, max_drop=Drop(0.1))
    assert len(clocks) >= 2
    assert found.speed_verdict == "no difference shown"
    row = json.loads(json.dumps(found.as_dict()))
    assert list(row) == [
        *("a", "b", "size_ratio", "speedup", "speedup_low", "speedup_high", "speed_verdict", "quality_change"),
        *("quality_change_low", "quality_change_high", "verdict", "extra"),
    ]
    assert row["size_ratio"] == 1
    assert row["quality_change"] == 0
    assert row["verdict"] == "within"
    assert row["extra"]["kl"] == 0
    assert row["extra"]["same_top1"] == 1
    assert row["a"]["quality"] == row["b"]["quality"]


def test_another_model_is_compared_in_pairs(tmp_path, model, task):
    other = toy_models.random_linear(tmp_path / "b.onnx", seed=5)
    found = compare(model, other, task, threads=1, seconds=0)
    assert found.verdict is None
    assert found.quality_change == pytest.approx(found.b.quality - found.a.quality)
    assert found.quality_change_low <= found.quality_change <= found.quality_change_high < 0
    assert found.extra["kl"] > 0
    assert 0 < found.extra["same_top1"] < 1


def test_unlabelled_examples_help_to_prove(model):
    def decided(unlabelled):
        task = ToyTask(unlabelled=unlabelled)
        return compare(model, model, task, threads=1, seconds=0, max_drop=Drop(0.05))

    assert decided(0).verdict == "not shown"
    assert decided(40).verdict == "within"


def test_measuring_needs_no_torch(tmp_path):
    program = """
        import sys
        from toy_models import Path, random_linear
        from toy_task import ToyTask
        from microbudget import measure
        sys.modules["torch"] = sys.modules["transformers"] = sys.modules["matplotlib"] = None
        measure(random_linear(Path(sys.argv[1])), ToyTask(), threads=1, seconds=0)
        assert sys.modules["torch"] is None
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "a.onnx")]
    environment = {**os.environ, "MICROBUDGET_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, check=True, cwd=toy_models.Path(__file__).parent, env=environment)


def test_the_public_functions_are_the_judges():
    assert microbudget.measure is measure
    assert microbudget.compare is compare
