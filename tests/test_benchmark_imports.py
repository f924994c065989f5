"""The benchmarks take hours and no test runs them: at least the names that they import are there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.py"))}


def defined(script: str) -> set[str]:
    """The names at the top of a script."""
    body = SCRIPTS[script].body
    names = {each.name for each in body if isinstance(each, (ast.FunctionDef, ast.ClassDef))}
    assigned = [node for node in body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return names | {node.id for each in assigned for node in ast.walk(each) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_imports_names_that_are_there(script: str) -> None:
    for node in ast.walk(SCRIPTS[script]):
        if isinstance(node, ast.ImportFrom) and node.module in SCRIPTS:
            assert {alias.name for alias in node.names} <= defined(node.module), f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "microbudget":
            module = importlib.import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")
