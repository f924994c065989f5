"""prune: remove what matters least: channels, layers, or single weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InvalidOption
from ...machine.allocator import reused_memory
from ...machine.waiting import WAITED
from ...model import Model, Record
from ...task import CALIBRATION, Use
from ...training.deadline import Clock
from .. import Context, Method, option

if TYPE_CHECKING:
    from .channels import Plan
    from .latency import Decision, Ratio
    from .target import PruningTarget

DEFAULT_SPARSITY = 0.5
SHARES = ("0.7x", "0.5x", "0.35x", "0.25x")
GRIDS = {"size": SHARES, "latency": SHARES, "sparsity": (0.25, 0.5, 0.7)}
IMPORTANCES = {  # of each structure; blocks are dropped by their measured effect
    "channels": ("magnitude", "taylor", "batchnorm"),
    "layers": ("magnitude",),
    "weights": ("magnitude", "wanda"),
}
_FRACTION = re.compile(r"\s*(0?\.\d+)\s*x\s*")


@dataclass(frozen=True)
class Prune(Method):
    """Remove the least important channels, heads, neurons or blocks: smaller and faster without special kernels."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}  # onnx: of photos
    grids: ClassVar[dict[str, tuple[Any, ...]]] = GRIDS
    revision: ClassVar[int] = 5

    structure: str = option(
        "channels",
        "whole channels, heads and neurons; whole layers; or single weights, which saves nothing here",
        choices=("channels", "layers", "weights"),
    )
    sparsity: float | None = option(None, "fraction that is removed, above 0 and below 1; 0.5 if no target is given")
    latency: str | None = option(None, "instead: time in ONNX Runtime as a fraction of the model's own, such as '0.5x'")
    size: str | None = option(None, "instead: parameters as a fraction of the model's own, such as '0.5x'")
    importance: str = option(
        "magnitude",
        "what is least important: by weights, by gradients, by the scale of batch norm, by weights and inputs",
        choices=("magnitude", "taylor", "batchnorm", "wanda"),
    )
    samples: int = option(64, "training examples to measure with", low=2, high=100_000)
    repair: int = option(
        256,
        "channels: training examples at most by which the layers are fitted, without labels, to what they computed"
        " before the cut; 0: only the statistics of batch norm are matched",
        low=0,
        high=100_000,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("sparsity", "latency", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidOption(f"prune: {' and '.join(given)} are targets of the same cut: give one of them")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise InvalidOption(
                f"prune: sparsity must be above 0 and below 1, the fraction that is removed, not {self.sparsity!r}"
            )
        if (self.structure != "channels" and self.size) or (self.structure == "weights" and self.latency):
            raise InvalidOption(
                f"prune: structure={self.structure!r} takes sparsity; size is for channels, latency also for layers"
            )
        if self.importance not in IMPORTANCES[self.structure]:
            takes = f"it takes {' or '.join(map(repr, IMPORTANCES[self.structure]))}"
            advice = (
                "blocks are dropped by their measured effect, leave it out" if self.structure == "layers" else takes
            )
            raise InvalidOption(
                f"prune: importance={self.importance!r} is not for structure={self.structure!r}: {advice}"
            )
        self._fractions()

    def _fractions(self) -> dict[str, float]:
        return {
            name: _fraction(name, text) for name in ("latency", "size") if (text := getattr(self, name)) is not None
        }

    def learns_from(self, input_format: str) -> Use:
        """Importance and losses are measured on a few examples."""
        return "calibration" if self.samples <= CALIBRATION else "training"

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write the smaller model; what was measured goes into the record. Raises what tracing and allocation raise."""
        import torch

        from .target import choose_examples

        part = self.part(context, model)
        if context.threads:
            torch.set_num_threads(context.threads)
        target = part.open_target(self, model, context, choose_examples(context, self.samples))
        doing = {"channels": self._channels, "layers": self._layers, "weights": self._weights}
        with reused_memory():
            network, state, report = doing[self.structure](model, context, target)
        _write(network, state, target, model, out)
        context.progress.detail(f"prune     {_summary(report)}")
        record = model.record.with_seen(target.keys).with_report("prune", {"structure": self.structure, **report})
        return replace(record, state=state)

    def _channels(self, model: Model, context: Context, target: PruningTarget) -> _Result:
        from .channels import plan
        from .configs import one_width
        from .repair import finish

        uniform = target.uniform or one_width(target.network.config)
        made_of = [model.fingerprint, self.importance, self.samples, context.task.fingerprint, context.seed, uniform]
        journal = context.shared_journal("sensitivity", made_of)
        clock = Clock(context.deadline, "the sensitivity of the layers")
        made = plan(target, self.importance, context.progress, uniform=uniform, journal=journal, clock=clock)
        counts, measured = self._counts(made, model, context)
        network = made.cut(counts)
        report = finish(made, counts, network, self._more(model, context, target)) | measured
        pruned = [(family.width, family.width - count) for family, count in zip(made.families, counts, strict=True)]
        return network, target.state_of(network, pruned, model.record.state), report

    def _counts(self, made: Plan, model: Model, context: Context) -> tuple[Sequence[int], dict[str, float]]:
        """Channels to remove from each layer, and what was measured to choose them, for the report."""
        fractions = self._fractions()
        if "size" in fractions:
            return made.for_size(fractions["size"]), {}
        if "latency" not in fractions:
            return made.for_sparsity(self.sparsity or DEFAULT_SPARSITY), {}
        from .latency import Decision, reach

        path = self._decision_file(model, context)
        decided = Decision.read(path)
        if decided is None or len(decided.counts) != len(made.families):
            time = _stopwatch(made.target, context)
            decided = reach(
                fractions["latency"], made.for_time, lambda counts: time(made.cut(counts), f"{sum(counts)} channels")
            )
            decided.save(path)
        return decided.counts, _measured(decided)

    def _more(self, model: Model, context: Context, target: PruningTarget) -> Callable[[int], PruningTarget | None]:
        """A number -> the target with at most so many of the examples for the repair; None where there are none."""
        from .target import choose_examples

        def more(most: int) -> PruningTarget | None:
            if self.repair < 2:
                return None
            wanted = min(self.repair, most)
            examples = choose_examples(context, wanted, unlabelled=True)
            found: PruningTarget = self.part(context, model).open_target(self, model, context, examples)
            target.keys = (*target.keys, *found.keys)  # seen, too
            return found

        return more

    def _decision_file(self, model: Model, context: Context) -> Path:
        made_of = [model.fingerprint, str(self), self.revision, context.task.fingerprint, context.seed]
        name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]
        return context.decisions / f"{name}.json"

    def _layers(self, model: Model, context: Context, target: PruningTarget) -> _Result:
        from ...runtimes.hf.widths import drop, widths_of
        from .blocks import choose, renamed, shortened
        from .target import with_parts

        measured: dict[str, float] = {}
        enough = self._enough(target, model, context, measured) if self.latency else None
        fraction, journal = self.sparsity or DEFAULT_SPARSITY, context.journal("prune")
        names, steps = choose(target, fraction, context.progress, enough, journal)
        report = {"dropped": list(names), "steps": steps, "divergence": steps[-1]["divergence"], **measured}
        state, network = dict(model.record.state), target.network
        smaller = None if state.get("widths") or state.get("dropped") else shortened(network, names)
        kept = renamed(state.get("zeros", ()), names)
        if smaller is not None:
            return smaller, with_parts(state, zeros=list(kept.values())), report
        drop(network, names)
        dropped = [*state.get("dropped", ()), *names]
        return network, with_parts(state, dropped=dropped, widths=widths_of(network, dropped), zeros=list(kept)), report

    def _enough(self, target: PruningTarget, model: Model, context: Context, measured: dict[str, float]) -> Any:
        """Dropped blocks -> whether the network is fast enough without them; the measured time goes into `measured`."""
        from .blocks import without
        from .latency import Decision

        path, limit = self._decision_file(model, context), self._fractions()["latency"]
        decided = Decision.read(path)
        time = None if decided else _stopwatch(target, context)

        def enough(names: Sequence[str]) -> bool:
            found = decided
            if time is not None:
                with without(target.network, names):
                    ratio = time(target.network, f"{len(names)} blocks")
                found = Decision((len(names),), ratio.times, ratio.waited)
                if found.measured <= limit:
                    found.save(path)
            assert found is not None
            measured.clear()
            measured.update(_measured(found))
            return len(names) >= found.counts[0] and found.measured <= limit

        return enough

    def _weights(self, model: Model, context: Context, target: PruningTarget) -> _Result:
        from .target import divergence, with_parts
        from .zeros import prunable, prune, savings

        reference = target.logits()
        score = "wanda" if self.importance == "wanda" else "magnitude"
        names = prune(target, self.sparsity or DEFAULT_SPARSITY, score)
        if not any(bool((target.network.get_parameter(name) == 0).any()) for name in names):
            of = "row" if score == "wanda" else "layer"
            raise InvalidOption(
                f"prune: sparsity={self.sparsity!r} is less than one weight of any {of}: nothing would change"
            )
        report: dict[str, Any] = {"divergence": divergence(reference, target.logits())}
        report |= savings(target.network, names)
        if left := [name for name in dict(prunable(target.network)) if name not in names]:
            report["not_called"] = left
            context.progress.warn(f"prune: {', '.join(left[:5])} stay whole: no example reaches them")
        context.progress.detail(
            "prune     zeros are stored and multiplied like other numbers: not smaller and not faster in this runtime;"
            f" compressed (zip) the weights take {report['compressed_share']:.0%}"
        )
        return target.network, with_parts(model.record.state, zeros=names), report


_Result = tuple[Any, dict[str, Any], dict[str, Any]]  # network, state, report


def _fraction(option: str, text: str) -> float:
    """0.5 of "0.5x". Raises InvalidOption for what is not between 0 and 1."""
    match = _FRACTION.fullmatch(text)
    if not match or not float(match[1]) > 0:
        raise InvalidOption(
            f"prune: {option} must be a fraction of the model's own below 1, such as '0.5x' for half, not {text!r}"
        )
    return float(match[1])


def _measured(decided: Decision) -> dict[str, float]:
    """For the report; with the waiting where other programs had the processor."""
    found = {"latency_left_measured": decided.measured}
    return found if decided.waited < WAITED else {**found, "waited_for_processor": decided.waited}


def _stopwatch(target: PruningTarget, context: Context) -> Callable[[Any, str], Ratio]:
    """A smaller network, and what it lost, in words -> its time in units of the given one's."""
    from .latency import time_ratio

    export = target.onnx
    if export is None:
        raise InvalidOption("prune: latency is measured in ONNX Runtime, not for this model: use size or sparsity")
    before = export(target.network)
    inputs = {name: tensor[:1].numpy() for name, tensor in target.example.items()}

    def ratio(network: Any, lost: str) -> Ratio:
        found = time_ratio(before, export(network), inputs, context.threads)
        busy = f", other programs had the processor for {min(1, found.waited):.0%} of it" if found.busy else ""
        context.progress.detail(f"prune     {lost} fewer: {found.times:.2f}x of the time{busy}")
        return found

    return ratio


def _write(network: Any, state: dict[str, Any], target: PruningTarget, model: Model, out: Path) -> None:
    """The network, and from the given folder all files but weights and config."""
    from ...runtimes.hf import widths

    if widths.special(state):
        widths.mark(network)
    target.save(network, out)
    model.copy_beside(out)


def _summary(report: dict[str, Any]) -> str:
    parts = [f"{name.replace('_', ' ')} {value:.0%}" for name, value in report.items() if name.endswith("_left")]
    parts += [f"dropped {', '.join(report['dropped'])}"] if "dropped" in report else []
    return ", ".join([*parts, f"answers differ by {report['divergence']:.3g} nats"])
