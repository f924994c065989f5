"""Latencies of a run: those of the reference and of a candidate have the candidate's speedup as ratio, everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.judge.budget import Measurement
from microbudget.judge.energy import estimate
from microbudget.judge.latency import with_latency
from microbudget.runs import candidates
from microbudget.runs.candidates import Candidate
from microbudget.runs.latencies import SLOW, agreeing
from microbudget.runs.run import Run
from microbudget.search.retiming import quiet_soon
from microbudget.search.speeds import quieter

CPU = "AMD EPYC"


def measurement(latency_s: float, task: str = "image-classification", **extra: Any) -> Measurement:
    timing = {"median_s": latency_s, "low_s": latency_s, "high_s": latency_s, "p90_s": 2 * latency_s}
    used = estimate(2 * latency_s, CPU)
    return Measurement(
        model="m",
        format="onnx",
        runtime="",
        task=task,
        examples=10,
        metric="accuracy",
        quality=0.9,
        quality_low=0.8,
        quality_high=1.0,
        size_bytes=100,
        latency_s=latency_s,
        latency_low_s=0.9 * latency_s,
        latency_high_s=1.1 * latency_s,
        throughput_per_s=1 / latency_s,
        energy_j=used.joules,
        energy_source="estimate",
        machine={"cpu": CPU},
        extra={
            "timing": {**timing, "processor_s": 2 * latency_s, "throughput_per_s": 1 / latency_s},
            "floor": {"least_s": latency_s / 4, "share": 0.25},
            **extra,
        },
    )


def reference(latency_s: float) -> Candidate:
    return Candidate("", "ref", "ref", measurement(latency_s))


def candidate(name: str, reference_s: float, speedup: float, busy: str = "") -> Candidate:
    speed = {
        "speedup": speedup,
        "low": speedup * 0.9,
        "high": speedup * 1.1,
        "verdict": "faster",
        "reference": "ref",
        "reference_s": reference_s,
        "reference_low_s": reference_s * 0.98,
        "reference_high_s": reference_s * 1.02,
        "waited": 0.3 if busy else 0.0,
        "busy": busy,
    }
    return Candidate(name, name, name, measurement(reference_s / speedup), speed=speed)


def ratio(first: Candidate, other: Candidate) -> float:
    assert first.measurement is not None
    assert other.measurement is not None
    assert first.measurement.latency_s is not None
    assert other.measurement.latency_s is not None
    return first.measurement.latency_s / other.measurement.latency_s


times = st.floats(1e-6, 10)
ratios = st.floats(0.01, 1000)
sessions = st.lists(st.tuples(times, ratios, st.sampled_from(["", "busy"])), min_size=1, max_size=8)


@given(times, sessions)
def test_the_ratio_of_two_latencies_is_the_speedup(alone_s: float, timed: list[tuple[float, float, str]]) -> None:
    rows = [reference(alone_s), *(candidate(str(place), *each) for place, each in enumerate(timed))]
    first, *others = agreeing(rows)
    for row in others:
        assert ratio(first, row) == pytest.approx(row.speed["speedup"])
        assert row.measurement is not None
        assert row.measurement.latency_low_s is not None
        assert row.measurement.latency_high_s is not None
        assert row.measurement.latency_low_s < row.measurement.latency_high_s
        assert row.measurement.throughput_per_s == pytest.approx(1 / (row.measurement.latency_s or 0))
    quiet = [seconds for seconds, _, busy in timed if not busy] or [seconds for seconds, _, _ in timed]
    assert first.measurement is not None
    assert first.measurement.latency_s is not None
    assert min(quiet) <= first.measurement.latency_s <= SLOW * min(quiet)


@given(times, sessions)
def test_rows_that_agree_stay_as_they_are(alone_s: float, timed: list[tuple[float, float, str]]) -> None:
    once = agreeing([reference(alone_s), *(candidate(str(place), *each) for place, each in enumerate(timed))])
    for before, after in zip(once, agreeing(once), strict=True):
        assert before.busy == after.busy
        assert ratio(before, after) == pytest.approx(1)


def test_the_references_latency_is_that_of_the_quiet_timings() -> None:
    rows = [
        reference(0.5),
        candidate("a", 0.100, 2.0),
        candidate("b", 0.104, 4.0),
        candidate("c", 0.102, 8.0),
        candidate("loaded", 0.900, 40.0, "other programs had the processor for 90% of the time"),
        candidate("late", 0.200, 5.0),
    ]
    first, a, b, c, loaded, late = agreeing(rows)
    assert first.measurement is not None
    assert first.measurement.latency_s == pytest.approx(0.102)
    assert first.measurement.latency_low_s == pytest.approx(0.098)
    assert first.measurement.latency_high_s == pytest.approx(0.104 * 1.02)
    assert not any(row.busy for row in (a, b, c, first))
    assert loaded.busy == "other programs had the processor for 90% of the time"
    assert late.busy == "the reference took 2.0 times as long as at other times"


def test_rows_of_another_reference_or_of_none_keep_their_latencies() -> None:
    other = candidate("x", 0.2, 2.0)
    other = replace(other, speed={**other.speed, "reference": "another"})
    old = replace(candidate("old", 0.2, 2.0), speed={"speedup": 3.0, "low": 2.0, "high": 4.0, "verdict": "faster"})
    failed = Candidate("f", "f", "f", failure="it diverged")
    first, _, kept, same, still = agreeing([reference(0.5), candidate("a", 0.1, 2.0), other, old, failed])
    assert first.measurement is not None
    assert kept.measurement is not None
    assert first.measurement.latency_s == pytest.approx(0.1)
    assert kept.measurement.latency_s == pytest.approx(0.1)
    assert (same, still) == (old, failed)


def test_what_follows_from_a_latency_follows_it() -> None:
    before = measurement(0.010)
    after = with_latency(before, 0.005, 0.004, 0.006)
    assert (after.latency_s, after.latency_low_s, after.latency_high_s) == (0.005, 0.004, 0.006)
    assert after.throughput_per_s == pytest.approx(200)
    assert after.energy_j == pytest.approx((before.energy_j or 0) / 2)
    assert after.extra["energy"] == estimate(0.010, CPU).as_dict()
    assert after.extra["floor"]["share"] == pytest.approx(0.5)
    assert after.extra["timing"]["p90_s"] == pytest.approx(0.010)
    assert after.extra["timing"]["low_s"] == 0.004
    read = with_latency(replace(before, energy_source="rapl"), 0.005, 0.004, 0.006)
    assert read.energy_j == before.energy_j  # counters have counted what they have


@pytest.mark.parametrize(
    ("task", "name", "times"), [("language-modelling", "decode_tokens_per_s", 2), ("transcription", "rtf", 0.5)]
)
def test_a_kinds_own_numbers_follow_too(task: str, name: str, times: float) -> None:
    before = measurement(0.010, task, **{name: 8.0, "prefill_tokens_per_s": 3.0})
    after = with_latency(before, 0.005, 0.004, 0.006)
    assert after.extra[name] == pytest.approx(8.0 * times)
    assert after.extra["prefill_tokens_per_s"] == 3.0


def test_of_two_timings_that_of_the_quieter_machine_is_kept() -> None:
    busy, quiet = candidate("a", 0.9, 40.0, "busy"), candidate("a", 0.1, 4.0)
    found = quieter(replace(busy, speed={**busy.speed, "over_float": {"speedup": 1.2}}), quiet.speed)
    assert found.speed == {**quiet.speed, "over_float": {"speedup": 1.2}}
    assert ratio(candidate("a", 0.1, 4.0), found) == pytest.approx(1)
    assert quieter(quiet, busy.speed) is quiet
    less = {**busy.speed, "waited": 0.1}
    assert quieter(busy, less).speed == less
    assert quieter(quiet, candidate("a", 0.08, 4.0).speed).speed["reference_s"] == 0.08


def test_the_rows_of_a_run_agree_when_they_are_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for row in (reference(0.5), candidate("a", 0.1, 22.9), candidate("b", 0.3, 3.0, "busy")):
        run.add(row)
    first, a, b = run.candidates()
    assert ratio(first, a) == pytest.approx(22.9)
    assert ratio(first, b) == pytest.approx(3.0)
    assert json.dumps([row.as_dict() for row in run.candidates()])
    assert [row.fingerprint for row in candidates.read(run.rows)] == ["ref", "a", "b"]


def test_a_machine_that_stays_busy_is_not_timed_again() -> None:
    pauses: list[float] = []
    assert not quiet_soon(lambda: 0.9, pauses.append)
    assert 3 < sum(pauses) < 10
    shares = iter([0.9, 0.2, 0.01])
    assert quiet_soon(lambda: next(shares), pauses.append)
    assert quiet_soon(lambda: None, pauses.append)  # where the system does not say
