"""Reference pages: the command line from its parser, the methods from their classes, Python from the docstrings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import microbudget
from microbudget import methods
from microbudget.cli import parser_of_all_verbs

# What the functions take and return that has no public name of its own.
FURTHER = (
    "search.options.RunOptions",
    "judge.options.MeasureOptions",
    "search.result.Shrunk",
    "search.chosen.Chosen",
    "judge.comparing.Comparison",
    "judge.verdict.Verdict",
    "runtimes.prediction.Prediction",
)


def command_line() -> str:
    """Every verb: its example, its purpose, its options."""
    lines = [
        "# Command line",
        "",
        "Exit status: 0 done; 1 the budget could not be met, and the best found is delivered; 2 bad input; 3 failed"
        " (disk, crash); 130 interrupted, and the best so far is delivered. `--json` prints one document on stdout.",
        "",
    ]
    for name, verb in _verbs(parser_of_all_verbs()):
        example, _, about = (verb.description or "").partition("\n\n")
        positional = " ".join(_placeholder(action) for action in verb._actions if not action.option_strings)
        lines += [f"## `{name}`", "", f"{_sentence(about)}", "", f"    {example}", ""]
        usage = " ".join(filter(None, (f"microbudget {name}", positional, "[options]")))
        lines += [f"`{usage}`", "", *_options_table(verb), ""]
    return "\n".join(lines)


def methods_page() -> str:
    """Every method of a recipe with its options, their ranges and their defaults."""
    lines = ["# Options of all methods", "", "What a recipe may say: [the grammar](recipes.md).", ""]
    for name in methods.names():
        known = methods.describe(name)
        formats = ", ".join(f"{taken} → {made}" for taken, made in known["formats"].items())
        lines += [f"## `{name}`", "", known["purpose"], "", f"Formats: {formats}.", ""]
        if known["options"]:
            lines += ["| option | default | allowed | meaning |", "|---|---|---|---|"]
            lines += [
                f"| `{each['name']}` | `{each['default']!r}` | {_cell(_allowed(each))} | {_cell(each['doc'])} |"
                for each in known["options"]
            ]
        lines.append("")
    return "\n".join(lines)


def python() -> str:
    """The functions, then the classes that they take and return, with their public members."""
    lines = ["# Python", "", "`import microbudget` loads nothing heavy; each name is loaded when it is first used.", ""]
    public = [name for name in microbudget.__all__ if not name.startswith("_")]
    classes = [name for name in public if isinstance(getattr(microbudget, name), type)]
    for name in sorted(set(public) - set(classes)):
        lines += _described("autofunction", f"microbudget.{name}", "")
    for path in [*classes, *FURTHER]:
        lines += _described("autoclass", f"microbudget.{path}", "\n   :members:\n   :exclude-members: from_dict")
    return "\n".join(lines)


def _described(directive: str, path: str, options: str) -> list[str]:
    return [f"## {path.rpartition('.')[2]}", "", f"```{{eval-rst}}\n.. {directive}:: {path}{options}\n```", ""]


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _options_table(verb: argparse.ArgumentParser) -> list[str]:
    rows = ["| argument or option | meaning |", "|---|---|"]
    for action in verb._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            rows.append(f"| {_written(action)} | {_cell(action.help or '')} |")
    return rows


def _written(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_placeholder(action)}`"
    takes = "" if action.nargs == 0 else f" {_placeholder(action)}"
    required = " (required)" if action.required else ""
    return _cell(", ".join(f"`{name}{takes}`" for name in action.option_strings) + required)


def _placeholder(action: argparse.Action) -> str:
    if action.choices and not action.metavar:
        return "{" + ",".join(map(str, action.choices)) + "}"
    name: Any = action.metavar or action.dest.upper()
    return f"{name}..." if action.nargs in ("+", "*") else str(name)


def _allowed(option: dict[str, Any]) -> str:
    low, high = option["low"], option["high"]
    if option["choices"]:
        return ", ".join(f"`{choice!r}`" for choice in option["choices"])
    if low is None and high is None:
        return str(option["type"]).replace(" | None", " or None")
    return f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _cell(text: str) -> str:
    """Text inside a table: a bar would end the cell."""
    return text.replace("|", "\\|").replace("\n", " ")
