"""What the page of `microbudget try` adds to a model's own time, and how soon a photo is answered.

python benchmarks/try_page.py RUN PHOTO ...    in Chromium; writes docs/results/try.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from markdown import RESULTS, provenance, table
from microbudget.machine.files import write_text
from microbudget.progress import SILENT
from microbudget.trying.entrants import entrants
from microbudget.trying.server import Options, served

CHROMIUM = "/usr/bin/chromium"
ROUNDS = 5  # over all photos
TEXT = """# The page of `microbudget try`

{provenance}

{photos} photos, {count} times shown to {models} models of a run, one after the other. The model's own time is what its
worker process takes for the answer. The page adds reading and resizing the photo, the picture that the model sees, the
way to the worker and back, and its HTML; to the browser's time come the upload, the request and the drawing.

{table}

From the opening of the page, with an empty cache of the browser, to the first answer: {first:.1f} s.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("photos", nargs="+", type=Path)
    options = parser.parse_args()
    found = entrants([options.run], SILENT)
    with tempfile.TemporaryDirectory() as kept, served(found, Options(Path(kept), port=7960)) as page:
        own, added = [], []
        for photo in options.photos * ROUNDS:
            started = time.perf_counter()
            *_, shown = page.visit.ask(str(photo), found.first, False)
            html = page.visit.html(shown)
            spent = time.perf_counter() - started
            assert html
            assert not any(answer.failure for answer in shown.answers)
            models = sum(answer.seconds for answer in shown.answers)
            own.append(models)
            added.append((spent - models) / len(shown.answers))
        first, browser = _in_browser(page.address, options.photos)
    times = [
        ["the models together", *_quantiles(own)],
        ["added by the page, for each model", *_quantiles(added)],
        ["from the choice of a file to the answers in the browser, all together", *_quantiles(browser)],
    ]
    text = TEXT.format(
        provenance=provenance("try_page.py"),
        count=len(own),
        photos=len(options.photos),
        models=len(found.first),
        table=table(["time", "median", "9 of 10 within"], times),
        first=first,
    )
    write_text(RESULTS / "try.md", text)
    print(text)


def _quantiles(seconds: list[float]) -> list[str]:
    nine = statistics.quantiles(seconds, n=10, method="inclusive")[-1]
    return [f"{1000 * value:.1f} ms" for value in (statistics.median(seconds), nine)]


def _in_browser(address: str, photos: list[Path]) -> tuple[float, list[float]]:
    """Seconds from the opening to the first answer, and from each further file to its answers."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        started = time.perf_counter()
        page.goto(address)
        _answer(page, photos[0])
        first = time.perf_counter() - started
        times = []
        for photo in photos[1:] * 2:
            page.evaluate("document.querySelector('#answers .cards').remove()")
            started = time.perf_counter()
            _answer(page, photo)
            times.append(time.perf_counter() - started)
        browser.close()
    return first, times


def _answer(page: Any, photo: Path) -> None:
    page.locator("input[type=file]").first.wait_for(state="attached")
    page.locator("input[type=file]").first.set_input_files(str(photo))
    page.locator("#answers .cards").wait_for()


if __name__ == "__main__":
    main()
