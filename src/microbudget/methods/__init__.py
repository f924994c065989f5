"""Methods: each makes a model smaller or fitter, files in, files out. A method is found by its file's name.

What a method does for one kind of model is the module of its name in the kind's folder, `kinds/<kind>/<method>.py`,
which is found by name too: `apply(step, model, context, out)` there does the work, or what the method itself asks for.
Such a module may name the options that it reads as `OPTIONS`, and as `ADVICE` what to use in place of the others; and
the formats that it takes as `TAKES`, where these are not all of the method's. Where a kind has no such module the
method refuses it, with the attribute `INSTEAD` of the kind's `teaching.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import pkgutil
import types
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .. import kind as kinds
from ..errors import InvalidOption, InvalidRecipe, MissingExtra, UnsupportedModel, nearest
from ..machine.journal import Journal
from ..model import Model, Record
from ..progress import SILENT, Progress
from ..task import Example, Task, Use
from ..training.settings import Execution

DECISIONS = "decisions"


@dataclass(frozen=True)
class Context:
    """What a method may use in addition to the model: data, seed, threads, folders, and where to report.

    cache: what may be computed again. checkpoints: of this step alone; what is in it survives when the step is killed
    or fails, and is removed when the step is complete. None outside a build: nothing is kept. deadline: of
    `time.monotonic`; what takes long raises OutOfTime when it does not suffice, and is not cut short. It decides
    whether a result is there, not which, and so is no part of a fingerprint; but for a training whose step leaves the
    epochs to the time that there is, which its record says.
    """

    task: Task
    cache: Path
    seed: int = 0
    threads: int = 0  # 0: all cores
    reference: Model | None = None  # the teacher of distill
    progress: Progress = SILENT
    checkpoints: Path | None = None
    deadline: float | None = None

    @property
    def decisions(self) -> Path:
        """The folder of measurements that decided something. Unlike the rest of the cache it outlives a run."""
        return self.cache / DECISIONS

    @property
    def compared(self) -> Sequence[Example]:
        """Examples on which a conversion is checked, which learns nothing: of train, else of validation."""
        return self.task.examples("train") or self.task.examples("validation")

    def checkpoint(self, name: str) -> Path | None:
        """The file that a training of this step resumes from (see `train`)."""
        return None if self.checkpoints is None else self.checkpoints / f"{name}.pt"

    def journal(self, name: str) -> Journal:
        """What this step has found of its parts, such as layers: a step that is killed goes on from there."""
        return Journal(None if self.checkpoints is None else self.checkpoints / f"{name}.jsonl")

    def shared_journal(self, name: str, made_of: Sequence[Any]) -> Journal:
        """As `journal`, for what steps of other options find too. made_of: JSON-ready, all that decides the values."""
        digest = hashlib.sha256(json.dumps([name, *made_of]).encode()).hexdigest()[:24]
        return Journal(self.cache / "journals" / f"{digest}.jsonl")

    def execution(self, name: str) -> Execution:
        """How a training of this step is run. name: of its checkpoint, and in messages."""
        return Execution(self.seed, self.threads, self.checkpoint(name), self.deadline, name, self.progress)


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    always_shown: bool = False,
    alias: str | None = None,
) -> Any:
    """A field of a Method with its meaning and its range; low and high are allowed values.

    always_shown: the short form of a recipe shows it at its default too.
    alias: the name that the option had before; a recipe or a call that uses it gets a warning.
    """
    metadata = {
        "doc": doc, "low": low, "high": high, "choices": choices, "always_shown": always_shown, "alias": alias,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


class _Options(type):
    """Gives a method's class its options by their present names, also where a caller uses an earlier one."""

    def __call__(cls, *values: Any, **options: Any) -> Any:
        return super().__call__(*values, **_present_names(cls, options))


@dataclass(frozen=True)
class Method(metaclass=_Options):
    """A step of a recipe. Its fields are its options; `apply` writes files into a folder and returns their record.

    A subclass lives in the file of its name: `Finetune` in finetune.py. `revision` goes up when the same options
    give another result, so that old steps in a run are made again. `learns` is what the step learns from the data,
    which decides how data without splits are cut. `teaches`: whether it teaches a model the data's labels, so that a
    recipe for a model that does not know them may begin with it.
    """

    revision: ClassVar[int] = 1
    learns: ClassVar[Use] = "training"
    teaches: ClassVar[bool] = False
    formats: ClassVar[dict[str, str]] = {}  # input format -> output format
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {}  # by option, what `option=?` in a recipe stands for, safest first

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            value = _checked(self.name(), spec, hints[spec.name], getattr(self, spec.name))
            object.__setattr__(self, spec.name, value)

    @classmethod
    def name(cls) -> str:
        """The word in a recipe."""
        return cls.__name__.lower()

    def output_format(self, input_format: str) -> str:
        """The format that comes out. Raises InvalidRecipe when the input's format does not fit."""
        if input_format not in self.formats:
            takes = " or ".join(self.formats)
            raise InvalidRecipe(f"{self.name()} takes {takes}, but gets {input_format}")
        return self.formats[input_format]

    def learns_from(self, input_format: str) -> Use:
        """What the step learns from the data, with its options, on a model of this format.

        "nothing": it reads none, or only to check itself. "calibration": a few examples. "training": all it can get.
        """
        return self.learns

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write the new model's files into the empty folder `out`; the input stays as it is."""
        record: Record = self.part(context, model).apply(self, model, context, out)
        return record

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """Whatever else decides the result, by name, for the step's hash: a teacher, an importance matrix."""
        return {}

    def part(self, context: Context, model: Model | None = None) -> types.ModuleType:
        """The module with what this method does for the kind that the model and the data are for.

        Raises UnsupportedModel for a kind that has none, InvalidOption for an option that the kind does not read,
        MissingExtra where a library is not installed.
        """
        named = {"this model is": model.task if model else None, "these data are": context.task.kind}
        given = {what: kind for what, kind in named.items() if kind and kinds.exists(kind)}
        for what, kind in given.items():
            if self._part_of(kind) is None:
                raise UnsupportedModel(self._unsupported(what, kind))
        own = kinds.of_format(model.format) if model else None  # where both are of the user's own
        found = self._part_of(next(iter(given.values()), own or context.task.kind))
        if found is None:
            raise UnsupportedModel(self._unsupported("these data are", context.task.kind))
        self._refuse_foreign(found)
        takes = getattr(found, "TAKES", None)  # fewer formats than the method's, which a recipe has checked
        if model is not None and takes is not None and model.format not in takes:
            raise UnsupportedModel(
                f"{self.name()} of this kind takes {' or '.join(takes)}, but gets {model.format} ({model.path}): put it"
                " before export"
            )
        return found

    def _part_of(self, kind: str) -> types.ModuleType | None:
        try:
            return kinds.find_facet(kind, self.name())
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(__name__.partition(".")[0]):
                raise
            raise MissingExtra(
                f"{self.name()} needs {error.name} for {kind}: pip install 'microbudget[train]'"
            ) from error

    def _unsupported(self, what: str, kind: str) -> str:
        advice = getattr(kinds.find_facet(kind, "teaching"), "INSTEAD", "")
        supported = ", ".join(kinds.having(self.name()))
        refusal = f"{self.name()} does not support {kind}, which {what} for, but {supported}"
        return f"{refusal}: {advice}" if advice else refusal

    def _refuse_foreign(self, part: types.ModuleType) -> None:
        """Raises InvalidOption for an option that this part does not read and that is not at its default."""
        for spec in dataclasses.fields(self):
            if spec.name in _options_of(part, type(self)) or getattr(self, spec.name) == spec.default:
                continue
            parts = {kind: kinds.facet(kind, self.name()) for kind in kinds.having(self.name())}
            readers = [kind for kind, other in parts.items() if spec.name in _options_of(other, type(self))]
            raise InvalidOption(f"{self.name()}: {spec.name} is for {' and '.join(readers)}; {part.ADVICE}")

    def short(self) -> str:
        """The step with only the options that differ from their defaults."""
        shown = [
            f"{spec.name}={getattr(self, spec.name)!r}"
            for spec in dataclasses.fields(self)
            if spec.metadata["always_shown"] or getattr(self, spec.name) != spec.default
        ]
        return f"{self.name()}({', '.join(shown)})" if shown else self.name()

    def __str__(self) -> str:
        options = ", ".join(f"{spec.name}={getattr(self, spec.name)!r}" for spec in dataclasses.fields(self))
        return f"{self.name()}({options})"


def _options_of(part: types.ModuleType, method: type) -> tuple[str, ...]:
    """The options that a kind's part of a method reads; all where it does not say."""
    declared: tuple[str, ...] = getattr(part, "OPTIONS", tuple(spec.name for spec in dataclasses.fields(method)))
    return declared


def aliases(method: type) -> dict[str, str]:
    """The earlier names of a method's options, with the present one of each."""
    return {old: spec.name for spec in dataclasses.fields(method) if (old := spec.metadata.get("alias"))}


def _present_names(method: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options with present names; warns of each earlier one. Raises InvalidOption where both are given."""
    present = aliases(method)
    word = method.__name__.lower()
    for old in options.keys() & present.keys():
        if present[old] in options:
            raise InvalidOption(f"{word}: {old} is the earlier name of {present[old]}: give {present[old]} alone")
        warnings.warn(f"{word}: {old} is now called {present[old]}; the earlier name still works", stacklevel=3)
    return {present.get(name, name): value for name, value in options.items()}


def _checked(method: str, spec: Any, hint: Any, value: Any) -> Any:
    """The value in the field's type, or InvalidOption. An int is taken for a float, a bool never for a number."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return value
    if float in allowed and int not in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:
        names = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise InvalidOption(f"{method}: {spec.name} must be {names}, not {value!r}")
    low, high, choices = (spec.metadata.get(key) for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InvalidOption(f"{method}: {spec.name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
        raise InvalidOption(f"{method}: {spec.name} must be {bounds}, not {value!r}")
    return value


def names() -> tuple[str, ...]:
    """The methods there are: the modules of this package that hold a class of their name, alphabetically."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")))


def find(name: str) -> type[Method]:
    """The method's class. Raises InvalidRecipe with the methods there are."""
    if name not in names():
        near = nearest(name, names())
        raise InvalidRecipe(
            f"there is no method {name!r}{f': {near} There' if near else '; there'} are {', '.join(names())}"
        )
    module = importlib.import_module(f".{name}", __name__)
    method: type[Method] = getattr(module, name.capitalize())
    return method


def grid(method: type[Method], option: str) -> tuple[Any, ...]:
    """The values that an open option stands for, the safest first: those of `grids`, else its choices; may be none."""
    specs = {spec.name: spec for spec in dataclasses.fields(method)}
    choices: tuple[Any, ...] = specs[option].metadata["choices"]
    return method.grids.get(option, choices)


def describe(name: str) -> dict[str, Any]:
    """A method's purpose, formats and options, for `microbudget methods` and the docs."""
    method = find(name)
    hints = typing.get_type_hints(method)
    options = [
        {
            "name": spec.name,
            "type": getattr(hints[spec.name], "__name__", str(hints[spec.name])),
            "default": spec.default,
            **{key: spec.metadata[key] for key in ("doc", "low", "high", "choices")},
            "grid": grid(method, spec.name),
        }
        for spec in dataclasses.fields(method)
    ]
    purpose = (method.__doc__ or "").splitlines()[0]
    return {"name": name, "purpose": purpose, "formats": dict(method.formats), "options": options}
