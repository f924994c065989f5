"""The report in a real browser: points that say what they are, sorting, folding, two rows side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microbudget.report import write_index
from microbudget.report.outcome import read_outcome
from microbudget.report.page import render
from report_runs import HOSTILE, make_run, of_rows

CHROMIUM = shutil.which("chromium")
ROWS = 20
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("report_browser"),  # one browser and one page
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds many.html, the report of a run with many rows, whose names are hostile; run, and the page over it."""
    folder = tmp_path_factory.mktemp("browser")
    outcome = read_outcome(make_run(folder).run.folder)
    failed = outcome.candidates[-1]
    long = of_rows(outcome, ROWS)
    long = replace(long, candidates=(*long.candidates, failed))
    (folder / "many.html").write_text(render(long), encoding="utf-8")
    write_index(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("matplotlib", reason="without matplotlib the report has no plots")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def opened(browser: Any, folder: Path) -> Any:
    """The page of many rows and what went wrong in it: messages of its console, and requests."""
    page = browser.new_page(viewport=WIDE)
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("dialog", lambda dialog: page.wrong.append(dialog.message))
    page.on("request", lambda request: page.wrong.append(request.url) if not request.url.startswith("data:") else None)
    address = (folder / "many.html").as_uri()
    page.goto(address)
    assert page.wrong == [address], "the file itself is all that it asks for"
    page.wrong.clear()
    return page


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """The same, as it was when it opened; whatever a test does, nothing goes wrong in it."""
    yield opened
    assert not opened.wrong
    opened.reload()
    opened.wrong.clear()


def shown(page: Any) -> list[str]:
    """The names of the rows that are to be seen, in their order."""
    rows = page.locator("#rows-table tbody tr").all()
    return [row.get_attribute("data-row") for row in rows if row.is_visible()]


def test_what_ships_and_the_verdict_are_on_the_first_screen(page: Any) -> None:
    for size in (WIDE, NARROW):
        page.set_viewport_size(size)
        for what in (".sentence", ".state", ".versus"):
            box = page.locator(what).bounding_box()
            assert box["y"] + box["height"] <= size["height"], (what, size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    page.set_viewport_size(WIDE)


def test_a_point_says_what_it_is_to_the_pointer_and_to_the_keyboard(page: Any) -> None:
    tip, points = page.locator("#tip"), page.locator('figure[aria-label^="size"] .point')
    assert not tip.is_visible()
    points.nth(1).locator("use").hover()
    said = tip.inner_text()
    assert all(part in said for part in ("1 (ships): finetune > export > quantize", "2.60 MB · 2.13 ms", "accuracy"))
    assert "on the front of this plot" in said
    assert page.locator("#rows-table tr.pointed").get_attribute("data-row") == "1"
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    points.nth(1).focus()
    assert tip.inner_text() == said
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().partition(":")[0] in ("2", "3"), "the next to the right"
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() == said
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_headings_sort_by_numbers_and_failures_stay_last(page: Any) -> None:
    page.locator(".fold").click()
    before = shown(page)
    heading = page.locator("#rows-table th", has_text="Latency")
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    numbers = page.eval_on_selector_all("#rows-table tbody tr", "rows => rows.map(row => row.cells[3]?.dataset.v)")
    known = [float(each) for each in numbers if each]
    assert known == sorted(known)
    assert len(known) == ROWS + 1
    assert numbers[-1] is None or not numbers[-1]
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert shown(page)[0] == "ref"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") is None
    assert shown(page) == before


def test_a_long_table_is_folded(page: Any) -> None:
    button = page.locator(".fold")
    assert button.get_attribute("aria-expanded") == "false"
    assert "ref" in shown(page)
    assert len(shown(page)) < ROWS
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert len(shown(page)) == ROWS + 2
    button.click()
    assert len(shown(page)) < ROWS


def test_two_rows_side_by_side(page: Any) -> None:
    panel = page.locator("#compared")
    page.get_by_label("compare row ref").check()
    assert "choose another one" in panel.inner_text()
    page.get_by_label("compare row 1", exact=True).check()
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()
    }
    assert rows["size"] == ["9.12 MB", "2.60 MB", "3.5 times smaller"]
    assert rows["latency"] == ["13.6 ms", "2.13 ms", "6.4 times as fast"]
    assert rows["accuracy"][2].endswith(" pt, worse")
    assert "Only 1 (ships): export > quantize" in panel.inner_text()
    page.get_by_label("compare row 3", exact=True).check()  # the first of the three gives way
    assert not page.get_by_label("compare row ref").is_checked()
    assert "Only 3: resize(pixels=64)" in panel.inner_text()
    panel.get_by_label("choose no rows").click()
    assert not panel.is_visible()


def test_points_are_chosen_by_a_click_and_by_the_enter_key(page: Any) -> None:
    points = page.locator('figure[aria-label^="size"] .point')
    points.nth(0).locator("use").click()
    points.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#compared thead th").all_inner_texts()[1:] == ["reference", "1 (ships)", "1 against ref"]


def test_without_a_script_all_is_there(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=NARROW)
    page = context.new_page()
    page.goto((folder / "many.html").as_uri())
    assert len(shown(page)) == ROWS + 2
    assert not page.locator("#rows-table input, #rows-table th button, .fold").count()
    assert page.locator(".point title").count() > ROWS
    page.close()
    context.close()


def test_many_rows_make_a_small_page(folder: Path) -> None:
    assert (folder / "many.html").stat().st_size < 1_000_000


def test_a_hostile_name_is_text(page: Any) -> None:
    assert HOSTILE in page.locator("h1").inner_text()


def test_the_page_over_many_runs(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport=NARROW)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    assert page.locator(".sentence").inner_text() == "1 run."
    assert HOSTILE in page.locator("h2").inner_text()
    page.locator("th button", has_text="Size").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert not wrong
    page.close()
