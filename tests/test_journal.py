"""What a long step has found survives a kill, to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from microbudget.machine.journal import Journal


def never() -> Any:
    raise AssertionError("it is known")


def test_values_are_found_once_and_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "found.jsonl"
    journal = Journal(path)
    values = {"a": [0.1 + 0.2, 1e-300], "b": [math.inf, 3], "ü, 'c'": {"x": 1 / 3}}
    for name, value in values.items():
        assert journal.value(name, lambda value=value: value) == value
    assert {name: journal.value(name, never) for name in values} == values
    again = Journal(path)
    assert {name: again.value(name, never) for name in values} == values


@given(st.integers(0, 200))
def test_a_line_that_a_kill_cut_short_is_found_again(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "found.jsonl"
    journal = Journal(path)
    for number in range(5):
        journal.value(f"part {number}", lambda number=number: number / 7)
    path.write_bytes(path.read_bytes()[:cut])
    for _ in range(2):
        journal = Journal(path)
        found = [journal.value(f"part {number}", lambda number=number: number / 7) for number in range(5)]
        assert found == [number / 7 for number in range(5)]
    assert len(path.read_text().splitlines()) == 5


def test_without_a_path_nothing_is_kept() -> None:
    assert Journal().value("a", lambda: 1) == 1
    assert Journal().value("a", lambda: 2) == 2
