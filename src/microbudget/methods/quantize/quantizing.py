"""Quantize an ONNX file: choose the scheme, calibrate, round with corrections, write, and report layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...errors import BadData, BrokenModel, InvalidOption, UnsupportedModel
from ...machine.journal import Journal
from ...progress import SILENT, Progress
from .calibration import Calibration, Samples, checked, first_examples, input_shapes
from .corrections import AUTO as AUTO_CORRECTIONS
from .corrections import CORRECTIONS, need_data, unknown_among
from .corrections import DEFAULT as DEFAULT_CORRECTIONS
from .crosslayer import equalize
from .divergence import mean_kl
from .graph import Graph, Layer
from .layer_report import LayerReport, reason, with_shares
from .layer_rounding import Rounding, Steps, round_layers
from .mapping import integer_range
from .mixed import TIGHTENINGS, MixedBits, MixedPrecision
from .placement import Placement, place
from .plan import FLOAT_BITS, Mapping, Plan, WeightFormat
from .prepare import read_graph
from .ranges import AUTO, Observed, choose, observe
from .scheme import Decision, Machine, decide, full_bits
from .sensitivity import activation_losses, nodes_kept_float
from .slim import slim
from .tables import about_tables
from .unquantized import computed_in_float
from .write import write

SMALL = 1_000_000  # weights up to which error-compensated rounding takes seconds, and is done at 8 bits too
FEW = 100  # examples, below which it overfits: at 8 bits rounding to nearest does better on others
CHECKED_EXAMPLES = 64  # that the finished file answers; all of them under a limit of divergence


@dataclass(frozen=True)
class Options:
    """What `quantize_graph` takes."""

    bits: int = 8  # of weights
    activation_bits: int | None = 8  # None: float
    observer: str = AUTO
    corrections: tuple[str, ...] = DEFAULT_CORRECTIONS
    keep_float: tuple[str, ...] = ()  # names of nodes
    keep_float_activations: int = 0  # tensors whose rounding loses most, to be left unrounded
    size_bytes: int | None = None  # mixed precision: the file at most
    max_kl: float | None = None  # mixed precision: the divergence at most, in nats
    output: str | None = None  # with the answers, by which the loss is judged; None: the first
    batch: int | None = None  # the one that the graph takes, where its inputs do not say so
    examples: int | None = None  # that the calibration holds; None: unknown, enough
    machine: Machine | None = None  # None: this one
    table_bits: int = 8  # of tables of embeddings, 8 or 4
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        integer_range(self.bits)
        if self.activation_bits not in (8, None):
            raise InvalidOption(f"activation_bits must be 8 or None (float), not {self.activation_bits!r}")
        unknown = [] if self.corrections == AUTO_CORRECTIONS else unknown_among(self.corrections)
        if unknown:
            raise InvalidOption(f"corrections has no {', '.join(unknown)}; it has {', '.join(CORRECTIONS)}")
        if self.keep_float_activations < 0:
            raise InvalidOption(f"keep_float_activations must not be negative, not {self.keep_float_activations!r}")
        if self.size_bytes is not None and self.max_kl is not None:
            raise InvalidOption("give size_bytes or max_kl, not both: one is the limit, the other the result")


@dataclass(frozen=True)
class Outcome:
    """The result: the layers, the decisions in words, and the answers' divergence."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...]
    kl: float | None  # nats per answer; None without any data
    size_bytes: int
    corrections: tuple[str, ...] = ()  # what was done, `auto` spelled out
    kl_is_fitted: bool = True  # whether the divergence is that on the calibration data, which rounding was fitted to


def quantize_graph(
    float_path: Path | str,
    calibration: Calibration | None,
    out_path: Path | str,
    *,
    fresh: Calibration | None = None,
    describe: Callable[[Any], None] | None = None,
    progress: Progress = SILENT,
    journal: Journal | None = None,
    **options: Any,
) -> Outcome:
    """Quantize the model of `float_path` into `out_path`; the options are the fields of Options.

    calibration: batches of inputs by name, without labels; give something that can be iterated again, else it is kept
    in memory. None is enough where nothing needs data. fresh: other such batches, on which the divergence that is
    reported is measured; without them it is measured on the calibration data, to which rounding was fitted. describe:
    puts metadata into the `onnx.ModelProto`, whose bytes count in `size_bytes`. journal: has what was found before a
    kill, to go on from there. Raises UnsupportedModel, BrokenModel, BadData or InvalidOption.
    """
    chosen = Options(**options)
    graph = read_graph(float_path)
    if describe is not None:
        describe(graph.model)
    if chosen.batch is not None:
        _fix_batch(graph.model, chosen.batch)
    return _Quantization(graph, (calibration, fresh), chosen, Steps(progress=progress, journal=journal)).run(
        Path(out_path)
    )


def _fix_batch(model: Any, size: int) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = size


def _ordered_outputs(model: Any, names: Sequence[str]) -> None:
    """Put the named outputs first, in this order."""
    found = list(model.graph.output)
    rank = {name: place for place, name in enumerate(names)}
    ordered = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in found]
    ordered.sort(key=lambda value: rank.get(value.name, len(rank)))
    del model.graph.output[:]
    model.graph.output.extend(ordered)


class _Quantization:
    """One quantization, step by step."""

    def __init__(
        self,
        graph: Graph,
        data: tuple[Calibration | None, Calibration | None],
        options: Options,
        steps: Steps,
    ) -> None:
        chosen = options.corrections if options.corrections != AUTO_CORRECTIONS else _auto_corrections(graph, options)
        self.graph, self.options, self.steps = graph, replace(options, corrections=chosen), steps
        _check_layers(graph, options.keep_float)
        self._outputs = list(graph.outputs)
        if options.output is not None:
            _ordered_outputs(graph.model, [options.output])  # until the file is written
        self.machine = options.machine or Machine.here()
        self.calibration, self.fresh = (
            None if each is None else checked(each, input_shapes(graph.model)) for each in data
        )
        self.notes = about_tables(graph, options.table_bits)
        self.examples = self.options.examples
        self.observed: dict[str, Observed] = {}
        self.rounding: dict[str, Rounding] = {}

    def run(self, out: Path) -> Outcome:
        """All steps, in order."""
        if "equalize" in self.options.corrections:
            self.graph, pairs = equalize(self.graph)
            self.notes.append(f"equalized {pairs} pairs of layers")
        kept = frozenset(self.options.keep_float)
        decision = self._decided(kept)
        plan, placement = self._calibrated(decision, kept)
        if self.options.keep_float_activations:
            kept |= self._nodes_kept_float(plan, placement)
            decision = self._decided(kept)
            plan, placement = self._calibrated(decision, kept)
        self.notes += [*decision.notes, *computed_in_float(self.graph, placement)]
        losses: dict[str, float] = {}
        if self.options.size_bytes is not None or self.options.max_kl is not None:
            plan, losses = self._mixed_precision(plan, decision)
        else:
            full = self._full(decision)
            self._round(plan, {name: full[name] for name, s in decision.schemes.items() if s != "float"})
        return self._written(plan, placement, losses, out)

    def _decided(self, keep_float: frozenset[str]) -> Decision:
        return decide(self.graph, self.options.bits, self.options.activation_bits, keep_float, self.machine)

    def _full(self, decision: Decision) -> dict[str, WeightFormat]:
        """The format of every layer's weights before a limit reduces the bits."""
        return {
            name: WeightFormat(full_bits(scheme, self.options.bits, self.machine), decision.groups.get(name))
            for name, scheme in decision.schemes.items()
        }

    def _calibrated(self, decision: Decision, keep_float: frozenset[str]) -> tuple[Plan, Placement]:
        """Where to round, and the range of every rounded tensor; no tensor is observed twice."""
        static = frozenset(name for name, scheme in decision.schemes.items() if scheme == "static")
        placement = place(self.graph, static, keep_float)
        plan = Plan(dict(decision.schemes), integer_nodes=placement.nodes, table_bits=self.options.table_bits)
        new = [name for name in placement.tensors if name not in self.observed]
        options, threads = self.options, self.options.threads
        if new:
            data = self._data("static int8")
            found = observe(self.graph, new, data, options.observer, threads=threads)
            self.observed |= found
            choose(self.graph, placement, found, data, options.observer, signed=self.machine.arm, threads=threads)
        for name in placement.tensors:
            found_range = self.observed[name]
            plan.activations[name] = Mapping.of_range(found_range.low, found_range.high, signed=self.machine.arm)
        plan.activations |= {moved: plan.activations[name] for moved, name in placement.source.items()}
        return plan, placement

    def _data(self, wanted_by: str) -> Calibration:
        if self.calibration is None:
            raise BadData(f"{wanted_by} needs calibration data: give batches of inputs, without labels")
        return self.calibration

    def _nodes_kept_float(self, plan: Plan, placement: Placement) -> frozenset[str]:
        """The nodes that stay float for the tensors whose rounding loses most."""
        count, samples = self.options.keep_float_activations, self._samples("keep_float_activations")
        losses = activation_losses(self.graph, plan, placement, samples, self.steps)
        worst = sorted(losses, key=lambda name: -losses[name])[:count]
        share = sum(losses[name] for name in worst) / max(sum(losses.values()), 1e-30)
        self.notes.append(f"kept in float: {', '.join(worst)}, which cause {share:.0%} of the activations' loss")
        return nodes_kept_float(self.graph, placement, losses, count)

    def _round(self, plan: Plan, formats: dict[str, WeightFormat]) -> None:
        chosen = self.options.corrections
        samples = self._samples(f"a correction ({', '.join(chosen)})") if need_data(chosen) else None
        self.rounding = round_layers(self.graph, plan, formats, chosen, samples, self.steps)

    def _samples(self, wanted_by: str) -> Samples:
        """The calibration data with their number, which is counted once: that may cost a pass over them."""
        data = self._data(wanted_by)
        if self.examples is None:
            self.examples = sum(len(next(iter(batch.values()))) for batch in data)
        return Samples(data, self.examples, self.options.threads, self.options.seed)

    def _mixed_precision(self, plan: Plan, decision: Decision) -> tuple[Plan, dict[str, float]]:
        """Choose bits under the limit and round: the plan, and the loss of each layer rounded separately."""
        options = self.options
        samples = self._samples("mixed precision")
        ways = MixedPrecision(self.graph, plan, self._full(decision), samples, options.corrections, self.steps)
        if options.size_bytes is None:
            plan, mixed = self._within_kl(ways, options.max_kl or 0.0)
        else:
            mixed = ways.within_bytes(options.size_bytes)
            plan = self._rounded(ways, mixed)
        self.notes.append(mixed.note)
        return plan, mixed.losses

    def _within_kl(self, ways: MixedPrecision, max_kl: float) -> tuple[Plan, MixedBits]:
        """Tighten the limit while the finished file breaks it: layers together lose more than each separately.

        Raises InvalidOption where float weights break it too.
        """
        tightened = 1.0
        for attempt in range(TIGHTENINGS + 1):
            mixed = ways.within_kl(max_kl, tightened) if attempt < TIGHTENINGS else ways.all_float(max_kl)
            plan = self._rounded(ways, mixed)
            kl = self._checked(write(self.graph, plan)) or 0.0
            if kl <= max_kl:
                return plan, mixed
            if set(mixed.bits.values()) <= {FLOAT_BITS}:
                break
            tightened *= 0.8 * max_kl / kl
        raise InvalidOption(
            f"max_kl={max_kl:g} cannot be met: with all weights in float the answers still diverge by {kl:.2g} nats, by"
            " the rounding of activations: allow more, or leave the worst activations (keep_float_activations) or all"
            " unrounded"
        )

    def _rounded(self, ways: MixedPrecision, mixed: MixedBits) -> Plan:
        plan = ways.plan_for(mixed.bits)
        self._round(plan, ways.formats(mixed.bits))
        return plan

    def _written(self, plan: Plan, placement: Placement, losses: dict[str, float], out: Path) -> Outcome:
        model = write(self.graph, plan)
        slim(model)
        limit, size = self.options.size_bytes, model.ByteSize()
        if limit is not None and size > limit:
            raise InvalidOption(f"size_bytes={limit} cannot be met: the file would have {size} bytes")
        kl = self._diverges_by(model)
        _ordered_outputs(model, self._outputs)
        onnx.save(model, str(out))
        reports = with_shares([self._report(plan, placement, layer, losses) for layer in self.graph.layers])
        return Outcome(reports, tuple(self.notes), kl, out.stat().st_size, self.options.corrections, self.fresh is None)

    def _diverges_by(self, model: Any) -> float | None:
        """The divergence that is reported; a note where it is beyond the limit that the calibration data keep."""
        if self.fresh is None:
            return self._checked(model)
        kl, most = self._measured(model, self.fresh), self.options.max_kl
        if most is not None and kl > most:
            self.notes.append(
                f"max_kl={most:g} holds on the calibration data, not on others ({kl:.2g} nats): give more samples"
            )
        return kl

    def _checked(self, model: Any) -> float | None:
        """The divergence of the written model's answers on calibration data."""
        if self.calibration is None:
            return None
        data: Calibration = self.calibration
        if self.options.max_kl is None:  # a limit must hold on all calibration data
            data = first_examples(data, CHECKED_EXAMPLES, self.graph.model)
        return self._measured(model, data)

    def _measured(self, model: Any, data: Calibration) -> float:
        """The divergence of the written model's answers; raises BrokenModel when they are not finite."""
        kl = mean_kl(self.graph.model, [model], data, threads=self.options.threads, fused=True)[0]
        if not np.isfinite(kl):
            raise BrokenModel("the quantized model's answers are NaN or infinite")
        return kl

    def _report(self, plan: Plan, placement: Placement, layer: Layer, losses: dict[str, float]) -> LayerReport:
        W, scheme = self.graph.constants[layer.weight], plan.schemes[layer.name]
        rounding = self.rounding.get(layer.name)
        x = self.observed.get(placement.source.get(layer.input, layer.input)) if scheme == "static" else None
        total = sum(losses.values())
        report = LayerReport(
            layer.name,
            layer.op,
            W.shape,
            int(W.size),
            bits=plan.weights[layer.name].bits if layer.name in plan.weights else FLOAT_BITS,
            activation_bits=8 if scheme in ("static", "dynamic") else FLOAT_BITS,
            scheme=scheme,
            weight_error=rounding.error if rounding else None,
            weight_error_before=rounding.error_before if rounding else None,
            activation_error=x.relative_error(x.low, x.high) if x else None,
            activation_error_before=x.relative_error(x.seen.low, x.seen.high) if x else None,
            observer=x.observer if x else None,
            saturation=x.saturation if x else None,
            loss_share=losses[layer.name] / total if total and layer.name in losses else None,
        )
        return replace(report, reason=reason(report, rounding.symptoms)) if rounding else report


def _auto_corrections(graph: Graph, options: Options) -> tuple[str, ...]:
    """Error-compensated rounding (gptq) below 8 bits; at 8 bits only where it takes seconds and has enough examples.

    With 42 examples a toy network's error on other examples grew threefold.
    """
    fine = options.bits == 8 and options.size_bytes is None and options.max_kl is None
    weights = sum(graph.constants[name].size for name in {layer.weight for layer in graph.layers})
    few = options.examples is not None and options.examples < FEW
    return ("scales", "bias") if fine and (few or weights > SMALL) else DEFAULT_CORRECTIONS


def _check_layers(graph: Graph, keep_float: Sequence[str]) -> None:
    """Raises UnsupportedModel for a graph without layers, InvalidOption for names that it does not have."""
    if not graph.layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in graph.left_float.items())
        raise UnsupportedModel(
            f"there is nothing to quantize: the model has no Conv, Gemm or MatMul with constant weights. {reasons}"
        )
    names = {node.name for node in graph.nodes}
    unknown = [name for name in keep_float if name not in names]
    if unknown:
        raise InvalidOption(f"keep_float names {unknown[0]!r}, which is not a node of the model")
