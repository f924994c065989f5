"""The speech benchmark's own arithmetic: what is held out, and what its tables say of results that are not complete."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for name in ("soundfile", "jiwer"):
    pytest.importorskip(name)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import speech_tables

    return speech_tables


def row(errors: int, recordings: int = 80) -> dict[str, Any]:
    """What is kept of a way: so many recordings have one wrong word of four."""
    wrong = [1] * errors + [0] * (recordings - errors)
    return {"wer": errors / (4 * recordings), "errors": wrong, "words": [4] * recordings, "size_bytes": 1000}


def quality(tables: ModuleType, **errors: int) -> dict[str, Any]:
    rows = {name: row(errors.get(name, 0)) for name in tables.settings.RECOVERY}
    return {tables.settings.UNTOUCHED: row(0), tables.settings.ALL: row(errors.get("all", 0)), **rows}


def test_nothing_is_cut_from_what_early_stopping_reads(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import speech
    from microbudget.kinds.transcription.data import TranscriptionTask
    from toy_seq2seq import write_recordings

    write_recordings(tmp_path / "words" / "train", 48)
    monkeypatch.setattr(speech, "WORDS", tmp_path / "words")
    monkeypatch.setattr(speech, "STORE", tmp_path / "store")
    task = TranscriptionTask.open(speech.data())
    assert {split: len(task.examples(split)) for split in ("train", "validation", "test")} == {
        "train": 40,
        "validation": 6,
        "test": 2,
    }
    assert Counter(map(speech.split_of, range(240))) == {"train": 204, "validation": 30, "test": 6}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (0, "+0.00 pt: reached by the estimate, not shown: about"),
        (3, "-0.94 pt: reached by the estimate, not shown"),
        (80, "-25.00 pt: missed"),
    ],
)
def test_80_recordings_cannot_show_a_point(tables: ModuleType, wrong: int, sentence: str) -> None:
    timed = (tables.settings.UNTOUCHED, tables.settings.SAME_WINDOW, tables.settings.ALL)
    rounds = {name: [1.0, 1.1, 0.9] for name in timed}
    line = tables.goals({"quality": quality(tables, all=wrong), "speed": {"rounds": rounds}}).splitlines()[-1]
    assert sentence in line


def test_where_cutting_costs_nothing_all_is_recovered(tables: ModuleType) -> None:
    cost = {"seconds": 1.0, "processor_s": 1.0, "teacher_passes": 2, "recordings": 2, "train": 2, "epochs": 1}
    assert tables.recovered({"quality": quality(tables), "recovery": {"cost": cost}}).startswith("|")
    sentence = tables.recovered({"quality": quality(tables, cut=8, taught=2), "recovery": {"cost": cost}})
    assert "75.0% of the loss of cutting is recovered" in sentence


def test_the_readme_says_what_is_not_measured(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("<!-- speech:begin -->\n<!-- speech:end -->\n", encoding="utf-8")
    page = tmp_path / "page.md"
    marks = "".join(f"<!-- speech-{name}:begin -->\n<!-- speech-{name}:end -->\n" for name in tables.PARTS)
    page.write_text(marks, encoding="utf-8")
    monkeypatch.setattr(tables.readme, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PAGE", page)
    tables.write({})
    assert "Not measured yet (quality)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("Not measured yet") == len(tables.PARTS)
