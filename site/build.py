"""Build the documentation site: `python site/build.py [OUT]`, without network; a warning is an error.

The pages are those of docs/, which read on their own as well. They are assembled in OUT/source with what a site needs
in addition: the README as the first page, the navigation, which is the page of contents, and the reference pages.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from reference import command_line, methods_page, python
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).parents[1]
REFERENCE = {"command_line.md": command_line, "options.md": methods_page, "python.md": python}
# Pages outside docs/, by the links that lead to them.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Sphinx writes a search.html of its own, and the page of contents is a page beside the first one.
RENAMED = {"README.md": "contents.md", "search.md": "search_and_choice.md"}
OUTPUTS = "notebooks"  # executed, beside the pages; a browser shows or saves them as they are
FOLDERS = {"recipes/": "*.toml", "benchmarks/": "*.py"}  # of which a page lists the files


def main(out: Path) -> int:
    """Write OUT/source and OUT/html; returns Sphinx's exit status."""
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    assemble(source)
    return sphinx(["-q", "-W", "--keep-going", "-b", "html", str(source), str(out / "html")])


def assemble(source: Path) -> None:
    """All pages in one folder, with the links between them as they are there."""
    shutil.copytree(ROOT / "docs", source)
    shutil.copy(Path(__file__).with_name("conf.py"), source)
    for name, write in REFERENCE.items():
        (source / name).write_text(write(), encoding="utf-8")
    shutil.copytree(ROOT / OUTPUTS, source / OUTPUTS, ignore=shutil.ignore_patterns("*.py"))
    for folder, pattern in FOLDERS.items():
        (source / _listing(folder)).write_text(listing(folder, pattern), encoding="utf-8")
    for link in OUTSIDE:
        text = _relinked((ROOT / link).read_text(encoding="utf-8"), "").replace("](docs/", "](")
        (source / OUTSIDE[link]).write_text(text, encoding="utf-8")
    for page in source.rglob("*.md"):
        up = "../" * (len(page.relative_to(source).parts) - 1)
        text = _relinked(page.read_text(encoding="utf-8"), f"../{up}").replace(
            f"](../{up}{OUTPUTS}/", f"]({up}{OUTPUTS}/"
        )
        for name, other in RENAMED.items():
            text = re.sub(rf"\]\(((?:\.\./)*){re.escape(name)}(?=[)#])", rf"](\g<1>{other}", text)
        page.write_text(text, encoding="utf-8")
    for name, other in RENAMED.items():
        (source / name).rename(source / other)
    with (source / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n" + "\n".join(navigation((source / "contents.md").read_text(encoding="utf-8"))))


def _relinked(text: str, up: str) -> str:
    """With links to what lies outside docs/ leading to its page in the site. up: the way from the page to docs/.."""
    for link, page in {**OUTSIDE, **{folder: _listing(folder) for folder in FOLDERS}}.items():
        text = re.sub(rf"\]\({re.escape(up + link)}(?=[)#])", f"]({up.removeprefix('../')}{page}", text)
    return text


def _listing(folder: str) -> str:
    return f"{folder.rstrip('/')}_files.md"


def navigation(contents: str) -> Iterator[str]:
    """A hidden table of contents for each section of the page of contents, of the pages that its links lead to."""
    yield "```{toctree}\n:hidden:\n\ncontents\n```\n"
    seen = {"index", "contents"}
    for section in re.split(r"^## ", contents, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        linked = [path.removesuffix(".md") for path in re.findall(r"\]\((?!https?:)([^)#\s]+\.md)", text)]
        pages = [path for path in dict.fromkeys(linked) if path not in seen]
        seen.update(pages)
        yield f"```{{toctree}}\n:hidden:\n:caption: {title}\n"
        yield "\n".join(pages + (["command_line", "options", "python"] if title == "Use it" else []))
        yield "```\n"


def listing(folder: str, pattern: str) -> str:
    """A page that shows the files of a folder: recipes whole, of Python files what their docstring says first."""
    lines = [f"# {folder.rstrip('/').capitalize()}", ""]
    for file in sorted((ROOT / folder).glob(pattern)):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            about = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            lines.append(f"* `{folder}{file.name}`: {about}")
        else:
            lines += [f"## {file.name}", "", f"```{file.suffix[1:]}\n{text.strip()}\n```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"))
