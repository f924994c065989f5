"""Calibration data, and models run over them: the tensors inside, in memory that does not grow with the data."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from ...errors import BadData, UnsupportedModel
from ...runtimes.onnx.graph import needed_for

Array = NDArray[Any]
Batch = dict[str, Array]
Calibration = Iterable[Batch]

SEEN_AT_ONCE_BYTES = 24 * 2**20  # of exposed tensors, per model and call
ONE_EXAMPLE_BYTES = 64 * 2**20  # of exposed tensors, where one example has more than the above: fewer passes
INPUT_AT_ONCE_BYTES = 2**20  # a network's inner tensors are about ten times as large as its input


@dataclass(frozen=True)
class Samples:
    """Calibration data and how to run over them."""

    batches: Calibration  # inputs by name, without labels; can be read several times
    count: int  # examples in all
    threads: int = 0  # 0: all cores
    seed: int = 0  # of the rows that are drawn

    def first(self, count: int, model: onnx.ModelProto) -> Samples:
        """The first `count` examples."""
        return replace(self, batches=first_examples(self.batches, count, model), count=count)


class PartialSession:
    """A session of the part of a model that computes the tensors `names`.

    Unless `fused`, Q/DQ nodes are computed as they are written, in float: no kernel rounds differently, and the float
    weights of layers with quantized inputs stay float (onnxruntime would quantize them per tensor by itself).
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], threads: int = 0, fused: bool = False) -> None:
        self.names = list(dict.fromkeys(names))
        part = leading_to(model, self.names)
        self._passed = [name for name in self.names if name in {v.name for v in part.graph.input}]
        self._computed = [name for name in self.names if name not in self._passed]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        if not fused:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = None
        if self._computed:
            try:
                data = part.SerializeToString()
                self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise UnsupportedModel(f"onnxruntime cannot open the model: {error}") from error
        self._inputs = {v.name for v in part.graph.input}

    def __call__(self, batch: Batch) -> Batch:
        """The tensors for a batch, by name. Raises BadData when the model does not take the batch."""
        answers = {name: batch[name] for name in self._passed}
        if self._session is not None:
            given = {name: value for name, value in batch.items() if name in self._inputs}
            try:
                answers |= dict(zip(self._computed, self._session.run(self._computed, given), strict=True))
            except Exception as error:  # onnxruntime's exceptions share no base class
                shapes = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in batch.items())
                raise BadData(f"the model does not take the calibration batch ({shapes}): {error}") from error
        return answers


def leading_to(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The nodes and constants of a model that `names` depend on, with these as outputs; nothing is copied twice."""
    nodes, needed = needed_for(names, model.graph.node)
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        [v for v in model.graph.input if v.name in needed],
        [],
        [t for t in model.graph.initializer if t.name in needed],
    )
    inputs = {v.name for v in graph.input}
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in inputs)
    imports = [helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import]
    part: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
    part.functions.extend(model.functions)
    return part


def checked(calibration: Calibration, graph_inputs: dict[str, list[int | None]]) -> list[Batch] | Calibration:
    """The calibration data as something that can be read several times; a one-shot iterator is kept as a list.

    graph_inputs: shape by input, None where it is free. Raises BadData when there is nothing, when an input is
    missing, or when a batch has another shape.
    """
    again = list(calibration) if iter(calibration) is calibration else calibration
    first = next(iter(again), None)
    if first is None:
        raise BadData("no calibration data: give at least one batch of inputs, without labels")
    for name, shape in graph_inputs.items():
        if name not in first:
            raise BadData(f"the calibration batch has {', '.join(first) or 'nothing'}, but the model wants {name!r}")
        got = list(first[name].shape)
        if len(got) != len(shape) or any(want not in (None, n) for n, want in list(zip(got, shape, strict=True))[1:]):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise BadData(f"calibration input {name!r} has shape {got}, but the model wants [{wanted}]")
    return again


def input_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """The shape of every input, None where a dimension is free."""
    return {
        v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim]
        for v in model.graph.input
    }


def pieces(calibration: Calibration, size: int, fixed: int | None = None) -> Iterator[Batch]:
    """The batches cut into pieces of at most `size` examples, or of exactly `fixed` where the model wants that.

    Batches whose inputs do not agree on the first dimension are passed on whole.
    """
    step = fixed or size
    for batch in calibration:
        counts = {len(value) if value.ndim else -1 for value in batch.values()}
        if len(counts) != 1 or -1 in counts:
            yield batch
            continue
        count = counts.pop()
        for start in range(0, count - (count % fixed if fixed else 0), step):
            yield {name: value[start : start + step] for name, value in batch.items()}


def fixed_batch(shapes: dict[str, list[int | None]]) -> int | None:
    """The one batch size that the model takes, None when it is free."""
    sizes = {shape[0] for shape in shapes.values() if shape}
    return sizes.pop() if len(sizes) == 1 else None


class First:
    """The first `count` examples of calibration data, as data that can be read again."""

    def __init__(self, calibration: Calibration, count: int, fixed: int | None) -> None:
        self._calibration, self._count, self._fixed = calibration, count, fixed

    def __iter__(self) -> Iterator[Batch]:
        left = self._count
        for piece in pieces(self._calibration, self._count, self._fixed):
            counts = {len(value) if value.ndim else -1 for value in piece.values()}
            count = counts.pop() if len(counts) == 1 and self._fixed is None else -1
            yield piece if count <= left else {name: value[:left] for name, value in piece.items()}
            left -= count if count > 0 else self._fixed or 1
            if left <= 0:
                return


def first_examples(calibration: Calibration, count: int, model: onnx.ModelProto) -> First:
    """The first `count` examples, in batches that the model takes."""
    return First(calibration, count, fixed_batch(input_shapes(model)))


def watch(
    models: Sequence[tuple[onnx.ModelProto, Sequence[str]]],
    calibration: Calibration,
    see: Callable[[int, list[Array]], None],
    *,
    threads: int = 0,
    fused: bool = False,
) -> None:
    """Run the models over the data, and call `see(place, [tensor of each model])` for each piece of it.

    place: in the lists of names, which have one length: entry i of one model is the counterpart of entry i of the
    others. How many examples are computed at once follows from the tensors' sizes; where one example is too large,
    fewer names are computed at once.
    """
    give_back_freed()
    fixed = fixed_batch(input_shapes(models[0][0]))
    first = next(pieces(calibration, 1, fixed), None)
    if first is None:
        raise BadData(f"the model takes batches of {fixed}, but the calibration batches are smaller: give larger ones")
    whole = PartialSession(*models[0], threads, fused)
    sizes = [int(np.asarray(value).nbytes) for value in map(whole(first).__getitem__, models[0][1])]
    chunks = list(_chunks(sizes))
    for places in chunks:
        parts = [(model, [names[i] for i in places]) for model, names in models]
        sessions = [
            whole if index == 0 and len(chunks) == 1 else PartialSession(*part, threads, fused)
            for index, part in enumerate(parts)
        ]
        for piece in pieces(calibration, _at_once(first, sum(sizes[i] for i in places)), fixed):
            answers = [session(piece) for session in sessions]
            for i in places:
                see(i, [answer[names[i]] for answer, (_, names) in zip(answers, models, strict=True)])
            del answers  # before the next ones are made


def give_back_freed() -> None:
    """Return freed memory to the system: glibc keeps up to half of a quantizer's peak, in pieces too small to reuse."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def finite(values: Array) -> bool:
    """Whether no value is NaN or infinite; without a temporary."""
    return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def broken_tensor(model: onnx.ModelProto, calibration: Calibration, threads: int = 0) -> str:
    """The tensor where NaN or infinity begins: an input, else the first NaN in the graph's order (attention masks with
    infinity), else the first infinity. Falls back to the first output.
    """
    inputs = [v.name for v in model.graph.input]
    names = [*inputs, *(node.output[0] for node in model.graph.node if node.output[0])]
    broken: dict[int, int] = {}  # place -> 0 for an input, 1 for NaN, 2 for infinity

    def see(place: int, values: list[Array]) -> None:
        value = np.asarray(values[0])
        if np.issubdtype(value.dtype, np.floating) and not finite(value):
            rank = 0 if place < len(inputs) else 1 if np.isnan(value.min()) else 2
            broken[place] = min(rank, broken.get(place, rank))

    try:
        watch([(model, names)], calibration, see, threads=threads)
    except (BadData, UnsupportedModel, ValueError):  # not every tensor can be an output
        return str(model.graph.output[0].name)
    return names[min(broken, key=lambda place: (broken[place], place))] if broken else str(model.graph.output[0].name)


def _at_once(example: Batch, seen_bytes: int) -> int:
    """How many examples are computed together."""
    given = sum(int(value.nbytes) for value in example.values())
    return max(1, min(SEEN_AT_ONCE_BYTES // max(seen_bytes, 1), INPUT_AT_ONCE_BYTES // max(given, 1)))


def _chunks(sizes: list[int]) -> Iterator[list[int]]:
    """Runs of places whose tensors of one example fit into ONE_EXAMPLE_BYTES together (or are alone)."""
    chunk: list[int] = []
    total = 0
    for place, size in enumerate(sizes):
        if chunk and total + size > ONE_EXAMPLE_BYTES:
            yield chunk
            chunk, total = [], 0
        chunk.append(place)
        total += size
    if chunk:
        yield chunk
