"""Pictures of the page of `try` for docs/try.md, in Debian's Chromium.

    python benchmarks/try_screenshots.py photos=runs/demo/run=PHOTO voice=runs/whisper=RECORDING \
        prompts=runs/smollm="a prompt" text=runs/sst2="a text"

NAME=RUN=INPUT: a run that ended, what is put in, and what the picture is called. Of the first there are also a phone's
width, in the dark, and a vote without names.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from markdown import PICTURES
from microbudget.progress import Progress
from microbudget.trying.entrants import entrants
from microbudget.trying.server import Options, served

WIDE, NARROW = {"width": 1100, "height": 900}, {"width": 390, "height": 844}
COLOURS = 64  # of a palette: pages have few, and a picture is a third as large
LONGEST_MS = 180_000


def save(page: Any, name: str) -> None:
    """The whole page as a small PNG."""
    page.wait_for_timeout(500)  # the browser fades borders and bars in
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(PICTURES / f"try_{name}.png", optimize=True)
    print(PICTURES / f"try_{name}.png", (PICTURES / f"try_{name}.png").stat().st_size)


def put_in(page: Any, given: str) -> None:
    """A file, or a text, and wait for all answers."""
    page.wait_for_selector("input[type=file], #given textarea", state="attached")
    if page.locator("#given textarea").count():
        page.fill("#given textarea", given)
        page.click("#ask")
    else:
        page.set_input_files("input[type=file]", given)
    page.wait_for_selector("#answers .summary", timeout=LONGEST_MS)


def vote(page: Any) -> None:
    """Without names, and the verdict."""
    page.get_by_label("Without names").check()
    page.wait_for_selector("#vote-left", state="visible")
    save(page, "blind")
    page.click("#vote-same")
    page.wait_for_selector("#verdict .line")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", metavar="NAME=RUN=INPUT", nargs="+")
    with sync_playwright() as started, tempfile.TemporaryDirectory() as kept:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for place, each in enumerate(parser.parse_args().given):
            name, run, given = each.split("=", 2)
            with served(entrants([run], Progress()), Options(Path(kept))) as shown:
                page = browser.new_page(viewport=WIDE)
                page.goto(shown.address)
                put_in(page, given)
                save(page, name)
                if place == 0:
                    vote(page)
                    phone = browser.new_page(viewport=NARROW, color_scheme="dark")
                    phone.goto(shown.address)
                    put_in(phone, given)
                    save(phone, "phone")
                    phone.close()
                page.close()


if __name__ == "__main__":
    main()
