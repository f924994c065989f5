"""Everything that a user can cause, as one tree.

Each error says what came, what is allowed and what to do next. `exit_status` is what the command line returns:
2 for bad input, 3 for a failure of the machine or of a process.
"""

import difflib
import re
from collections.abc import Collection, Iterable


class MicrobudgetError(Exception):
    """The root: an expected error, whose message is meant for the user."""

    exit_status = 3


class BadInput(MicrobudgetError):
    """Something that the user gave cannot be used."""

    exit_status = 2


class InvalidUnit(BadInput):
    """A size, time, energy or loss that cannot be read, such as '2 parsecs'."""


class InvalidOption(BadInput):
    """An option that a verb or method does not have, or a value out of its range."""


class InvalidRecipe(BadInput):
    """A recipe text that does not parse, names an unknown method, or whose formats do not fit."""


class ModelNotFound(BadInput):
    """No such folder, file, or hub id within reach."""


class UnsupportedModel(BadInput):
    """A model that we cannot use: not ONNX, two inputs, fixed batch, unknown architecture."""


class UnsafeModel(UnsupportedModel):
    """A checkpoint that could run code when it is opened (a pickle)."""


class UnsupportedPreprocessing(BadInput):
    """A preprocessing configuration with a key or processor that we do not know."""


class BadData(BadInput):
    """A data folder or file that cannot serve the task."""


class LabelsDisagree(BadInput):
    """The model's labels are not the data's."""


class RunMismatch(BadInput):
    """The run folder was made from another model, other data or another seed."""


class RunLocked(BadInput):
    """The run folder is in use by another process."""


class AlreadyExists(BadInput):
    """A file that exists would be overwritten; `--force` allows it."""


class MissingExtra(BadInput):
    """An optional dependency is not installed; the message says which extra has it."""


class Failed(MicrobudgetError):
    """The machine or a process failed: not the user's input."""


class DiskFull(Failed):
    """No space was left while writing; nothing that stood before was lost."""


class WorkerFailed(Failed):
    """A worker process crashed, hung or was stopped; the message has the reason."""


class Diverged(Failed):
    """The loss of a training became NaN or infinite before an epoch was whole: there are no good weights to keep."""


class OutOfTime(Failed):
    """The minutes of the budget do not suffice for this; what was done so far is kept."""


class BrokenModel(Failed):
    """A model whose answers are NaN, constant or of another shape: it is reported, not measured."""


_SOURCE = re.compile(
    r"(?:\b[A-Za-z]:)?[/\\][^\s:,'\"]*\.(?:py|cc|cpp|c|h|hpp|rs)\b(?::\d+)?:?\s*"
    r"(?:(?:[\w:]+[\s*&]+)?\w+(?:::~?\w+)+\((?:[^()]|\([^()]*\))*\)\s*)?"  # the function of C++ that is there
)


def what_it_said(error: Exception) -> str:
    """Another library's error message, whole and in one line; the error's class where the message is empty.

    The reason is often on the second line. Paths of the library's own sources, and functions after
    them, are left out.
    """
    text = " ".join(_SOURCE.sub("", str(error)).split())
    return text or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """What follows an error that a name does not exist, "did you mean size?"; "" where none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


def check_options(given: Iterable[str], known: Collection[str]) -> None:
    """Raises InvalidOption for the first name that is not known, with the nearest one, or else with all."""
    for name in given:
        if name not in known:
            raise InvalidOption(f"there is no option {name!r}: {nearest(name, known) or listed(known)}")


def listed(known: Iterable[str]) -> str:
    """All names that there are, for an error."""
    return f"there are {', '.join(known)}"
