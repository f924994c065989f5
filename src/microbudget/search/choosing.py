"""choose(): which of several networks to begin with, by what they cost here and what their frozen features are worth.

Each network is taken at several input sizes. Its features of the training examples are computed once, and a linear head
on them is cross-validated. The network with such a head is then rounded to 8 bits, weighed, and timed in turns with the
first one. Nothing is trained through a network, and no label of validation or test is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack, cast

import numpy as np

from ..data.saved import Source, is_saved
from ..errors import InvalidOption, LabelsDisagree, UnsupportedModel
from ..judge.budget import Budget
from ..judge.judging import judging_of
from ..judge.quality import Quality, interval
from ..kind import find_facet, having
from ..methods import Context, Method
from ..methods.quantize import Quantize
from ..model import Model
from ..recipes.build import build_step
from ..runs.run import Run, check_place, held, without_trace
from ..runtimes.labels import knows_labels, match_labels, order_of
from ..runtimes.loading import load
from ..task import Data, DataOptions, Scores, Task, open_data
from ..training.cross_validation import check_enough, fold_of_each, out_of_fold, whole_head
from ..training.head import HeadSettings
from ..training.head_data import Features, labels_of
from .chosen import Chosen, WhoseHead
from .frozen import Frozen
from .options import RunKeywords, RunOptions, read_keywords
from .shape_costs import Costs, Weighed

# What 8 bits cost does not depend on how well they are rounded.
INTEGERS = Quantize(observer="min_max", corrections="none", samples=8)


def choose(
    models: Sequence[str | Path | Model],
    data: Data,
    budget: Budget | None = None,
    *,
    out: str | Path | None = None,
    **options: Unpack[RunKeywords],
) -> Chosen:
    """Rank networks at several input sizes by size, latency, and what their frozen features are worth on the data.

    out: a folder for what was computed; a later `shrink` into it uses the features again. None: nothing is kept.
    options: as of `shrink`. Raises InvalidOption for models that cannot be compared, LabelsDisagree where
    they know the data's labels among different ones, BadData where a class has too few examples, and what loading
    models and data raises.
    """
    how, limits = read_keywords(budget, options)
    given = opened(models)
    models = [str(model.path) if isinstance(name, Model) else name for name, model in zip(models, given, strict=True)]
    with _folder(out, data, models) as folder:
        task = _task(data, given[0].task, how, None if out is None else folder / "cache")
        chosen = _Choosing(models, given, task, limits, how, folder).chosen()
        if out is not None:
            paths = dict(zip(map(str, models), given, strict=True))
            path = str(paths[chosen.begin.network].path.resolve())
            begun = {"made_of": made_of(given, data, limits, how), "path": path}
            Run(folder).save_beginning({**chosen.as_dict(), **begun})
        return chosen


def made_of(given: Sequence[Model], data: Data, budget: Budget, how: RunOptions) -> dict[str, Any]:
    """What decides a choice, JSON-ready: with the same it need not be made again."""
    named = data if isinstance(data, (str, Path)) else getattr(data, "name", type(data).__name__)
    limits = {name: value for name, value in budget.as_dict().items() if name != "minutes"}
    return {"models": [list(_content(each)) for each in given], "data": str(named), "seed": how.seed, "budget": limits}


def opened(models: Sequence[str | Path | Model]) -> list[Model]:
    """The models, which are several, different, and of one kind."""
    if len(models) < 2:
        raise InvalidOption(
            f"choose takes two networks or more, not {len(models)}: `microbudget measure` is about one, and"
            " `microbudget shrink MODEL` makes one smaller"
        )
    given = [load(model) for model in models]
    places = dict[tuple[str, ...], int]()
    for place, (name, model) in enumerate(zip(models, given, strict=True)):
        first = places.setdefault(_content(model), place)
        if first != place:
            same = (
                f"{name} is given twice"
                if str(models[first]) == str(name)
                else f"{models[first]} and {name} are the same model"
            )
            raise InvalidOption(f"{same}: give different networks")
    kinds = {model.task: model for model in given}
    if len(kinds) > 1:
        found = ", ".join(f"{model.path} for {kind}" for kind, model in kinds.items())
        raise InvalidOption(f"the models are for different tasks: {found}; give networks for one of them")
    return given


def _content(model: Model) -> tuple[str, ...]:
    """What makes it another model: its files whatever they are called, and how its inputs are prepared."""
    digests = []
    for file in model.files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return (*sorted(digests), json.dumps(model.record.preprocessing, sort_keys=True))


@contextlib.contextmanager
def _folder(out: str | Path | None, data: Data, models: Sequence[str | Path | Model]) -> Iterator[Path]:
    """The folder to work in, locked; a temporary one that goes away where the user gave none."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="microbudget-choose-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
        return
    folder = Path(out)
    for model in models:
        check_place(folder, data=data.name if isinstance(data, Source) else data, model=model)
    with without_trace(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            yield folder


def _task(data: Data, kind: str, how: RunOptions, cache: Path | None) -> Task:
    """The data, cut as for a training: what is compared is what `shrink` will train on."""
    if not isinstance(data, (str, Path)) and not is_saved(data):
        return data
    options = DataOptions(
        seed=how.seed, cache=cache, normalizer=how.normalizer, columns=how.columns, progress=how.progress
    )
    return open_data(cast(str, data), kind, options)


@dataclass(frozen=True)
class _Network:
    """A given network: its name, its model, its features."""

    name: str
    model: Model
    frozen: Frozen
    known: bool  # whether it knows the data's labels


class _Choosing:
    """The networks on one task."""

    def __init__(
        self,
        names: Sequence[str | Path | Model],
        given: Sequence[Model],
        task: Task,
        budget: Budget,
        how: RunOptions,
        folder: Path,
    ) -> None:
        """Check everything that can be checked before anything is computed."""
        self._part, self._budget, self._how, self._folder = _part_of(task.kind), budget, how, folder
        # The lines of the steps are about models that ship; these are only weighed and timed.
        self._context = Context(
            task, folder / "cache", seed=how.seed, threads=how.fixed_threads, progress=how.progress.without_lines()
        )
        self._task, self._examples = task, task.examples("train")
        judging = judging_of(task)
        resolved = [judging.resolved(model, how.output) for model in given]
        known = [knows_labels(model, task.labels) for model in resolved]
        _check_classes([model for model, one in zip(resolved, known, strict=True) if one])
        self._folds = check_enough(task)
        self._costs = Costs(judging, how)
        self._left_out: dict[str, str] = {}
        self._networks = []
        for name, model, one in zip(names, resolved, known, strict=True):
            how.progress.doing(f"opening {model.path.name}")
            self._networks.append(_Network(str(name), model, self._part.frozen(model, self._context), one))
            self._say_what_it_has_seen(str(name), model)

    def _say_what_it_has_seen(self, name: str, model: Model) -> None:
        seen = len({example.key for example in self._examples} & set(model.record.seen))
        if seen:
            self._how.progress.warn(
                f"{name} was made with {seen} of the {len(self._examples)} {self._part.EXAMPLES} that the networks are"
                " compared on: it looks better than it is"
            )

    def chosen(self) -> Chosen:
        """Every shape, weighed and timed."""
        weighed = [one for network in self._networks for one in self._shapes(network)]
        shapes = self._costs.timed(weighed, self._task)
        return Chosen(tuple(shapes), self._budget, self._folds, self._left_out, self._how.seed)

    def _shapes(self, network: _Network) -> Iterator[Weighed]:
        """A network at its own input size, then at smaller ones."""
        whole = list(self._at(network, network.model, network.frozen))
        yield from whole
        for step in self._part.smaller(network.model, self._task):
            try:
                yield from self._smaller(network, step, whole)
            except UnsupportedModel as error:
                self._left_out[f"{network.name} {step.short()}"] = str(error)
                self._how.progress.say(f"{network.name}: {step.short()} is left out: {error}")

    def _at(self, network: _Network, model: Model, frozen: Frozen) -> Iterator[Weighed]:
        """With a new head, and with its own where that knows the labels."""
        features = self._features(network, model, frozen)
        head = whole_head(features, labels_of(self._examples), len(self._task.labels), HeadSettings(), self._how.seed)
        folder = self._empty("new", model)
        yield self._weighed(network, model, "new", self._cross_validated(features), frozen.with_head(head, folder))
        if network.known:
            folder = self._empty("own", model)
            yield self._weighed(network, model, "own", self._own(network, features), frozen.as_it_is(folder))

    def _smaller(self, network: _Network, step: Method, whole: Sequence[Weighed]) -> Iterator[Weighed]:
        """The same weights on a smaller input; where the graph cannot be made smaller, of the given model anew."""
        store = self._folder / "models"
        try:
            parts = [
                (
                    one,
                    build_step(one.unrounded, step, self._context, store),
                    build_step(one.model, step, self._context, store),
                )
                for one in whole
            ]
        except UnsupportedModel:
            if network.model.format == "onnx":
                raise
            model = build_step(network.model, step, self._context, store)
            yield from self._at(network, model, self._part.frozen(model, self._context))
            return
        first = parts[0][1]
        features = self._features(network, first, self._part.frozen(first, self._context))
        for one, unrounded, rounded in parts:
            scores = self._own(network, features) if one.head == "own" else self._cross_validated(features)
            yield replace(
                one, size=self._part.size_of(unrounded), quality=_quality(scores), unrounded=unrounded, model=rounded
            )

    def _features(self, network: _Network, model: Model, frozen: Frozen) -> Features:
        self._how.progress.doing(f"{network.name} {self._part.size_of(model)}: features")
        return frozen.features(self._examples, self._how.progress)

    def _cross_validated(self, features: Features) -> Scores:
        """What a new head answers to examples that it has not learnt from."""
        folds = fold_of_each(self._examples, self._folds, self._how.seed)
        labels, classes = labels_of(self._examples), len(self._task.labels)
        logits = out_of_fold(features, labels, folds, classes, HeadSettings(), self._how.seed)
        return self._task.score(logits, self._examples)

    def _own(self, network: _Network, features: Features) -> Scores:
        """What its own head answers: the data's classes first, then the others."""
        logits = network.frozen.own_logits(features)
        columns = match_labels(network.model, self._task.labels)
        order = order_of(network.model.labels, columns, logits.shape[1])
        return self._task.score(logits[:, np.array(order)], self._examples)

    def _weighed(self, network: _Network, model: Model, head: WhoseHead, scores: Scores, unrounded: Model) -> Weighed:
        """The network as it would ship: in 8 bits, or in float where its graph cannot be rounded."""
        try:
            rounded = build_step(unrounded, INTEGERS, self._context, self._folder / "models")
        except UnsupportedModel as error:
            self._how.progress.warn(f"{network.name} is weighed and timed in float: {error}")
            rounded = unrounded
        return Weighed(network.name, self._part.size_of(model), head, _quality(scores), unrounded, rounded)

    def _empty(self, head: str, model: Model) -> Path:
        folder = self._folder / "models" / f"{head}-{model.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _part_of(kind: str) -> ModuleType:
    found = find_facet(kind, "choosing")
    if found is None:
        raise UnsupportedModel(
            f"choose is for {' and '.join(having('choosing'))}, and these models are for {kind}: `microbudget compare`"
            " takes two of them"
        )
    return found


def _quality(scores: Scores) -> Quality:
    return Quality(scores, *interval(scores))


def _check_classes(knowing: Sequence[Model]) -> None:
    """Networks that keep their heads must answer the same question. Raises LabelsDisagree."""
    for first, other in itertools.pairwise(knowing):
        names, others = first.labels or (), other.labels or ()
        if len(names) == len(others) and knows_labels(first, others) and knows_labels(other, names):
            continue
        raise LabelsDisagree(
            f"{first.path} knows {len(names)} classes and {other.path} {len(others)} others, and the data's are among"
            " both: their own answers are to different questions. Give networks with the same classes, or compare two:"
            f" `microbudget compare {first.path} {other.path} --data DATA`"
        )
