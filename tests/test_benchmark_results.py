"""What a benchmark has measured so far: kept at every change, whoever else writes meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "results", raising=False)
    import results

    return results


def test_rows_of_two_processes_stand(results: ModuleType, tmp_path: Path) -> None:
    one, other = (results.Results(tmp_path / "runs" / "results.json") for _ in range(2))
    one.put("speed/int8", {"seconds": 1.0})
    other.put("quality/int8", {"wer": 0.1})
    again = results.Results(one.path)
    assert again.get("speed/int8") == {"seconds": 1.0}
    assert again.parts() == {"speed": {"int8": {"seconds": 1.0}}, "quality": {"int8": {"wer": 0.1}}}


def test_a_row_of_other_sources_is_made_again(results: ModuleType, tmp_path: Path) -> None:
    kept = results.Results(tmp_path / "results.json")
    kept.put("a", {"b": 1}, "old")
    assert kept.get("a", "new") is None
    assert kept.get("a", "old") == kept.get("a") == {"b": 1, "stamp": "old"}


def test_a_row_is_made_once_and_a_failure_again(results: ModuleType, tmp_path: Path) -> None:
    kept, made = results.Results(tmp_path / "results.json"), []

    def make() -> dict[str, str]:
        made.append(1)
        return {"failure": "it broke"} if len(made) == 1 else {"fine": "now"}

    assert [kept.fill("a", make, float("inf")) for _ in range(3)] == [False] * 3
    assert len(made) == 2
    assert kept.fill("b", make, -1.0)
    assert "b" not in kept.rows
