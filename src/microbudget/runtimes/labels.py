"""Labels: a model's outputs and the data's classes, matched by name; which output of a graph has the scores."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence

from ..errors import InvalidOption, LabelsDisagree, UnsupportedModel
from ..model import Model

# ImageNet's lists: "n01440764 tench, Tinca tinca", with or without the number, the code and the further names.
_CODED = re.compile(r"(?:\d+[:,\s]\s*)?(?:(n\d{8})[:,\s]\s*)?(.*)", re.DOTALL)


def match_labels(model: Model, labels: tuple[str, ...]) -> tuple[int, ...]:
    """For each of the data's labels the index of the model's output.

    Names are compared as they are written, and where that fails as `_aliases` reads them. A model without names takes
    the data's labels in their order when the counts agree. Raises LabelsDisagree.
    """
    if model.labels is None:
        return tuple(range(len(labels)))  # the judge checks the number of outputs
    found = _places(model.labels, labels)
    if found is None:
        if several := _ambiguous(model.labels, labels):
            raise LabelsDisagree(several)
        known = _by_alias(model.labels, labels)
        unknown = [label for label, places in zip(labels, known, strict=True) if not places] or list(labels)
        raise LabelsDisagree(
            f"{len(unknown)} of the data's {len(labels)} labels are unknown to the model, such as {unknown[0]!r};"
            f" it knows {len(model.labels)}, such as {model.labels[0]!r}. Teach it yours: `microbudget shrink`"
            " finetunes by itself, a recipe begins with finetune()"
        )
    return found


def _places(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """For each label the place of its name; None where one has none."""
    exact = _matched(names, labels)
    found = exact if None not in exact else _matched_by_alias(names, labels)
    return None if found is None else tuple(place for place in found if place is not None)


def _matched(names: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    places: dict[str, deque[int]] = defaultdict(deque)  # ImageNet has two cranes: the n-th is matched with the n-th
    for position, name in enumerate(names):
        places[name].append(position)
    return [
        None if label not in places else places[label].popleft() if len(places[label]) > 1 else places[label][0]
        for label in labels
    ]


def _by_alias(names: Sequence[str], labels: Sequence[str]) -> list[set[int]]:
    """For each label the places of the outputs that it may mean."""
    outputs: dict[str, set[int]] = defaultdict(set)
    for position, name in enumerate(names):
        for alias in _aliases(name):
            outputs[alias].add(position)
    return [set[int]().union(*(outputs.get(alias, set()) for alias in _aliases(label))) for label in labels]


def _ambiguous(names: Sequence[str], labels: Sequence[str]) -> str:
    """The message about a label that may mean several outputs; "" where the others are unknown anyway."""
    found = _by_alias(names, labels)
    if not all(found):
        return ""
    for label, places in zip(labels, found, strict=True):
        if len(places) > 1:
            listed = ", ".join(f"{names[place]!r} (output {place})" for place in sorted(places))
            return f"the data's label {label!r} could be each of the model's {listed}: call it by that whole name"
    return ""


def about_same_names(names: Sequence[str] | None, labels: Sequence[str]) -> str:
    """The warning about a label of the data that is the name of several outputs; "" where there is none.

    ImageNet has two outputs `crane` and two `maillot`. Data with as many such classes are matched in their order.
    """
    counts = Counter(names or ())
    for label in dict.fromkeys(labels):
        if counts[label] > 1 and labels.count(label) != counts[label]:
            first, *others = (str(place) for place, name in enumerate(names or ()) if name == label)
            return (
                f"the model's outputs {first} and {', '.join(others)} are both called {label!r}, and the data have"
                f" {labels.count(label)} class of that name, which is taken for output {first}. If that is wrong, give"
                " the outputs different names (labels.txt) and the class the right one"
            )
    return ""


def _matched_by_alias(names: Sequence[str], labels: Sequence[str]) -> list[int | None] | None:
    """By names that mean one output only; None where a label has none, or two labels have the same."""
    found = _by_alias(names, labels)
    if any(len(places) != 1 for places in found) or len(set[int]().union(*found)) < len(found):
        return None
    return [places.pop() for places in found]


def _aliases(name: str) -> Iterator[str]:
    """What a label may be called: in lower case with spaces, without its number, by its WordNet code, by each name."""
    text = " ".join(name.replace("_", " ").casefold().split())
    yield text
    code, rest = _CODED.fullmatch(text).groups()  # type: ignore[union-attr] # it matches everything
    if code:
        yield code
    if rest:
        yield from {rest, *(part.strip() for part in rest.split(","))} - {""}


def knows_labels(model: Model, labels: tuple[str, ...]) -> bool:
    """Whether the model names an output for each of the data's labels; also where there are no labels."""
    return not labels or (model.labels is not None and known_outputs(model, labels, len(model.labels)) is not None)


def known_outputs(model: Model, labels: tuple[str, ...], outputs: int) -> tuple[int, ...] | None:
    """As `match_labels`, of a model with so many outputs; None where it does not know the labels."""
    if model.labels is None and outputs != len(labels):
        return None
    try:
        places = match_labels(model, labels)
    except LabelsDisagree:
        return None
    return places if max(places) < outputs else None


def order_of(names: tuple[str, ...] | None, columns: Sequence[int], outputs: int) -> list[int]:
    """The indices of all outputs: first those of the data's labels, then the others by name, or as they come."""
    rest = sorted(set(range(outputs)) - set(columns))
    if names is not None:
        rest.sort(key=lambda place: (names[place], place))
    return [*columns, *rest]


def other_labels(names: tuple[str, ...] | None, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names of the outputs that are none of the data's labels, in the order of `order_of`; None where unknown."""
    found = None if names is None else _places(names, labels)
    if names is None or found is None:
        return None
    return tuple(names[place] for place in order_of(names, found, len(names))[len(labels) :])


def for_labels(model: Model, labels: tuple[str, ...], output: str | None = None) -> Model:
    """The model with what only the data tell: which of several outputs has the scores, and the outputs' names.

    A model without names gets the data's labels where it has as many outputs. output: a name that the user chose.
    Warns of a class that is the name of several outputs. Raises UnsupportedModel with the outputs where the right one
    is not known, InvalidOption for `output` of a format without named outputs.
    """
    if about := about_same_names(model.labels, labels):
        warnings.warn(about, stacklevel=2)
    if model.format != "onnx":
        if output is not None:
            raise InvalidOption(
                f"--output {output} names an output of an .onnx file, and {model.path} is {model.format}"
            )
        return model
    from .onnx.interface import read_signature

    signature = read_signature(model.weights)
    recorded = model.record.output if model.record.output in {port.name for port in signature.outputs} else None
    try:
        port = signature.scores(len(model.labels or labels) or None, output or recorded)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{model.path}: {error}") from error
    if model.labels is not None and port.width not in (None, len(model.labels)):
        raise UnsupportedModel(
            f"{model.path} has {port.width} classes in its output {port.name}, but {len(model.labels)} labels are named"
            " (in its metadata, or in a labels.txt or config.json beside it): give each output its name"
        )
    if len(signature.outputs) > 1 or model.record.output is not None:
        model = model.with_record(output=port.name)
    if model.labels is None and labels and port.width == len(labels):
        return model.with_record(labels=labels)
    return model


def output_names(model: Model) -> tuple[str, ...]:
    """The names of the outputs of an `.onnx` file; none of another format."""
    if model.format != "onnx":
        return ()
    from .onnx.interface import read_signature

    return tuple(port.name for port in read_signature(model.weights).outputs)


def check_labels(model: Model, labels: tuple[str, ...]) -> None:
    """Raise LabelsDisagree for a model that cannot answer with the data's labels, before anything is computed."""
    match_labels(model, labels)
    if model.labels is None and model.format == "onnx":
        from .onnx.interface import read_signature

        width = read_signature(model.weights).scores(len(labels), model.record.output).width
        if width is not None and width != len(labels):
            raise LabelsDisagree(
                f"{model.path} names no labels and has {width} outputs; the data have {len(labels)} labels. Use data"
                " with its classes, write their names into a labels.txt beside it, a line each in the order of the"
                " outputs, or teach it yours: `microbudget shrink` finetunes by itself"
            )
