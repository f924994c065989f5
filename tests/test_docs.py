"""README and docs: numbers come from scripts, links and paths lead somewhere, and the README stays short."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import microbudget
from microbudget import methods
from microbudget.cli import main
from microbudget.recipes.recipe import Recipe
from quick import QUICK

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/readme.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("markdown", "readme"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import readme

    return readme


def anchor(heading: str) -> str:
    """The fragment by which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_no_page_has_the_marks_of_a_merge() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        assert not re.search(r"^(<{7}|={7}|>{7})( |$)", page.read_text(encoding="utf-8"), re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), target


def test_the_contents_page_has_every_page() -> None:
    contents = ROOT / "docs" / "README.md"
    linked = {(contents.parent / path).resolve() for path in re.findall(r"\]\(([^)#\s]+)", contents.read_text("utf-8"))}
    assert {page for page in PAGES if page != contents} <= linked


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_readmes_tables_are_parts_of_the_results(readme: ModuleType) -> None:
    from markdown import between

    page = ROOT / "README.md"
    for name, spec in readme.EXCERPTS.items():
        whole = between(ROOT / "docs" / "results" / spec.page, spec.marker)
        assert between(page, name) == readme.excerpt(whole, spec.columns, spec.rows)
        assert len(readme.excerpt(whole, spec.columns, spec.rows).splitlines()) == 2 + len(spec.rows) + 2
    outside = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "|" not in outside, "a table that no script writes"


def test_an_excerpt_without_a_table_is_the_text(readme: ModuleType) -> None:
    assert readme.excerpt("Not measured yet.", ("size",), ("a",)) == "Not measured yet."


def python_of(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=named)
def test_the_pages_python_uses_names_that_exist(page: Path) -> None:
    for node in (node for block in python_of(page) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("microbudget"):
            assert all(hasattr(importlib.import_module(str(node.module)), alias.name) for alias in node.names)


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("page", "said"),
    [
        (ROOT / "README.md", r"^\d+ (within|exceeds|not shown)\n$"),
        (ROOT / "docs" / "start.md", r"(?s)best: .*\nreport: \S+\n\w+\n$"),
    ],
    ids=["README", "start"],
)
def test_the_pages_python_runs(
    page: Path,
    said: str,
    resnet_onnx: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is printed, in a folder with a model and photos of these names; briefly timed, and of one candidate."""
    shutil.copytree(resnet_onnx, tmp_path / "mobilenet_v2")
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(next(photos.rglob("*.png")), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    briefly = partial(microbudget.shrink, minutes=1e-6, durations=QUICK)
    monkeypatch.setattr(microbudget, "shrink", briefly)
    for block in python_of(page):
        exec(compile(block, named(page), "exec"), {})
    assert re.search(said, capsys.readouterr().out)
    assert list((tmp_path / "runs").glob("*/best/predict.py"))


def test_every_path_on_the_map_is_there() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    paths = {path for path in re.findall(r"`([^`\s]+)`", text) if "/" in path or path.endswith(".py")}
    assert len(paths) > 40
    package = ROOT / "src" / "microbudget"
    missing = {
        path
        for path in paths
        if not any(any(place.glob(re.sub(r"<\w+>", "*", path.rstrip("/")))) for place in (package, ROOT))
    }
    assert not missing


OPTIONS = {
    "distill": ("distill.md",),
    "finetune": ("finetune.md",),
    "lora": ("lora.md",),
    "prune": ("prune.md",),
    "quantize": ("quantize.md", "gguf.md"),
}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_methods_page_has_all_its_options(method: str) -> None:
    """In the tables whose first column is headed `option`; and what a page calls an option is one."""
    documented = set()
    for name in OPTIONS[method]:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for rows in re.findall(r"^\| option \|.*\n\|[-|:]+\n((?:\|.*\n)+)", text, re.MULTILINE):
            cells = [row.split("|")[1] for row in rows.splitlines()]
            documented |= {word.partition("=")[0] for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    real = {option["name"] for option in methods.describe(method)["options"]}
    assert (
        documented - {'"channels"', '"layers"', '"weights"'} | ({"structure"} if method == "prune" else set()) == real
    )


def commands() -> list[tuple[str, str]]:
    """The lines of all pages that call `microbudget`, by page."""
    found = []
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        found += [(named(page), line.strip()) for line in lines if re.match(r" {4}microbudget \w", line)]
    return found


@pytest.fixture(scope="session")
def verbs() -> dict[str, set[str]]:
    """The options of each verb that the pages use."""
    options = {}
    for verb in {line.split()[1] for _, line in commands()}:
        with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0, f"there is no verb {verb}"
        options[verb] = set(re.findall(r"--[a-z-]+", shown.getvalue()))
    return options


def test_the_pages_commands_are_of_the_command_line(verbs: dict[str, set[str]]) -> None:
    assert len(commands()) > 30
    for page, line in commands():
        assert set(re.findall(r"--[a-z-]+", line)) <= verbs[line.split()[1]], f"{page}: {line}"


def test_the_pages_recipes_can_be_read() -> None:
    recipes = [match for _, line in commands() for match in re.findall(r"run \S+ ([\"'])(.*?)\1", line)]
    assert len(recipes) > 15
    for _, text in recipes:
        if "half" not in text:  # the tutorial's own method
            assert Recipe.parse(text).steps
    for file in (ROOT / "recipes").iterdir():
        assert Recipe.read(str(file)).steps


def test_the_design_lists_every_facet_that_is_looked_up() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)\.py`", "\n".join(re.findall(r"^\| (`\w+\.py`.*?) \|", design, re.MULTILINE))))
    looked_up = set()
    for path in (ROOT / "src" / "microbudget").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            if ast.unparse(call.func).split(".")[-1] in ("facet", "find_facet", "facets", "having"):
                looked_up |= {str(each.value) for each in call.args if isinstance(each, ast.Constant)}
    assert len(looked_up) > 5
    assert looked_up <= listed | set(methods.names())
