"""The verb `estimate`: energy, carbon and money of a training or of an answer, on paper."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import TYPE_CHECKING, Any

from ..progress import Progress
from .options import DONE, add_verb, print_json

if TYPE_CHECKING:
    from ..footprint.sums import Estimate, Line

OPTIONS = (
    ("--params", "7B", "parameters; of a mixture of experts 235B-A22B"),
    ("--tokens", "2T", "read in the training, or written in an answer (default 300)"),
    ("--device-hours", "184320", "of a training, in place of --tokens"),
    ("--flops", "3e23", "operations, of the training or of one answer"),
    ("--macs", "12.5M", "multiply-adds of one answer, in place of --flops"),
    ("--method", "lora", "of a training: full (default) or lora"),
    ("--prompt", "200", "tokens that an answer is given to (default 200)"),
    ("--batch", "8", "answers at once (default 1)"),
    ("--rate", "2/s", "answers that come in, in place of --batch: waiting is counted"),
    ("--precision", "bf16", "fp32 bf16 fp16 fp8 int8 q8 q6 q5 q4 int4 q3 q2 (default bf16)"),
    ("--steps", "30", "of an image generator (default 50)"),
    ("--resolution", "1024x768", "of an image, in pixels (default as trained)"),
    ("--frames", "81", "of a video"),
    ("--software", "serving", "serving, eager (PyTorch), compiled or image (default what is usual there)"),
    ("--idle-devices", "7", "devices of the node that wait meanwhile"),
    ("--tdp", "300W", "power limit of a device that the facts do not have"),
    ("--bandwidth", "900GB/s", "of its memory"),
    ("--peak", "125T", "its operations a second"),
    ("--scope", "facility", "accelerator, node or facility (default: the range holds all)"),
    ("--pue", "1.1", "building over its nodes"),
    ("--grid", "France", "region, or g CO2e a kWh (default the world's)"),
    ("--price", "0.12", "dollars a kWh"),
    ("--rent", "2.5", "dollars a device-hour, in place of the electricity"),
)


def add_verbs(verbs: Any) -> None:
    """Add the parser."""
    about = "energy, carbon and money of a training or an answer, on paper, with ranges"
    example = "training --params 7B --tokens 2T --on 2048xA100-SXM-80GB"
    parser = add_verb(verbs, "estimate", _estimate, about, example)
    parser._negative_number_matcher = re.compile("-[0-9.].*")  # else "-2T" would be taken for an option
    parser.add_argument("what", choices=("training", "inference"), metavar="training|inference")
    about = "hub id, folder, config.json, .onnx or .gguf file, or a size such as 8B"
    parser.add_argument("model", metavar="MODEL", nargs="?", help=about)
    parser.add_argument("--on", metavar="8xH100-SXM", help="the devices and how many")
    for name, example, about in OPTIONS:
        parser.add_argument(name, metavar=example, help=about)
    parser.add_argument("--encoder", action="store_true", help="--params is of a network that answers in one pass")
    parser.add_argument("--explain", action="store_true", help="the sum line by line, each number with its origin")


def _estimate(options: argparse.Namespace, _progress: Progress) -> int:
    from ..errors import InvalidOption
    from ..footprint import INFERENCE, TRAINING, estimate_inference, estimate_training

    known = TRAINING if options.what == "training" else INFERENCE
    names = [name.removeprefix("--").replace("-", "_") for name, _, _ in OPTIONS] + ["on"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.encoder:
        given["encoder"] = True
    for name in given:
        if name not in known:
            raise InvalidOption(f"--{name.replace('_', '-')} says nothing about {options.what}: leave it out")
    call = estimate_training if options.what == "training" else estimate_inference
    found = call(options.model, **given)
    if options.json:
        print_json(found.as_dict())
    else:
        _print(found, explain=options.explain)
    return DONE


def _print(found: Estimate, *, explain: bool) -> None:
    from ..footprint.sums import comparisons

    said = [
        (f"energy of {'a token' if name == 'token' else 'an answer'}", value, "J") for name, value in found.per.items()
    ]
    said += [("energy", found.energy_kwh, "kWh"), ("carbon", found.co2e_kg, "kg CO2e"), ("cost", found.cost, "$")]
    width = max(len(name) for name, _, _ in said)
    for name, value, unit in said:
        print(f"{name:{width}}  {number(value.middle):>9} {unit:8} ({number(value.low)} to {number(value.high)})")
    print(f"counted: the {found.scope}; nine in ten should be in these ranges")
    for each in comparisons(found.energy_kwh):
        if each["middle"] >= 0.01:
            low, middle, high = (number(each[key]) for key in ("low", "middle", "high"))
            print(f"as {each['what']}: {middle} {each['unit']} ({low} to {high})")
    for note in found.notes:
        print(f"note: {note}")
    for line in found.lines if explain else ():
        _explain(line)


def _explain(line: Line) -> None:
    """A line of the sum: what, how much, and below it how it is reckoned and where it comes from."""
    low, middle, high = (number(each) for each in (line.value.low, line.value.middle, line.value.high))
    print(f"\n{line.name}: {middle} {line.unit}".rstrip() + ("" if low == high else f" ({low} to {high})"))
    for text in (line.how, line.value.origin and f"from {line.value.origin}"):
        if text:
            print(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    "))


def number(value: float) -> str:
    """Two or three significant digits that are worth reading: 0.0042, 1.3, 131,000."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e15:
        rounded = float(f"{value:.3g}")
        return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"
    return f"{value:.2e}"
