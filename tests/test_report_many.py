"""The page over many runs: what each chose, trends, and runs of which nothing can be said."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from microbudget.cli import main
from microbudget.errors import BadInput
from microbudget.report import write_index
from microbudget.report.many import Entry, entry, runs_in, trends
from report_runs import HOSTILE, Made, Page, make_run, write_result

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run. Do not write into it."""
    return make_run(tmp_path_factory.mktemp("one"))


def copy(made: Made, to: Path, *, days: int = 0) -> Path:
    """The run's own files in another folder, ended that many days after the epoch."""
    to.mkdir(parents=True)
    for name in ("run.toml", "result.json", "candidates.jsonl"):
        if (made.run.folder / name).is_file():
            shutil.copy(made.run.folder / name, to)
    os.utime(to / "result.json", (86_400 * days, 86_400 * days))
    return to


def page_over(folder: Path) -> Page:
    return Page(write_index(folder).read_text(encoding="utf-8"))


def test_each_run_has_its_choice_and_a_link_to_its_report(made, tmp_path):
    first, second = copy(made, tmp_path / "first", days=1), copy(made, tmp_path / "deep" / "50 % #2", days=2)
    (second / "report.html").write_text("<html>", encoding="utf-8")
    page = page_over(tmp_path)
    assert page.text.count("2.60 MB") >= 2
    assert f"given {HOSTILE} on " in page.text
    links = [link["href"] for link in page.all("a")]
    assert [unquote(link) for link in links] == ["deep/50 % #2/report.html"]
    assert "#" not in links[0]
    assert "no report: microbudget report first" in page.text
    assert page.text.index("deep/50 % #2") < page.text.index(f"report {first.name}"), "the newest first"
    assert "2 runs." in page.text
    assert not page.open


def test_unfinished_and_damaged_runs_are_listed_with_the_reason(made, tmp_path):
    copy(made, tmp_path / "whole")
    (copy(made, tmp_path / "killed") / "result.json").unlink()
    (copy(made, tmp_path / "cut") / "result.json").write_text('{"reference": ', encoding="utf-8")
    (copy(made, tmp_path / "odd") / "result.json").write_text('{"reference": 3}', encoding="utf-8")
    (copy(made, tmp_path / "toml") / "run.toml").write_text("model = [", encoding="utf-8")
    (tmp_path / "toml" / "result.json").unlink()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.toml").write_text("seed = 0", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    text = page_over(tmp_path).text
    assert "6 runs, 4 of them without a result." in text
    for name, reason in {
        "new": "has no candidates yet",
        "cut": "is damaged",
        "odd": "is damaged",
        "killed": "has not ended (it is running, or was killed): the best so far",
    }.items():
        assert name in text
        assert reason in text


def test_rows_with_odd_values_do_no_harm(made, tmp_path):
    folder = copy(made, tmp_path / "odd")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for value in (None, "large", [], -1, float("nan"), 1e400):
        found["best"]["measurement"]["size_bytes"] = value
        (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
        seen = entry(folder, tmp_path)
        assert seen.problem or seen.size
        assert write_index(tmp_path).is_file()


def test_a_run_in_a_run_is_not_listed_and_links_are_not_followed(tmp_path):
    for name in ("a", "a/inside", "b/c", "b/c/d/e/f/g/h"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "run.toml").touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [run.relative_to(tmp_path).as_posix() for run in runs_in(tmp_path)] == ["a", "b/c"]


def test_trends_are_of_the_choices_in_their_order(made):
    best = made.shrunk.best.measurement
    entries = [
        Entry(f"run{n}", moment=n, measurement=replace(best, size_bytes=size, latency_s=None))
        for n, size in enumerate((3_000_000, 1_000_000, 2_000_000))
    ]
    quality, size = trends(entries)
    assert (quality.name, size.name) == ("accuracy", "size")
    assert (size.first, size.last) == ("3.00 MB", "2.00 MB")
    high, low, middle = (dot.y for dot in size.dots)
    assert high < middle < low
    assert [dot.x for dot in size.dots] == sorted(dot.x for dot in size.dots)
    assert not trends(entries[:1])
    other = replace(entries[0], measurement=replace(best, metric="wer"))
    assert [trend.name for trend in trends([*entries, other])] == ["size"], "two metrics are no trend"


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds none"):
        write_index(tmp_path)


def test_the_verb_writes_one_report_or_the_page_over_many(made, tmp_path, capsys):
    run = copy(made, tmp_path / "runs" / "one")
    assert main(["report", str(tmp_path / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "runs" / "index.html")}
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert main(["report", str(tmp_path / "nowhere")]) != 0


def test_nothing_ships_is_said(made, tmp_path):
    run = copy(made, tmp_path / "one")
    other = Made(replace(made.run, folder=run), made.task, made.shrunk)
    write_result(other, best=None)
    assert "nothing ships" in page_over(tmp_path).text
