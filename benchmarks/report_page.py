"""The report of 40 candidates: its size, and how long it takes to open in Debian's Chromium.

    python benchmarks/report_page.py          # half a minute

The run is that of the tests, with rows of other numbers; the time is from the navigation to the load event, the median
of seven new pages. It is printed, and docs/reading.md has the number.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from microbudget.report.outcome import read_outcome
from microbudget.report.page import render
from report_runs import make_run, of_rows

CANDIDATES, TIMES = 40, 7
OPENED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        page = Path(folder) / "report.html"
        outcome = read_outcome(make_run(Path(folder)).run.folder)
        page.write_text(render(of_rows(outcome, CANDIDATES)), encoding="utf-8")
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        took = []
        for _ in range(TIMES):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            took.append(tab.evaluate(OPENED))
            tab.close()
        print(f"{page.stat().st_size / 1e6:.2f} MB, opened in {statistics.median(took):.0f} ms")


if __name__ == "__main__":
    main()
