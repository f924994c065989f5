import gc
from dataclasses import replace

import numpy as np
import pytest

from microbudget.machine.processor import cores
from microbudget.machine.stopwatch import Clocks, time_calls
from microbudget.machine.waiting import WAITED, waited_ns, waiting_share

SECOND = 1_000_000_000


class Machine:
    """A machine whose calls take 1 ms, and whose clocks and cores can be disturbed at a given call."""

    def __init__(self, at: int = -1, **disturb: int) -> None:
        self.time = self.sleep = self.step = self.calls = self.waited = 0
        self.cores = 4
        self.at, self.disturb = at, disturb

    def call(self) -> None:
        self.time += SECOND // 1000
        if self.calls == self.at:
            for name, amount in self.disturb.items():
                setattr(self, name, getattr(self, name) + amount)
        self.calls += 1

    @property
    def clocks(self) -> Clocks:
        return Clocks(
            now=lambda: self.time,
            wall=lambda: self.time + self.sleep + self.step,
            since_boot=lambda: self.time + self.sleep,
            processor=lambda: 2 * self.time,
            cores=lambda: self.cores,
            waited=lambda: self.waited,
        )


def test_durations_are_those_of_the_calls_and_the_first_are_not_counted():
    machine = Machine(at=0, time=5 * SECOND)  # the first call is slow
    block = time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks)
    assert machine.calls == 11
    np.testing.assert_array_equal(block.durations_ns, SECOND // 1000)
    assert block.median_s == pytest.approx(1e-3)
    assert block.processor_s == pytest.approx(2e-3)
    assert block.trouble is None


@pytest.mark.parametrize(
    ("disturb", "trouble"),
    [
        ({"sleep": 60 * SECOND}, "the machine slept"),
        ({"step": SECOND}, "the clock jumped"),
        ({"step": -SECOND}, "the clock jumped"),
        ({"cores": -1}, "the cores changed from 4 to 3"),
    ],
)
def test_a_disturbed_block_names_its_trouble(disturb, trouble):
    machine = Machine(at=5, **disturb)
    assert time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks).trouble == trouble


def test_clocks_that_are_slewed_a_little_are_no_trouble():
    machine = Machine(at=5, step=SECOND // 10_000)
    assert time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks).trouble is None


def test_trouble_before_the_counted_calls_does_not_matter():
    machine = Machine(at=0, sleep=SECOND)
    assert time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks).trouble is None


def test_a_block_whose_threads_wait_for_a_processor_is_not_quiet():
    machine = Machine(at=5, waited=SECOND // 500)  # 2 of 11 ms
    block = time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks)
    assert block.waited == pytest.approx(2 / 11)
    assert not block.quiet
    assert block.trouble is None
    machine = Machine()
    assert time_calls(machine.call, calls=10, dropped=1, clocks=machine.clocks).quiet


def test_where_no_system_says_who_waits_a_block_counts_as_quiet():
    clocks = replace(Machine().clocks, waited=lambda: None)
    block = time_calls(lambda: None, calls=3, clocks=clocks)
    assert block.waited is None
    assert block.quiet


def test_the_waiting_of_all_threads_is_added_up_and_ended_ones_are_left_out(tmp_path):
    for thread, text in (("1", "5 100 3\n"), ("2", "7 23 1\n"), ("3", ""), ("4", "no numbers")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    assert waited_ns(tmp_path) == 123
    assert waited_ns(tmp_path / "nothing") is None


def test_a_process_that_computes_with_more_threads_than_cores_waits():
    share = waiting_share(4 * cores(), seconds=0.05)
    assert share is None or share > WAITED


def test_the_real_clocks_time_a_real_call():
    block = time_calls(lambda: sum(range(20_000)), calls=20)
    assert 0 < block.median_s < 1
    assert block.processor_s > 0
    assert block.cores >= 1


def test_the_garbage_collector_rests_and_comes_back_even_after_an_error():
    seen = []
    time_calls(lambda: seen.append(gc.isenabled()), calls=2)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_calls(lambda: 1 / 0, calls=1)
    assert gc.isenabled()


def test_the_default_clocks_agree_with_each_other():
    clocks = replace(Clocks())
    before = (clocks.now(), clocks.wall(), clocks.since_boot())
    sum(range(1_000_000))
    after = (clocks.now(), clocks.wall(), clocks.since_boot())
    elapsed = [now - then for now, then in zip(after, before, strict=True)]
    assert max(elapsed) - min(elapsed) < 10_000_000
