"""Pictures of the reports for docs/reading.md, in Debian's Chromium.

    python benchmarks/screenshots.py photos=runs/flowers text=runs/sst2 language=runs/smollm speech=runs/whisper

NAME=RUN: a run that ended, and what its pictures are called; its report is written again first. `many=FOLDER` is the
page over a folder of runs. Each picture has the first screen; of the first run there are also the table with two rows
side by side, a point of a plot, and a phone's width.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from markdown import PICTURES
from microbudget.report import write_index, write_report

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
COLOURS = 64  # of a palette: pages have few, and a picture is a third as large


def save(page: Any, name: str) -> None:
    """The screen as a small PNG."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)
    print(PICTURES / f"{name}.png", (PICTURES / f"{name}.png").stat().st_size)


def details(browser: Any, address: str) -> None:
    """Two rows side by side, a point that is pointed at, and the first screen of a phone."""
    page = browser.new_page(viewport=WIDE)
    page.goto(address)
    boxes = page.locator("#rows-table input")
    boxes.nth(0).check()
    page.locator("#rows-table tr.best input").check()
    page.evaluate("document.getElementById('rows-table').scrollIntoView({behavior: 'instant'})")
    save(page, "report_compared")
    page.locator("#compared button.close").click()
    page.evaluate("document.getElementById('plots').scrollIntoView({behavior: 'instant'})")
    page.locator(".point").last.focus()
    save(page, "report_plots")
    page.close()
    page = browser.new_page(viewport=NARROW)
    page.goto(address)
    save(page, "report_phone")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="NAME=RUN", nargs="+")
    given = dict(each.split("=", 1) for each in parser.parse_args().runs)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for place, (name, folder) in enumerate(given.items()):
            write = write_index if name == "many" else write_report
            address = write(Path(folder)).resolve().as_uri()
            page = browser.new_page(viewport=WIDE)
            page.goto(address)
            save(page, f"report_{name}")
            page.close()
            if not place:
                details(browser, address)


if __name__ == "__main__":
    main()
