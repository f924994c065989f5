import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget import units
from microbudget.errors import InvalidUnit
from microbudget.units import Drop


@pytest.mark.parametrize(
    ("text", "value"),
    [("4MB", 4_000_000), ("4 MB", 4_000_000), ("1.5kB", 1500), ("2 MiB", 2 * 2**20), ("7 B", 7), ("1e3 B", 1000)],
)
def test_bytes(text: str, value: int) -> None:
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize(("text", "value"), [("5ms", 0.005), ("2 s", 2.0), ("3 us", 3e-6), ("1 min", 60.0)])
def test_seconds(text: str, value: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(value)


def test_drop() -> None:
    assert units.parse_drop("1pt") == Drop(0.01)
    assert units.parse_drop("2 %") == Drop(0.02, relative=True)
    assert units.parse_drop("0pt") == Drop(0.0)


@pytest.mark.parametrize("text", ["", "4", "MB", "4 parsecs", "-1MB", "0 MB", "inf MB", "nan MB", "1e999 MB", "4MB 3"])
def test_nonsense_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidUnit):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["1", "1 MB", "-1pt", "100pt", "1pp", "one pt"])
def test_nonsense_drops_are_refused(text: str) -> None:
    with pytest.raises(InvalidUnit):
        units.parse_drop(text)


@given(st.floats(1e-6, 0.999), st.booleans())
def test_a_printed_drop_can_be_read_back(amount: float, relative: bool) -> None:
    read = units.parse_drop(str(Drop(round(amount, 6), relative)))
    assert read.relative == relative
    assert math.isclose(read.amount, round(amount, 6), rel_tol=1e-9)


@given(st.floats(1.0, 1e14))
def test_a_printed_size_is_within_half_a_percent(value: float) -> None:
    assert units.parse_bytes(units.format_bytes(value)) == pytest.approx(value, rel=5.1e-3, abs=0.51)


@given(st.floats(1e-7, 1e5))
def test_a_printed_time_is_within_half_a_percent(value: float) -> None:
    assert units.parse_seconds(units.format_seconds(value)) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (238.4, "238"),
        (6.44, "6.4"),
        (1.031, "1.03"),
        (0.1, "0.10"),
        (0.0312, "0.031"),
        (6.8e-4, "0.00068"),
        (0.0, "0.00"),
    ],
)
def test_a_ratio_has_the_digits_that_are_worth_reading(ratio: float, text: str) -> None:
    assert units.format_times(ratio) == text
