"""Parser: argparse with the nearest name in the error, and an example in the help of each verb."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from ..errors import nearest

START = """Give it a model, your data and a budget: it hands back the smallest model that keeps the quality.

    microbudget demo                                               see it work, offline, in a few minutes
    microbudget shrink MODEL --data DATA --out RUN --max-drop 1pt  make a model smaller for your data
    microbudget measure MODEL --data DATA                          what a model costs and how good it is

microbudget --help lists all verbs, microbudget VERB --help the options of one.
"""
_UNKNOWN = re.compile(r"unrecognized arguments: (--?[\w-]+)")
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from ([^)]*)\)")


class Parser(argparse.ArgumentParser):
    """Says which verb, option or value is nearest to one that does not exist."""

    def format_help(self) -> str:
        """The example first, where there is one, then the usage and the options."""
        example, has_one, about = (self.description or "").partition("\n\n")
        if not has_one:
            return super().format_help()
        whole = self.description
        self.usage, self.description = self._short_usage(), about
        try:
            return f"{example}\n\n{super().format_help()}"
        finally:
            self.usage, self.description = None, whole

    def format_usage(self) -> str:
        """What must be given: all options would fill a screen, and the help has them."""
        return f"usage: {self._short_usage()}\n"

    def _short_usage(self) -> str:
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        required = [action for action in self._actions if action.required and action not in groups]
        parts = [self.prog, *("VERB" for _ in groups), *map(_written, required), "[options]"]
        return " ".join(parts).replace("%", "%%")

    def error(self, message: str) -> NoReturn:
        """As argparse: the usage, the message, exit status 2."""
        super().error(f"{message}{_advice(message, self)}")


def _written(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return f"{action.option_strings[-1]} {name}" if action.option_strings else name


def _advice(message: str, parser: argparse.ArgumentParser) -> str:
    if found := _CHOICE.search(message):
        known: Iterable[str] = re.findall(r"'?([^',\s]+)'?", found[2])
        return _near(found[1], known)
    if found := _UNKNOWN.search(message):
        return _near(found[1], set(_options(parser)))
    return ""


def _near(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    return f": {found}" if found else ""


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All options of a parser and of its verbs."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _options(each)
