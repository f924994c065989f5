"""Layers, start-up and sizes: what the design promises of the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import microbudget

PACKAGE = Path(microbudget.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top down; a module imports only from its own room (not in circles) and from rooms below. A kind's folder is
# reached from below by name alone (`microbudget.kind`), as methods and runtimes are.
ROOMS = [
    {"cli"},
    {"kinds"},
    {"trying"},
    {"search"},
    {"report", "ship"},
    {"runs"},
    {"recipes"},
    {"footprint"},
    {"methods", "judge"},
    {"training"},
    {"runtimes"},
    {"images", "audio", "data"},
    {"machine"},
    {"kind", "task", "model", "metrics", "progress"},
    {"errors", "units"},
]
LEVEL = {name: index for index, names in enumerate(ROOMS) for name in names}
AT_THE_ROOT = 8  # modules, `__init__` included


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """`judge.worker` for judge/worker.py, `judge` for judge/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path, root: Path = PACKAGE, package: str = "microbudget") -> set[str]:
    """The modules below microbudget that a file imports anywhere, in functions and for type checking too."""
    inside = path.is_relative_to(root)
    home = path.relative_to(root).parent.parts if inside else ()
    found = set()
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ImportFrom):
            continue
        named = node.module.split(".") if node.module else []
        if node.level and inside:
            base = [*home[: len(home) - node.level + 1], *named]
        elif not node.level and named[:1] == [package]:
            base = named[1:]
        else:
            continue
        for alias in node.names:
            full = ".".join([*base, alias.name])
            found.add(full if full in MODULES else ".".join(base))
    return found - {""}


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports; parsed by the tests and not when they are collected."""
    return {name: imported(path) for name, path in MODULES.items() if name}


@pytest.fixture(autouse=True, scope="module")
def _parsed_once() -> Iterator[None]:
    """Millions of nodes would make every later collection of garbage slow."""
    yield
    parsed.cache_clear()


def test_every_module_has_a_room() -> None:
    assert {name.split(".")[0] for name in graph()} == set(LEVEL)


def test_the_root_has_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= AT_THE_ROOT


def test_imports_go_downwards() -> None:
    above = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if LEVEL[target.split(".")[0]] < LEVEL[name.split(".")[0]]
    ]
    assert not above


def test_no_circles() -> None:
    """Between modules; a package stands for its `__init__`."""
    TopologicalSorter(graph()).prepare()  # raises CycleError with the circle


def test_rooms_have_no_circles() -> None:
    rooms: dict[str, set[str]] = {}
    for name, targets in graph().items():
        room = name.split(".")[0]
        rooms.setdefault(room, set()).update(target.split(".")[0] for target in targets)
    TopologicalSorter({room: targets - {room} for room, targets in rooms.items()}).prepare()


def test_benchmarks_have_no_circles() -> None:
    folder = PACKAGE.parents[1] / "benchmarks"
    scripts = {path.stem: path for path in folder.glob("*.py")}
    graph = {}
    for stem, path in scripts.items():
        tree = parsed(path)
        names = {
            node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
        }
        names |= {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        graph[stem] = names & set(scripts) - {stem}
    TopologicalSorter(graph).prepare()


def kinds_asked(path: Path) -> list[str]:
    """Places where a file outside `kinds` knows a kind of model by name or asks for a class of tasks."""
    found = []
    for node in ast.walk(parsed(path)):
        of_class = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        text = ast.unparse(node) if of_class or isinstance(node, ast.Compare) else ""
        if isinstance(node, ast.Constant) and node.value in KIND_NAMES:
            found.append(f"line {node.lineno}: the name {node.value!r}")
        if isinstance(node, ast.ImportFrom) and "kinds" in (node.module or "").split("."):
            found.append(f"line {node.lineno}: imports {node.module}")
        if of_class and re.match(r"isinstance\(.*Task\b", text):
            found.append(f"line {node.lineno}: {text}")
        if isinstance(node, ast.Compare) and ASKS.search(text):
            found.append(f"line {node.lineno}: {text}")
    return found


ASKS = re.compile(r"\bkind (==|!=|in|not in) |(==|!=) [\w.]*\bkind$|\.task (==|!=|in|not in) ")
KINDS = sorted(path.name for path in (PACKAGE / "kinds").iterdir() if (path / "__init__.py").is_file())
KIND_NAMES = {*KINDS, *(name.replace("_", "-") for name in KINDS)}


def test_generic_modules_know_no_kind() -> None:
    generic = [name for name in MODULES if name and not name.startswith("kinds")]
    assert not [f"{name}, {place}" for name in generic for place in kinds_asked(MODULES[name])]


def test_judge_and_methods_do_not_know_each_other() -> None:
    for name, targets in graph().items():
        rooms = {target.split(".")[0] for target in targets}
        if name.split(".")[0] == "judge":
            assert "methods" not in rooms, name
        if name.split(".")[0] == "methods":
            assert not rooms & {"judge", "recipes"}, name


def _method_files() -> list[Path]:
    folder = PACKAGE / "methods"
    return [*folder.glob("*.py"), *folder.glob("*/__init__.py")]


def test_a_method_imports_no_method() -> None:
    names = {path.parent.name if path.stem == "__init__" else path.stem for path in _method_files()}
    for path in (PACKAGE / "methods").rglob("*.py"):
        own = path.relative_to(PACKAGE / "methods").with_suffix("").parts[0]
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.level == len(path.relative_to(PACKAGE / "methods").parts):
                other = (node.module or "").split(".")[0]
                assert other in ("", own) or other not in names, f"{path} imports {other}"


def too_large(path: Path) -> Iterator[str]:
    """What of a file is above the limits of lines and parameters."""
    if len(path.read_text(encoding="utf-8").splitlines()) > 400:
        yield "the file"
    for node in ast.walk(parsed(path)):
        size = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = len([a for a in given if a.arg not in ("self", "cls")])
            if size > 60 or (parameters > 7 and not node.name.startswith("_")):
                yield f"{node.name}: {size} lines, {parameters} parameters"
        if isinstance(node, ast.ClassDef) and size > 200:
            yield f"{node.name}: {size} lines"


def test_files_and_functions_stay_small() -> None:
    assert not [f"{path.relative_to(PACKAGE).as_posix()}, {what}" for path in FILES for what in too_large(path)]


def loaded_after(code: str) -> set[str]:
    """Top-level packages in a fresh process after some code."""
    code += "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "scipy", "rich", "matplotlib", "PIL", "numpy", "jinja2"}


def test_importing_microbudget_loads_nothing_heavy() -> None:
    assert not loaded_after("import microbudget") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, microbudget.cli\nwith contextlib.suppress(SystemExit): microbudget.cli.main(['--help'])\n0"
    )
    assert not loaded_after(code) & HEAVY


def test_measuring_loads_no_torch() -> None:
    """Everything that serves a finished model runs without torch installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['matplotlib'] = None;"
        "import microbudget.judge, microbudget.judge.measuring, microbudget.judge.comparing;"
        "import microbudget.search.shrink, microbudget.cli.tables, microbudget.report, microbudget.cli.demo;"
        "import microbudget.methods.quantize, microbudget.methods.finetune, microbudget.methods.resize"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_what_they_say() -> None:
    from microbudget import compare, load, measure, shrink

    assert all(callable(name) for name in (compare, load, measure, shrink))
    assert set(dir(microbudget)) >= {"Budget", "Recipe", "Task", "shrink"}
    with pytest.raises(AttributeError, match="no attribute 'shrnk'"):
        microbudget.shrnk  # noqa: B018


def test_every_folder_is_a_package_that_git_sees() -> None:
    """A line of .gitignore such as `runs/` hides a room of that name: from git, from ruff and from the wheel."""
    folders = {path.parent for path in FILES}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *map(str, FILES)], cwd=PACKAGE, capture_output=True, text=True
    )
    if ignored.returncode != 128:  # no checkout
        assert not ignored.stdout


def test_no_link_is_in_git() -> None:
    """A link to a folder of one machine hides what lies there from all others: `runs`, where the demo writes."""
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=PACKAGE.parents[1], capture_output=True, text=True)
    if listed.returncode == 0:  # a checkout
        assert not [line for line in listed.stdout.splitlines() if line.startswith("120000")]
