"""Layers, start-up and sizes: what the design promises of the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import microbudget

PACKAGE = Path(microbudget.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top down; a module imports from its own layer (not in circles) and from those below.
LAYERS = [
    {"cli", "cli_language", "cli_speech", "demo"},
    {"search", "report", "tables", "transcribing"},
    {"evaluation", "ship", "run"},
    {"build", "recipe", "judge", "candidates", "fits", "ladder", "speech_ladder"},
    {"methods"},
    {
        "features",
        "head",
        "learning_curve",
        "tasks",
        "runtimes",
        "loading",
        "train",
        "lessons",
        "classifiers",
        "backbone",
        "transfer",
        "dictation",
    },
    {"metrics", "stats", "stopwatch", "machine", "model", "budget", "progress", "deadline", "order", "audio"},
    {"errors", "units"},
]
LEVEL = {name: index for index, names in enumerate(LAYERS) for name in names}


def part_of(path: Path) -> str:
    """The first name below the package: `judge` for judge/worker.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """First names below microbudget that a file imports anywhere, type checking apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ["microbudget", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in guarded or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        names = [base[1]] if len(base) > 1 else [alias.name for alias in node.names]
        found.update(names)
    return found - {"__version__"}


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for name in imports(path):
        assert LEVEL[name] >= LEVEL[part], f"{part} imports {name}, which is above it"


def test_judge_and_methods_do_not_know_each_other() -> None:
    for path in FILES:
        if part_of(path) == "judge":
            assert "methods" not in imports(path), path
        if part_of(path) == "methods":
            assert not imports(path) & {"judge", "recipe", "build"}, path


def _method_files() -> list[Path]:
    folder = PACKAGE / "methods"
    return [*folder.glob("*.py"), *folder.glob("*/__init__.py")]


def test_a_method_imports_no_method() -> None:
    names = {path.parent.name if path.stem == "__init__" else path.stem for path in _method_files()}
    for path in (PACKAGE / "methods").rglob("*.py"):
        own = path.relative_to(PACKAGE / "methods").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == len(path.relative_to(PACKAGE / "methods").parts):
                other = (node.module or "").split(".")[0]
                assert other in ("", own) or other not in names, f"{path} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name


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
        "import microbudget.search, microbudget.tables, microbudget.report, microbudget.demo;"
        "import microbudget.methods.quantize, microbudget.methods.finetune, microbudget.methods.resize"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_what_they_say() -> None:
    from microbudget import compare, load, measure, shrink

    assert all(callable(name) for name in (compare, load, measure, shrink))
    assert set(dir(microbudget)) >= {"Budget", "Recipe", "Task", "shrink"}
    with pytest.raises(AttributeError, match="no attribute 'shrnk'"):
        microbudget.shrnk  # noqa: B018
