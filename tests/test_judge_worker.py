import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import toy_models
from microbudget.errors import UnsupportedModel, WorkerFailed
from microbudget.judge.memory import of_model
from microbudget.judge.worker import Worker
from microbudget.machine import memory
from microbudget.model import Model, Record

pytestmark = pytest.mark.usefixtures("fresh_workers")

INPUTS = {"x": np.arange(6.0).reshape(2, 3)}


def opened(name: str, **options) -> Worker:
    worker = Worker(opener=f"toy_models:{name}", **options)
    worker.open(Model(toy_models.Path("nowhere.onnx"), "onnx", Record()))
    return worker


def test_answers_are_those_of_the_same_session_in_this_process(tmp_path):
    model = toy_models.random_linear(tmp_path / "a.onnx")
    from microbudget.runtimes import open_session

    inputs = {"pixel_values": np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype("f")}
    with Worker() as worker:
        worker.open(model, threads=1)
        np.testing.assert_allclose(worker.answer(inputs), open_session(model, threads=1).answer(inputs), rtol=1e-6)
        assert worker.runtime.startswith("onnxruntime ")
        assert 0 < worker.load_s < 30


def test_prints_do_not_disturb_the_channel():
    with opened("printing") as worker:
        np.testing.assert_array_equal(worker.answer(INPUTS), INPUTS["x"])


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_killed_worker_names_the_signal():
    with opened("killed") as worker, pytest.raises(WorkerFailed, match=r"asked to answer ended: killed by SIGKILL"):
        worker.answer(INPUTS)


def test_a_crash_tells_status_and_last_words():
    with opened("crashing") as worker, pytest.raises(WorkerFailed, match=r"exit status 7.*the last word"):
        worker.answer(INPUTS)


def test_a_request_after_the_crash_fails_with_the_reason_too():
    with opened("crashing") as worker:
        with pytest.raises(WorkerFailed):
            worker.answer(INPUTS)
        with pytest.raises(WorkerFailed, match="exit status 7"):
            worker.answer(INPUTS)


def test_a_request_whose_reply_was_not_fetched_does_not_confuse_the_next():
    with opened("polite") as worker:
        worker.send("answer", inputs=INPUTS)
        np.testing.assert_array_equal(worker.answer({"x": np.zeros(7)}), np.zeros(7))
        assert worker.alive


def test_an_interrupted_request_ends_the_worker_and_later_ones_say_so(monkeypatch):
    """Ctrl-C while it waits. No real signal: a shell's background ignores it, and it ended test runners."""

    def interrupted(_stream):
        raise KeyboardInterrupt

    with opened("hanging") as worker:
        with monkeypatch.context() as patch:
            patch.setattr("microbudget.machine.child_process.read_frame", interrupted)
            with pytest.raises(KeyboardInterrupt):
                worker.answer(INPUTS)
        assert not worker.alive
        with pytest.raises(WorkerFailed, match="was interrupted"):
            worker.answer(INPUTS)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_worker_that_stands_still_while_inputs_are_sent_is_stopped():
    """More than a pipe holds: nobody reads it, and writing must not wait for ever."""
    with opened("printing") as worker:
        worker.timeout_s = 0.3
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerFailed, match="hung: no answer within 300 ms"):
            worker.answer({"x": np.zeros((1000, 1000))})


def test_a_hung_worker_is_stopped():
    with opened("hanging") as worker:
        worker.timeout_s = 0.1
        with pytest.raises(WorkerFailed, match="hung: no answer within 100 ms"):
            worker.answer(INPUTS)
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)  # it was waited for, too


def test_a_worker_above_its_memory_limit_is_stopped():
    limited = opened("hungry", max_memory_bytes=100_000_000)
    with limited, pytest.raises(WorkerFailed, match="used more than 100 MB of memory"):
        limited.answer(INPUTS)


def test_a_worker_within_its_memory_limit_answers():
    with opened("polite", max_memory_bytes=100_000_000) as worker:
        np.testing.assert_array_equal(worker.answer(INPUTS), INPUTS["x"])


def test_out_of_memory_is_reported():
    with opened("exhausted") as worker, pytest.raises(WorkerFailed, match="MemoryError"):
        worker.answer(INPUTS)


def test_an_exception_comes_back_whole_in_one_line_and_the_worker_lives():
    with opened("failing") as worker:
        with pytest.raises(WorkerFailed, match=r"failed with ValueError: no such thing second line$"):
            worker.answer(INPUTS)
        assert worker.memory().resident_bytes > 0


def test_our_own_errors_come_back_as_they_are(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no onnx")
    with Worker() as worker, pytest.raises(UnsupportedModel, match="cannot open"):
        worker.open(Model(tmp_path / "a.onnx", "onnx", Record()))


def test_a_worker_loads_its_runtime_and_nothing_else(tmp_path):
    toy_models.random_linear(tmp_path / "a.onnx")
    program = """
        import sys, numpy
        from microbudget.judge.child import RequestHandler
        from microbudget.model import Model, Record
        from pathlib import Path
        handler = RequestHandler()
        handler.load_runtime("microbudget.runtimes.onnx.session")
        handler.open("microbudget.runtimes:open_session", Model(Path(sys.argv[1]), "onnx", Record()), None, 1)
        handler.prepare({"pixel_values": numpy.zeros((1, 3, 8, 8), "f")})
        handler.time_block(2, 1)
        heavy = {"torch", "transformers", "onnx", "scipy", "PIL", "rich", "openvino"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "a.onnx")], check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
@pytest.mark.parametrize("name", ["polite", "hanging"])
def test_no_worker_outlives_its_parent(name):
    program = f"""
        import sys, numpy
        sys.path.insert(0, {str(toy_models.Path(__file__).parent)!r})
        from test_judge_worker import opened
        worker = opened({name!r})
        worker.send("answer", inputs={{"x": numpy.zeros(1)}})
        print(worker.pid, flush=True)
        sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    gone = threading.Event()
    for _ in range(500):
        if not _runs(worker):
            return
        gone.wait(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker still runs")


def _runs(pid: int) -> bool:
    try:
        return "Z" not in toy_models.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def test_memory_of_a_process_grows_by_what_it_touches():
    before = memory.read()
    with mmap.mmap(-1, 80_000_000) as held:  # pages of its own: an array may get what others gave back
        held.write(b"1" * 80_000_000)
        after = memory.read()
    assert 70e6 < after.resident_bytes - before.resident_bytes < 120e6
    assert after.peak_bytes >= after.resident_bytes


def test_memory_of_a_process_that_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError):
        memory.read(process.pid)


def test_a_model_weighs_about_its_weights(tmp_path):
    coin = np.random.default_rng(0)
    labels = tuple(str(i) for i in range(50_000))
    wide = toy_models.linear(tmp_path / "a.onnx", coin.normal(size=(192, 50_000)), np.zeros(50_000), labels)
    with Worker() as worker:
        worker.open(wide, threads=1)
        weight = of_model(worker, {"pixel_values": np.zeros((1, 3, 8, 8), "f")})
    assert 192 * 50_000 * 4 < weight.bytes < 6 * 192 * 50_000 * 4  # the file, its parsed copy and packed weights
    assert weight.without_model_bytes > 10e6
