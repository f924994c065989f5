"""The documentation site: it builds without a warning, its reference is whole, and it loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import microbudget
from conftest import MadeOnce
from microbudget import cli, methods

BUILD = Path(__file__).parents[1] / "site" / "build.py"
OURS = {"PYTHONPATH": str(Path(microbudget.__file__).parents[1])}


@pytest.fixture(scope="session")
def html(made_once: MadeOnce) -> Path:
    """The site; built once, in about 13 s. A warning, such as a link that leads nowhere, is an error."""

    def make(out: Path) -> None:
        command = [sys.executable, str(BUILD), str(out)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **OURS})
        assert built.returncode == 0, built.stderr

    return made_once("site", make) / "html"


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_every_verb_and_option_is_on_the_page_of_the_command_line(html: Path) -> None:
    page = text_of(html / "command_line.html")
    (verbs,) = (action.choices for action in cli.parser_of_all_verbs()._actions if isinstance(action.choices, dict))
    for name, verb in verbs.items():
        assert f"microbudget {name}" in page
        for action in verb._actions:
            if action.option_strings != ["-h", "--help"]:
                assert all(option in page for option in action.option_strings)


def test_every_method_and_public_name_has_its_entry(html: Path) -> None:
    options, python = text_of(html / "options.html"), (html / "python.html").read_text(encoding="utf-8")
    for name in methods.names():
        assert all(option["name"] in options for option in methods.describe(name)["options"])
    for name in set(microbudget.__all__) - {"__version__"}:
        assert f'id="microbudget.{name}"' in python


def test_the_navigation_leads_to_every_page(html: Path) -> None:
    index = (html / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'class="reference internal" href="([^"#]+\.html)', index))
    pages = {page.relative_to(html).as_posix() for page in html.rglob("*.html") if "_modules" not in page.parts}
    assert pages - linked <= {"index.html", "search.html", "genindex.html", "py-modindex.html"} | {
        f"{folder}_files.html" for folder in ("recipes", "benchmarks")
    }
    assert len(pages) > 40


def test_the_site_loads_nothing_from_elsewhere(html: Path) -> None:
    for page in [html / "index.html", html / "python.html", html / "results" / "search.html"]:
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:)?//', page.read_text("utf-8"))
        assert not loaded
