"""quantize a GGUF file into another type, by default with an importance matrix of the training text."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....errors import BadData, InvalidOption, UnsupportedModel
from ....kind import find_facet
from ....machine.files import check_space
from ....machine.processor import thread_count
from ....model import GGUF_NAME, Model, Record
from ....runtimes.gguf import importance, inputs
from ....runtimes.gguf.file import GgufFile, TensorInfo
from ....runtimes.gguf.inputs import Sums
from ....runtimes.gguf.types import UNWEIGHTED
from ....task import Example
from ... import Context
from .convergence import Convergence
from .mixtures import Choice, choose, needs_imatrix, overrides, quantizable, refuse_unweighted
from .rewrite import layout, ordered, rewrite
from .stock import MIXTURES, Facts

LEFT_OUT = ("token_embd.weight", "output.weight")
KEPT_EVERY_S = 20.0  # seconds of reading that a kill may cost


@dataclass(frozen=True)
class GgufOptions:
    """What `quantize` takes for a GGUF file."""

    type: str = "Q4_K_M"  # a mixture of llama.cpp's quantizer
    imatrix: bool | str = True  # from the training text, none, or the path of a stored one
    samples: int = 128  # passages of training text for the importance matrix
    tensors: str = ""  # types by pattern: "attn_v=Q8_0, blk.0.=Q6_K"


def quantize_gguf(model: Model, options: GgufOptions, context: Context, out: Path) -> Record:
    """Write `model.gguf` of another type into `out`; what it cost goes into the record.

    Raises InvalidOption for an unknown type, or one that needs an importance matrix with imatrix=False; BadData without
    training text; UnsupportedModel for a file that cannot be quantized; DiskFull before anything is written.
    """
    file_type = options.type.upper()
    if file_type not in MIXTURES:
        raise InvalidOption(f"quantize: there is no type {options.type!r}; there are {', '.join(MIXTURES)}")
    with GgufFile(model.weights) as file:
        choices = _choose(file, file_type, options)
        if options.imatrix is False:
            refuse_unweighted(choices, file_type)
        _warn_of_losses(choices, context)
        check_space(out, layout(file, choices, file_type).size_bytes, "the model takes")
        matrix, used, origin = _importance(file, model, options, choices, context)
        made = rewrite(
            file, choices, file_type, out / GGUF_NAME,
            importance=matrix,
            threads=thread_count(context.threads),
            track=lambda items: context.progress.track(items, f"quantize to {file_type}"),
        )  # fmt: skip
    report = {"type": file_type, "imatrix": origin, **_report(choices, made.size_bytes)}
    _warn_of_fallbacks(report, context)
    return model.record.with_seen(example.key for example in used).with_report("quantize", report)


def stored_hash(imatrix: bool | str) -> dict[str, str]:
    """Hash of the stored importance matrix, if one is given: it decides the result of the step."""
    if not isinstance(imatrix, str):
        return {}
    path = Path(imatrix)
    if not path.is_file():
        raise BadData(f"quantize: there is no importance matrix {path}")
    importance.load(path)  # refused here, before anything is exported
    with path.open("rb") as stream:
        return {"imatrix": hashlib.file_digest(stream, "sha256").hexdigest()}


def _choose(file: GgufFile, file_type: str, options: GgufOptions) -> tuple[Choice, ...]:
    facts, tensors = Facts.of(file), ordered(file)
    weighted = options.imatrix is not False
    return choose(tensors, facts, file_type, imatrix=weighted, overrides=overrides(options.tensors))


def _warn_of_losses(choices: Sequence[Choice], context: Context) -> None:
    """Warn where weights that were rounded before are rounded again."""
    again = {
        choice.tensor.type.name
        for choice in choices
        if choice.tensor.type.quantized and choice.type != choice.tensor.type
    }
    if again:
        context.progress.warn(
            f"the file is quantized already ({', '.join(sorted(again))}), and losses add up: start from an F16 file if"
            " there is one"
        )


def _importance(
    file: GgufFile, model: Model, options: GgufOptions, choices: Sequence[Choice], context: Context
) -> tuple[importance.Matrix | None, Sequence[Example], str | None]:
    """The importance matrix, the examples that it was computed with, and where it comes from."""
    if options.imatrix is False or all(choice.type.name in UNWEIGHTED for choice in choices):
        return None, (), None
    if isinstance(options.imatrix, str):
        stored = importance.load(Path(options.imatrix))
        _check_coverage(stored, choices, options, context)
        return stored, (), options.imatrix
    examples = evenly_spaced(context.task.examples("train"), options.samples)
    texts = find_facet(context.task.kind, "quantize")
    if texts is None or not examples:
        raise BadData(
            "quantize: an importance matrix needs training text: give a .txt file or a folder of them as data, or"
            " imatrix=False"
        )
    random.Random(0).shuffle(examples)  # so that the first of them are spread over the text as well
    path = context.cache / f"imatrix-{_key(model, examples)}.gguf"
    if not path.is_file():
        weighted = [choice.tensor for choice in choices if quantizable(choice.tensor)]
        convergence = Convergence.of(file, [tensor for tensor in weighted if tensor.name not in LEFT_OUT])
        tracked = context.progress.track(
            texts.calibration_texts(context.task, examples), "importance matrix, passages at most", len(examples)
        )
        sums = _read(model.weights, tracked, convergence, context, path.with_suffix(".begun.npz"))
        importance.save(path, sums.means(), sums.tokens, f"{sums.texts} passages", sums.texts)
        why = "more would not change it" if convergence.done else "all that there are"
        context.progress.detail(f"imatrix   {sums.tokens} tokens of {sums.texts} passages: {why}")
    return importance.load(path), examples[: importance.texts_read(path)], "training text"


def _read(weights: Path, texts: Iterable[str], convergence: Convergence, context: Context, begun: Path) -> Sums:
    """The sums over as many of the texts as change the matrix. begun: the file of what an earlier try has read."""
    sums, kept_at = Sums.load(begun), time.monotonic()

    def enough(sums: Sums) -> bool:
        nonlocal kept_at
        if time.monotonic() - kept_at > KEPT_EVERY_S:
            sums.save(begun)
            kept_at = time.monotonic()
        return convergence(sums)

    inputs.read(weights, texts, sums, threads=context.threads, enough=enough)
    context.cache.mkdir(parents=True, exist_ok=True)
    begun.unlink(missing_ok=True)
    return sums


def _check_coverage(
    matrix: importance.Matrix, choices: Sequence[Choice], options: GgufOptions, context: Context
) -> None:
    """Whether a stored matrix is of this model. Raises UnsupportedModel; warns of tensors that it lacks.

    A type that is useless without a matrix is refused where one tensor lacks it, also where its rows make it fall back
    to another type: what was asked for cannot be had. llama.cpp leaves out the embedding, which is no product, and the
    output unless it is asked for.
    """
    name, tensors = options.imatrix, {choice.tensor.name for choice in choices}
    foreign = sorted(matrix.keys() - tensors)
    if foreign:
        raise UnsupportedModel(
            f"the importance matrix {name} has {len(foreign)} tensors that the model does not have, such as"
            f" {foreign[0]}: it was computed for another model"
        )
    weighted = [choice.tensor.name for choice in choices if quantizable(choice.tensor)]
    expected = [item for item in weighted if item not in LEFT_OUT]
    missing = [item for item in expected if item not in matrix]
    if expected and len(missing) == len(expected):
        raise UnsupportedModel(f"the importance matrix {name} covers no layer of the model, such as {missing[0]}")
    kind = options.type.upper()
    wanted = (choice for choice in choices if needs_imatrix(replace(choice, type=choice.wanted), kind))
    if garbage := [choice.tensor.name for choice in wanted if choice.tensor.name in missing]:
        others = f", nor for {len(garbage) - 1} others" if len(garbage) > 1 else ""
        raise UnsupportedModel(
            f"the importance matrix {name} has no values for {garbage[0]}, which {kind} needs{others}: compute it for"
            " this model (imatrix=True with training text), or choose Q2_K or larger"
        )
    if missing:
        context.progress.warn(
            f"the importance matrix {name} lacks {len(missing)} of {len(expected)} tensors, which are rounded without:"
            f" {', '.join(missing)}. Was it computed for this model?"
        )


def evenly_spaced(examples: Sequence[Example], count: int) -> list[Example]:
    """`count` of the examples at most, evenly spaced over all of them."""
    wanted = min(count, len(examples))
    return [examples[index * len(examples) // wanted] for index in range(wanted)]


def _key(model: Model, examples: Sequence[Example]) -> str:
    made_of = [model.fingerprint, *(example.key for example in examples)]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]


def _report(choices: Sequence[Choice], size_bytes: int) -> dict[str, Any]:
    """Bytes by type, bits per weight, and what rows that fit no block cost."""
    made = [replace(choice.tensor, type=choice.type) for choice in choices]
    by_type: Counter[str] = Counter()
    for tensor in made:
        by_type[tensor.type.name] += tensor.size_bytes
    fallbacks = [choice for choice in choices if choice.fell_back]
    return {
        "size_bytes": size_bytes,
        "bits_per_weight": _bits_per_weight(made),
        "bytes_by_type": dict(by_type.most_common()),
        "fallbacks": [
            {
                "tensor": choice.tensor.name,
                "columns": choice.tensor.columns,
                "wanted": choice.wanted.name,
                "type": choice.type.name,
                "extra_bytes": choice.extra_bytes,
            }
            for choice in fallbacks
        ],
        "fallback_bytes": sum(choice.extra_bytes for choice in fallbacks),
    }


def _bits_per_weight(tensors: Sequence[TensorInfo]) -> float:
    return 8 * sum(tensor.size_bytes for tensor in tensors) / sum(tensor.parameters for tensor in tensors)


def _warn_of_fallbacks(report: dict[str, Any], context: Context) -> None:
    if report["fallbacks"]:
        first, count = report["fallbacks"][0], len(report["fallbacks"])
        context.progress.warn(
            f"{count} matrices have rows that are no multiple of their type's block, such as {first['tensor']}"
            f" ({first['columns']} values): {first['type']} in place of {first['wanted']}. All these fallbacks make"
            f" {report['fallback_bytes']:+,} bytes",
            about="fallbacks",  # of other levels they are in the report
        )
