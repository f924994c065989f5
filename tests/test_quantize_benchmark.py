"""The quantization benchmark: one rule for all goals, its settings, and the table of repairs."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

MODULES = (
    "results",
    "markdown",
    "anatomy",
    "quantize",
    "quantize_settings",
    "quantizers",
    "quantize_tables",
    "quantize_goals",
)


@pytest.fixture
def goals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import quantize_goals

    return quantize_goals


@pytest.mark.parametrize(
    ("estimate", "interval", "expected"),
    [
        (None, None, "not measured"),
        (0.9, (0.8, 0.99), "reached"),
        (0.9, (0.8, 1.0), "reached"),
        (0.99, (0.9, 1.2), "reached by the estimate, not shown"),
        (1.02, (0.9, 1.2), "missed"),  # its lower end is within the limit: that is no goal reached
        (1.5, (1.2, 1.8), "missed"),
        (1.0, None, "reached"),
        (1.1, None, "missed"),
    ],
)
def test_one_rule_for_all_goals(goals: ModuleType, estimate, interval, expected) -> None:
    assert goals.verdict(estimate, 1.0, interval) == expected


def network(ours: np.ndarray, peer: np.ndarray, ratio: float, low: float, high: float) -> SimpleNamespace:
    """What the goals ask of a network: all settings answer alike but the peer."""
    judged = SimpleNamespace(kl=ours, gained=np.zeros(len(ours)))
    row = {"ratio": ratio, "low": low, "high": high}
    return SimpleNamespace(
        name="resnet20",
        judged=lambda setting: judged,
        best_peer=("nncf onnx", SimpleNamespace(kl=peer)),
        latency=lambda *_: row,
    )


def test_latency_is_judged_by_its_estimate_and_interval(goals: ModuleType) -> None:
    noise = np.random.default_rng(0).random(200)
    for ratio, low, high, expected in (
        (1.05, 0.98, 1.1, "missed"),
        (0.98, 0.9, 1.1, "reached by the estimate, not shown"),
        (0.9, 0.8, 0.95, "reached"),
    ):
        lines = goals.eight_bits(network(noise, 2 + noise, ratio, low, high))
        assert [line[2] for line in lines[:3]] == ["reached", expected, expected]


def test_accuracy_and_divergence_have_intervals_too(goals: ModuleType) -> None:
    kl = np.where(np.arange(400) < 20, 0.55, 0.0)  # a mean of 0.0275, give or take 0.012
    lines = goals.four_bits(network(kl, kl, 1.0, 1.0, 1.0), 0.5, 0.03)
    assert [line[2] for line in lines] == ["reached", "reached by the estimate, not shown"]
    found_lines = goals.finer(network(kl, 4 * kl, 0.97, 0.9, 1.0))
    assert [line[2] for line in found_lines] == ["reached", *["reached by the estimate, not shown"] * 2]


def test_every_setting_can_be_run_and_none_is_named_twice(goals: ModuleType) -> None:
    from quantizers import QUANTIZERS, ours_options

    bench = goals.bench
    assert set(bench.SETTINGS) == set(QUANTIZERS) - {"ours 8 minmax"}
    assert len(set(bench.SETTINGS)) == len(bench.SETTINGS)
    steps = [[set(ours_options(s)["corrections"]) for s in settings] for settings in bench.REPAIRED.values()]
    for repairs in steps:
        assert repairs[0] == set()
        for before, after in itertools.pairwise(repairs[:3]):
            assert before < after
        assert repairs[4] > repairs[2]


def test_the_table_of_repairs_compares_each_with_the_row_above(goals: ModuleType) -> None:
    import quantize_tables

    kl = {"ours 8 none": 4.0, "ours 8 scales": 2.0, "ours 8 bias": 1.0}

    def judged(setting: str):
        if setting not in kl:
            return None
        return SimpleNamespace(
            first_draw=np.full(50, kl[setting]), weights=None, flipped=np.zeros(50), rows=[{"seconds": 2.0}]
        )

    found = quantize_tables.repairs(SimpleNamespace(name="resnet20", judged=judged, rows=lambda setting: []))
    assert [line[4] for line in found[:3]] == ["", "0.50 (0.50..0.50)", "0.50 (0.50..0.50)"]
    assert [line[3] for line in found[3:]] == ["not run"] * 7
    assert {len(line) for line in found} == {8}
