import contextlib
import json
import math
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import toy_models
from microbudget.errors import Failed
from microbudget.judge import busy
from microbudget.judge.timing import OPENING_SD, BlockPairs, pair_timing, plan, time_one, time_pair
from microbudget.judge.worker import Worker
from microbudget.machine import placement
from microbudget.machine.stopwatch import Block
from toy_timing import Simulated

pytestmark = pytest.mark.usefixtures("fresh_workers")

INPUTS = {"pixel_values": np.zeros((1, 3, 8, 8), "f")}


def test_a_true_ratio_lies_in_the_interval_and_is_called():
    pairs = [time_pair(Simulated(2e-3, seed=i), Simulated(1e-3, seed=100 + i), INPUTS, seconds=10) for i in range(30)]
    assert sum(pair.low <= 2 <= pair.high for pair in pairs) >= 25
    assert {pair.verdict for pair in pairs} == {"faster"}
    widest = 2 * 2 * math.hypot(0.011, 1.96 * OPENING_SD)
    assert all(pair.settled and pair.high - pair.low < widest for pair in pairs)
    assert time_pair(Simulated(1e-3, seed=1), Simulated(2e-3, seed=2), INPUTS, seconds=10).verdict == "slower"


def test_equal_twins_are_not_distinguished():
    verdicts = {
        time_pair(Simulated(1e-3, seed=seed), Simulated(1e-3, seed=1000 + seed), INPUTS, seconds=10, seed=seed).verdict
        for seed in range(20)
    }
    assert verdicts == {"no difference shown"}


def test_a_difference_below_the_resolution_is_not_called_however_narrow_the_interval():
    pair = Openings(ratio=1 / 1.005, noise=1e-6).time(10)
    assert pair.openings > 1
    assert pair.high < 1
    assert pair.verdict == "no difference shown"


def test_noise_that_hides_a_difference_is_reported_as_such():
    pair = time_pair(Simulated(1e-3, 0.5, 5), Simulated(1.05e-3, 0.5, 6), INPUTS, seconds=0.05)
    assert pair.low < 1 < pair.high
    assert pair.verdict == "no difference shown"
    assert not pair.settled


def test_weather_that_hits_both_alike_cancels():
    weather = np.random.default_rng(0).choice([1.0, 3.0], 2000)

    class Outdoors(Simulated):
        def time_block(self, calls, dropped, place=None):
            block = super().time_block(calls, dropped, place)
            return Block((block.durations_ns * weather[self.blocks]).astype(int), block.processor_ns, 4)

    pair = time_pair(Outdoors(1.1e-3, 0.02, 1), Outdoors(1e-3, 0.02, 2), INPUTS, seconds=10)
    assert pair.low < 1.1 < pair.high
    assert pair.verdict == "faster"


def bursts(block):
    """Another program has the processor in stretches of twenty blocks, and makes every call ten times as long."""
    return 10.0 if block // 20 % 2 else 1.0


def test_what_another_program_disturbs_is_left_out_where_enough_is_left():
    """It makes the reference ten times as slow and leaves the candidate alone: the ratio of all blocks is nonsense."""
    a, b = Simulated(2e-3, 0.02, seed=1, hog=bursts), Simulated(1e-3, 0.02, seed=2)
    pair = time_pair(a, b, INPUTS, seconds=10)
    assert pair.low < 2 < pair.high
    assert pair.high / pair.low < 1.05
    assert pair.dropped[busy.REASON] > 10
    assert not pair.busy
    assert pair.waited == 0


def test_a_machine_that_is_busy_all_the_time_is_a_mark_on_what_was_measured():
    a, b = Simulated(2e-3, seed=1, hog=lambda block: 4.0), Simulated(1e-3, seed=2, hog=lambda block: 2.0)
    pair = time_pair(a, b, INPUTS, seconds=0.05)
    assert pair.busy == "other programs had the processor for 75% of the time"
    assert pair.waited == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert not pair.dropped
    assert 3.5 < pair.ratio < 4.5
    alone = time_one(Simulated(2e-3, hog=lambda block: 4.0), INPUTS, seconds=0.05)
    assert "75%" in alone.busy
    assert alone.median_s == pytest.approx(8e-3, rel=0.1)


def test_one_model_alone_is_timed_where_no_other_program_disturbs_it():
    timing = time_one(Simulated(2e-3, 0.02, hog=bursts), INPUTS, seconds=5)
    assert timing.low_s < 2e-3 < timing.high_s
    assert timing.dropped[busy.REASON] > 10
    assert not timing.busy


def test_where_no_system_says_who_waits_the_spread_of_the_times_does():
    class Unknown(Simulated):
        def time_block(self, calls, dropped, place=None):
            return replace(super().time_block(calls, dropped, place), waited=None)

    assert "spread over" in time_one(Unknown(2e-3, hog=bursts), INPUTS, seconds=0.2).busy
    assert not time_one(Unknown(2e-3), INPUTS, seconds=0.2).busy


def test_the_latencies_of_a_pair_have_its_ratio():
    for seed in range(20):
        weather = np.random.default_rng(seed).choice([1.0, 3.0], 3000)
        a = Simulated(2e-3, 0.3, seed=seed, hog=lambda block, times=weather: times[block])
        pair = time_pair(a, Simulated(1e-3, 0.3, seed=100 + seed), INPUTS, seconds=0.02)
        assert pair.reference.median_s / pair.candidate.median_s == pytest.approx(pair.ratio)
        assert pair.reference.median_s / pair.candidate.low_s == pytest.approx(pair.high)
        assert pair.reference.median_s / pair.candidate.high_s == pytest.approx(pair.low)


class Openings:
    """Opens two simulated workers again and again; `effect` is what an opening adds to the log of a call's time."""

    def __init__(self, ratio=1.0, effect=0.0, open_s=0.01, call_s=1e-3, seed=0, noise=0.02):
        self.ratio, self.effect, self.open_s, self.call_s, self.noise = ratio, effect, open_s, call_s, noise
        self.coin, self.made, self.open_now = np.random.default_rng(seed), [], 0

    def worker(self, call_s):
        factor = np.exp(self.effect * self.coin.normal())
        made = Simulated(call_s * factor, self.noise, seed=int(self.coin.integers(2**32)))
        made.open_s = self.open_s
        self.made.append(made)
        return made

    @contextlib.contextmanager
    def __call__(self):
        self.open_now += 1
        try:
            yield self.worker(self.ratio * self.call_s), self.worker(self.call_s)
        finally:
            self.open_now -= 1

    def time(self, seconds=1.0, **options):
        with self() as (a, b):
            return time_pair(a, b, INPUTS, seconds=seconds, again=self, **options)


def test_what_an_opening_of_the_processes_brings_is_in_the_interval():
    """Processes differ by 5 % for life, their blocks by 2 %: one opening is sure of what the next denies."""
    found = [Openings(effect=0.05, seed=seed).time(5) for seed in range(40)]
    assert np.mean([pair.low <= 1 <= pair.high for pair in found]) >= 0.85
    assert {pair.openings for pair in found} == {8}
    alone = []
    for seed in range(40):
        with Openings(effect=0.05, seed=seed)() as (a, b):
            alone.append(time_pair(a, b, INPUTS, seconds=5))
    assert np.mean([pair.low <= 1 <= pair.high for pair in alone]) < 0.5
    assert {pair.openings for pair in alone} == {1}


def test_the_interval_of_one_opening_holds_what_openings_usually_vary_by():
    """Runs agree with each other: each knows its own opening to 0.2 %, and openings differ by 0.9 %."""
    covered = []
    for seed in range(60):
        with Openings(effect=OPENING_SD / math.sqrt(2), seed=seed, noise=1e-3)() as (a, b):
            pair = time_pair(a, b, INPUTS, seconds=5)
        covered.append(pair.low <= 1 <= pair.high)
    assert np.mean(covered) >= 0.9


def test_each_opening_is_closed_before_the_next_and_takes_its_share():
    openings = Openings(effect=0.05)
    pair = openings.time(5, seed=3)
    assert openings.open_now == 0
    assert len(openings.made) == 2 * 8  # the first two are the ones that were open
    assert pair.openings == 8
    assert all(worker.blocks >= 2 + 3 for worker in openings.made)
    assert pair.pairs == sum(worker.blocks - 2 for worker in openings.made[::2])


def test_openings_that_agree_end_early():
    openings = Openings(ratio=2.0, noise=1e-4)
    pair = openings.time(10)
    assert pair.settled
    assert pair.openings == 5
    assert pair.low < 2 < pair.high < 2.03


def test_models_that_open_or_run_too_slowly_are_opened_once():
    assert Openings(open_s=60.0, noise=1e-4).time(5).openings == 1
    assert Openings(call_s=0.5, noise=1e-4).time(5).openings == 1
    assert 5 <= Openings(open_s=0.4, effect=0.05).time(5).openings < 8


def test_the_dropped_blocks_of_all_openings_are_reported():
    openings = Openings(effect=0.05)
    original = openings.worker

    def ill(call_s):
        worker = original(call_s)
        worker.ill = 5
        return worker

    openings.worker = ill
    assert openings.time(5).dropped["the machine slept"] >= 8


def test_blocks_in_trouble_are_dropped_in_pairs_and_reported():
    a, b = Simulated(1e-3, seed=1, ill=5), Simulated(1e-3, seed=2)
    pair = time_pair(a, b, INPUTS, seconds=10)
    assert pair.dropped == {"the machine slept": pair.dropped["the machine slept"]}
    assert pair.pairs + sum(pair.dropped.values()) == b.blocks - 2  # two blocks were for the plan
    assert pair.reference.blocks == pair.candidate.blocks == pair.pairs


def test_a_core_that_is_taken_away_between_the_blocks_of_a_pair_drops_the_pair():
    a = Simulated(1e-3, seed=1, cores=lambda block: 4)
    b = Simulated(1e-3, seed=2, cores=lambda block: 3 if block == 7 else 4)
    assert time_pair(a, b, INPUTS, seconds=10).dropped == {"the cores changed from 4 to 3": 1}


@pytest.mark.parametrize("timed", [time_one, lambda worker, *rest, **more: time_pair(worker, worker, *rest, **more)])
def test_when_no_block_is_reliable_it_fails_with_the_reason(timed):
    with pytest.raises(Failed, match=r"the clock jumped \(\d+\)"):
        timed(Simulated(1e-3, ill=1, trouble="the clock jumped"), INPUTS, seconds=0)


def test_the_order_inside_a_pair_is_random_and_the_seed_fixes_it():
    def order(seed):
        log = []

        class Logged(Simulated):
            def time_block(self, calls, dropped, place=None):
                log.append(self.call_s)
                return super().time_block(calls, dropped, place)

        time_pair(Logged(1e-3, seed=1), Logged(1.001e-3, seed=2), INPUTS, seconds=10, seed=seed)
        return log[4:]

    assert order(3) == order(3)
    assert order(3)[:40] != order(4)[:40]
    firsts = order(3)[::2]
    assert 0.2 < np.mean(np.array(firsts) == 1e-3) < 0.8


def test_time_that_is_up_still_gives_the_fewest_pairs_of_slow_models():
    a, b = Simulated(5.0), Simulated(5.0, seed=1)
    pair = time_pair(a, b, INPUTS, seconds=0)
    assert pair.pairs == 6
    assert set(a.log[1:]) == {(1, 0)}  # a slow call is a block of its own, nothing is dropped


@pytest.mark.parametrize(("call_s", "calls", "dropped"), [(1e-5, 1000, 3), (1e-3, 30, 3), (2e-3, 15, 2), (0.1, 3, 1)])
def test_a_block_is_long_enough_to_mean_something(call_s, calls, dropped):
    chosen = plan(Simulated(call_s, noise=0))
    assert chosen.calls == pytest.approx(calls, rel=0.1)
    assert chosen.dropped == dropped


def test_one_model_alone():
    timing = time_one(Simulated(1e-3), INPUTS, seconds=10)
    assert timing.low_s < 1e-3 < timing.high_s
    assert timing.low_s <= timing.median_s <= timing.high_s <= 1.02 * timing.p90_s
    assert timing.processor_s == pytest.approx(2e-3, rel=0.01)
    assert timing.throughput_per_s == pytest.approx(1000, rel=0.05)
    batch = time_one(Simulated(1e-3), {"x": np.zeros((8, 3))}, seconds=0)
    assert batch.batch == 8
    assert batch.throughput_per_s == pytest.approx(8000, rel=0.3)
    json.dumps(batch.as_dict())


def test_a_pair_timing_is_json():
    block = Block(np.array([1000, 1001]), 10, 1)
    row = pair_timing(BlockPairs([(block, block)] * 10, Counter(), settled=True, openings=[0] * 10)).as_dict()
    assert json.loads(json.dumps(row))["ratio"] == 1


def wide(path, hidden):
    coin = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "W"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("MatMul", ["r", "V"], ["logits"]),
        ],
        "wide",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(coin.normal(size=(192, hidden)).astype("f"), "W"),
            numpy_helper.from_array(coin.normal(size=(hidden, 3)).astype("f"), "V"),
        ],
    )
    return toy_models.save(path, graph)


def test_a_real_model_that_works_ten_times_as_hard_is_found_slower(tmp_path):
    with Worker() as a, Worker() as b:
        a.open(wide(tmp_path / "a.onnx", 2_000), threads=1)
        b.open(wide(tmp_path / "b.onnx", 20_000), threads=1)
        pair = time_pair(a, b, INPUTS, seconds=1)
    assert pair.verdict == "slower"
    assert pair.reference.median_s < pair.candidate.median_s


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_twin_that_waits_uses_no_processor_time(tmp_path):
    with Worker() as a, Worker() as b:
        for worker in (a, b):
            worker.open(wide(tmp_path / "a.onnx", 20_000), threads=2)
            worker.prepare(INPUTS)
            worker.time_block(50, 0)
        before = busy_ticks(b.pid)
        block = a.time_block(400, 0)
        assert busy_ticks(b.pid) - before <= 1  # a tick is 10 ms
    assert block.durations_ns.sum() > 50e6  # long enough for a thread that spins to be seen


def busy_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_the_blocks_of_a_pair_begin_at_the_same_place_and_pairs_at_others():
    a, b = Simulated(1e-3, seed=1), Simulated(1e-3, seed=2)
    time_pair(a, b, INPUTS, seconds=10)
    assert a.places[2:] == b.places[2:]  # the first two were for the plan
    assert len(set(a.places[2:])) == len(a.places[2:])


@pytest.mark.skipif(not hasattr(placement.os, "sched_setaffinity"), reason="Linux only")
def test_one_seed_moves_the_main_threads_of_different_processes_to_the_same_core(monkeypatch, tmp_path):
    moved = []
    monkeypatch.setattr(placement, "alike", lambda: True)
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda thread: {0, 1, 2, 3})
    monkeypatch.setattr(placement.os, "sched_setaffinity", lambda thread, cores: moved.append((thread, set(cores))))

    def first_core(seed, threads):
        moved.clear()
        monkeypatch.setattr(placement, "Path", lambda path: tmp_path / str(threads))
        for thread in range(threads):
            (tmp_path / str(threads) / str(100 + thread)).mkdir(parents=True, exist_ok=True)
        placement.shuffle(seed)
        assert len(moved) == 2 * threads
        assert all(cores == {0, 1, 2, 3} for _, cores in moved[1::2])  # free again
        return next(cores for thread, cores in moved if thread == 100)

    places = [first_core(seed, 1) for seed in range(20)]
    assert places == [first_core(seed, 5) for seed in range(20)]
    assert len({min(cores) for cores in places}) == 4


@pytest.mark.skipif(not hasattr(placement.os, "sched_setaffinity"), reason="Linux only")
def test_shuffling_leaves_the_threads_as_free_as_before():
    before = placement.os.sched_getaffinity(0)
    placement.shuffle()
    assert placement.os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(placement.os, "sched_setaffinity"), reason="Linux only")
def test_the_threads_that_work_get_cores_of_their_own(monkeypatch, tmp_path):
    """A call of two threads took twice as long while both began on one core and a neighbour held the other."""
    for thread in range(100, 106):
        (tmp_path / str(thread)).mkdir()
    moved = {}
    monkeypatch.setattr(placement, "alike", lambda: True)
    monkeypatch.setattr(placement, "Path", lambda path: tmp_path)
    monkeypatch.setattr(placement, "worked_ns", {101: 5, 102: 900, 103: 0, 104: 700, 105: 0}.get)
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda thread: {0, 1, 2})
    monkeypatch.setattr(placement.os, "sched_setaffinity", lambda thread, cores: moved.setdefault(thread, min(cores)))
    for seed in range(10):
        moved.clear()
        placement.shuffle(seed)
        assert len(moved) == 6
        assert len({moved[thread] for thread in (100, 102, 104)}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thread_that_works_has_worked_more():
    before = placement.worked_ns(threading.get_native_id())
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    assert placement.worked_ns(threading.get_native_id()) > before
    assert placement.worked_ns(2**22 + 1) == 0  # no such thread


def test_cores_of_different_speed_or_memory_are_left_alone(tmp_path):
    def system(name, speeds, nodes):
        for index, speed in enumerate(speeds):
            folder = tmp_path / name / f"cpu/cpu{index}/cpufreq"
            folder.mkdir(parents=True)
            (folder / "cpuinfo_max_freq").write_text(speed)
        for node in range(nodes):
            (tmp_path / name / f"node/node{node}").mkdir(parents=True)
        return placement.alike(tmp_path / name)

    assert system("equal", ["2400000", "2400000"], 1)
    assert system("virtual", [], 1)
    assert not system("hybrid", ["4800000", "3500000"], 1)
    assert not system("sockets", ["2400000"], 2)
