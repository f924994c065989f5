"""Recipe: methods in order, as text that can be read back. Parse, print, check."""

from __future__ import annotations

import ast
import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import methods
from ..errors import InvalidRecipe, MicrobudgetError, nearest
from ..methods import Method
from ..task import USES, Use

MAX_LENGTH = 10_000


@dataclass(frozen=True)
class Recipe:
    """Methods in order, as in `finetune > export > quantize`. `str` prints all options; `Recipe(text)` reads that.

    >>> recipe = Recipe("resize(pixels=160) > export > quantize(bits=4)")
    >>> recipe.short()
    'resize(pixels=160) > export > quantize(bits=4)'
    >>> recipe.formats("hf")
    ('hf', 'onnx', 'onnx')
    """

    steps: tuple[Method, ...]

    def __post_init__(self) -> None:
        if isinstance(self.steps, str):  # as people write it: Recipe("export() > quantize()")
            object.__setattr__(self, "steps", Recipe.parse(self.steps).steps)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read a recipe. Only names and constants are allowed: none of it is ever run. Raises InvalidRecipe."""
        text = text.removeprefix("\ufeff")  # a byte order mark, from a file or a copied text
        if len(text) > MAX_LENGTH:
            raise InvalidRecipe(f"the recipe is {len(text)} characters long; at most {MAX_LENGTH} are read")
        try:
            written = text.strip()
            tree = ast.parse(f"({written}\n)" if "\n" in written else written, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidRecipe(
                f"the recipe {_short(text)} does not parse: write method(option=value) > ..."
            ) from error
        if isinstance(tree, ast.Compare):
            if not all(isinstance(operator, ast.Gt) for operator in tree.ops):
                raise InvalidRecipe(f"the steps of a recipe are joined by '>': {_short(text)}")
            parts = [tree.left, *tree.comparators]
        else:
            parts = [tree]
        return cls(tuple(_step(part) for part in parts))

    @classmethod
    def kept(cls, text: str) -> Recipe | None:
        """The recipe that a row was kept with; None where a version with other methods wrote it. "" has no steps."""
        try:
            return cls.parse(text) if text else cls(())
        except MicrobudgetError:
            return None

    @classmethod
    def read(cls, name: str) -> Recipe:
        """A recipe from its text, or from a `.toml` file with a key `recipe`."""
        path = Path(name)
        if path.suffix != ".toml":
            return cls.parse(name)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise InvalidRecipe(f"the recipe file {name} cannot be read: {error}") from error
        if not isinstance(table.get("recipe"), str):
            raise InvalidRecipe(f"{name} has no text under the key 'recipe'")
        return cls.parse(table["recipe"])

    def formats(self, input_format: str) -> tuple[str, ...]:
        """The format after each step. Raises InvalidRecipe at the first step that does not fit."""
        result = []
        for step in self.steps:
            input_format = step.output_format(input_format)
            result.append(input_format)
        return tuple(result)

    def learns_from(self, input_format: str) -> Use:
        """The most that one of its steps learns from the data. Raises InvalidRecipe at a step that does not fit."""
        inputs = (input_format, *self.formats(input_format))
        found = [step.learns_from(before) for step, before in zip(self.steps, inputs, strict=False)]
        return max(found, key=USES.index, default="nothing")

    def short(self) -> str:
        """The recipe with only the options that differ from their defaults; it can be read back as well."""
        return " > ".join(step.short() for step in self.steps)

    def __str__(self) -> str:
        return " > ".join(map(str, self.steps))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _step(node: ast.expr) -> Method:
    """One `name` or `name(option=constant, ...)`."""
    keywords: list[ast.keyword] = []
    if isinstance(node, ast.Call):
        if node.args:
            raise InvalidRecipe(f"options are given by name, as in bits=8: {_short(ast.unparse(node))}")
        keywords, node = node.keywords, node.func
    if not isinstance(node, ast.Name):
        raise InvalidRecipe(f"a step is method(option=value), not {_short(ast.unparse(node))}")
    method = methods.find(node.id)
    known = [spec.name for spec in dataclasses.fields(method)]
    options: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg not in known and keyword.arg not in methods.aliases(method):
            raise InvalidRecipe(_unknown_option(node.id, keyword.arg, known))
        if keyword.arg in options:
            raise InvalidRecipe(f"{node.id}: {keyword.arg} is given twice; leave one")
        options[keyword.arg] = _constant(node.id, keyword)
    return method(**options)


def _unknown_option(method: str, name: str | None, known: list[str]) -> str:
    if not name:
        return f"{method}: options are given by name, as in bits=8"
    near, has = nearest(name, known), ", ".join(known) or "none"
    refused = f"{method} has no option {name!r}{f' ({near})' if near else ''}"
    return f"{refused}; it has {has}: see `microbudget methods {method}`"


def _constant(method: str, keyword: ast.keyword) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        shown = _short(ast.unparse(keyword.value))
        raise InvalidRecipe(
            f"{method}: {keyword.arg} must be a number, text, True, False or None, not {shown}"
        ) from error
