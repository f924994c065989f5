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

    def error(self, message: str) -> NoReturn:
        """As argparse: the usage, the message, exit status 2."""
        super().error(f"{message}{_advice(message, self)}")


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
