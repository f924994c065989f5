"""Methods at a glance: what each changes on a real model of each kind, and what it takes.

    python benchmarks/at_a_glance.py                 all parts, about 40 minutes on 2 cores; the same call goes on
    python benchmarks/at_a_glance.py photos speech   some of them
    python benchmarks/at_a_glance.py --tables        the tables and the figure again, from what was measured

Each part is one run: its recipes are built from one model and one data set, timed in turns with the same reference, and
judged in pairs on the same validation examples. The tables and the figure go into docs/at-a-glance.md.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown import PICTURES, ROOT, provenance, table, write_between
from microbudget import Recipe, load, read_run, run_recipe
from microbudget.errors import MicrobudgetError
from microbudget.judge.energy import power_class
from microbudget.machine import processor as machine
from microbudget.progress import Progress
from microbudget.units import format_change, format_times
from results import Results

ASSETS, REAL = ROOT.parent / "shared" / "assets", Path.home() / ".cache" / "microbudget-real"
STORE, PAGE = ROOT / "runs" / "at_a_glance", ROOT / "docs" / "at-a-glance.md"
TRAIN_MINUTES = 12.0  # of a recipe


@dataclass(frozen=True)
class Part:
    """A model, its data, and the recipes by method; the first makes the reference comparable, in float."""

    model: Path
    data: Path
    about: str
    recipes: dict[str, str]


PARTS = {
    "photos": Part(
        ASSETS / "models" / "mobilenet_v2",
        ASSETS / "images" / "flowers12",
        "MobileNetV2 on 720 photos of 12 flowers",
        {
            "transfer learning": "finetune > export",
            "low-rank adaptation": "lora > export",
            "smaller input": "resize(pixels=160) > finetune > export",
            "pruning": "finetune > prune(size='0.5x') > export",
            "distillation": "finetune > distill(width=0.5) > export",
            "quantization, 8 bits": "finetune > export > quantize",
            "quantization, 4 bits": "finetune > export > quantize(bits=4)",
            "smaller input, 8 bits": "resize(pixels=160) > finetune > export > quantize",
        },
    ),
    "texts": Part(
        REAL / "minilm-l6",
        ASSETS / "text" / "labelled" / "trec.csv",
        "MiniLM-L6 on 2,933 questions of 6 types (TREC)",
        {
            "transfer learning": "finetune(unfreeze='all', deep_epochs=2) > export",
            "a frozen encoder": "finetune > export",
            "low-rank adaptation": "lora > export",
            "pruning": "finetune(unfreeze='all', deep_epochs=2) > prune(size='0.7x') > export",
            "distillation": "finetune(unfreeze='all', deep_epochs=2) > distill(depth=0.5, epochs=4) > export",
            "smaller vocabulary": "finetune(unfreeze='all', deep_epochs=2) > trim > export",
            "shorter input": "finetune(unfreeze='all', deep_epochs=2) > window(tokens='auto') > export",
            "quantization, 8 bits": "finetune(unfreeze='all', deep_epochs=2) > export > quantize",
            "no network": "tfidf",
        },
    ),
    "language models": Part(
        REAL / "smollm2-135m",
        ASSETS / "text" / "wikitext-2" / "valid.txt",
        "SmolLM2-135M on 1.1 MB of WikiText-2",
        {
            "16 bits": "export(format='gguf')",
            "quantization, 8 bits": "export(format='gguf') > quantize(type='Q8_0')",
            "quantization, 4 bits": "export(format='gguf') > quantize(type='Q4_K_M')",
            "quantization, 2 bits": "export(format='gguf') > quantize(type='Q2_K')",
            "smaller vocabulary": "trim > export(format='gguf')",
            "pruning of layers": "prune(structure='layers', sparsity=0.1) > export(format='gguf')",
        },
    ),
    "speech": Part(
        REAL / "whisper-tiny.en",
        ASSETS / "speech" / "read",
        "whisper-tiny.en on 72 utterances",
        {
            "float32": "export(format='ct2', type='float32')",
            "quantization, 8 bits": "export(format='ct2', type='int8')",
            "smaller window": "window(seconds='each') > export(format='ct2', type='float32')",
            "smaller vocabulary": "trim(keep='auto') > export(format='ct2', type='float32')",
            "smaller window, 8 bits": "window(seconds='each') > export(format='ct2', type='int8')",
        },
    ),
}
LEARNS = {"nothing": "none", "calibration": "up to 128, without labels"}


def measured(part: Part, name: str, out: Path) -> dict[str, Any]:
    """One recipe of a part, built and measured in its run; what it took."""
    recipe = Recipe.parse(part.recipes[name])
    started, used = time.monotonic(), _processor_s()
    try:
        run_recipe(part.model, recipe, part.data, out=out, minutes=TRAIN_MINUTES, progress=Progress())
    except MicrobudgetError as error:
        return {"failure": str(error)}
    result = read_run(out)
    row = next((each for each in result.candidates if each.recipe == str(recipe)), result.reference)
    if row.measurement is None:
        return {"failure": row.failure}
    learns = recipe.learns_from(load(part.model).format)
    reference = result.reference.measurement
    assert reference is not None
    return {
        "metric": row.measurement.metric,
        "quality": row.measurement.quality,
        "reference_quality": reference.quality,
        "change": None
        if row.verdict is None
        else [row.verdict.change, row.verdict.change_low, row.verdict.change_high],
        "smaller": reference.size_bytes / row.measurement.size_bytes,
        "size_bytes": row.measurement.size_bytes,
        "speedup": row.speed.get("speedup"),
        "speedup_low": row.speed.get("speedup_low"),
        "speedup_high": row.speed.get("speedup_high"),
        "busy": row.busy,
        "energy_j": row.measurement.energy_j,
        "reference_energy_j": reference.energy_j,
        "examples": LEARNS.get(learns) or f"{result.examples['train']:,}",
        "minutes": (time.monotonic() - started) / 60,
        "processor_s": _processor_s() - used,
    }


def _processor_s() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in found)


def tables(results: Results) -> None:
    """Write the tables and the figure."""
    parts = results.parts()
    texts = []
    for key, part in PARTS.items():
        if key not in parts:
            continue
        rows = [_cells(name, part.recipes[name], parts[key][name]) for name in part.recipes if name in parts[key]]
        metric = next(row["metric"] for row in parts[key].values() if "metric" in row)
        head = (
            f"{key}: method", f"change of {metric} (95 %)", "times smaller", "times as fast", "energy an answer",
            "examples that it learns from", "minutes", "kJ to make", "what a user types",
        )  # fmt: skip
        texts.append(f"## {part.about}\n\n{table(head, rows)}")
    figure(parts)
    note = (
        "Changes, sizes and times are against the given model as it is opened (the fine-tuned one for photos and texts:"
        " its first recipe is the float32 export of that). Minutes and energy are of building and measuring the row,"
        " steps that an earlier row has made left out; energy is an estimate from processor time, and so is that of an"
        " answer. `*`: timed on a busy machine."
    )
    text = "\n\n".join([*texts, note, provenance("at_a_glance.py")])
    write_between(PAGE, "glance", text)


def _cells(name: str, recipe: str, row: dict[str, Any]) -> tuple[object, ...]:
    if "failure" in row:
        return (name, f"failed: {row['failure']}", *[""] * 6, f"`{recipe}`")
    change = "reference"
    if row["change"] is not None:
        middle, low, high = (format_change(each, row["metric"]) for each in row["change"])
        change = f"{middle} ({low}..{high})"
    speed = f"{format_times(row['speedup'])}{'*' if row['busy'] else ''}" if row["speedup"] else "1"
    energy = f"{row['energy_j'] / row['reference_energy_j']:.2f} of it" if row["reference_energy_j"] else ""
    watts = power_class(str(machine.describe().get("cpu", ""))).watts
    made = f"{row['processor_s'] * watts / 1e3:.2g}"
    return (
        name, change, format_times(row["smaller"]), speed, energy, row["examples"], f"{row['minutes']:.1f}", made,
        f"`{recipe}`",
    )  # fmt: skip


def figure(parts: dict[str, dict[str, Any]]) -> None:
    """Times smaller against times as fast, coloured by the loss: a picture for a slide."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "at_a_glance"
    known = [key for key in PARTS if key in parts]
    made = Figure(figsize=(3.6 * len(known), 4.2), layout="constrained")
    for axes, key in zip(made.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        for name in PARTS[key].recipes:
            row = parts[key].get(name, {})
            if not row.get("change") or not row.get("speedup"):
                continue
            loss = -100 * row["change"][0]
            color = "#0b6e4f" if loss <= 1 else "#c77700" if loss <= 5 else "#b3261e"
            axes.plot(row["smaller"], row["speedup"], "o", color=color)
            axes.annotate(
                f"{name}\n{-loss:+.1f}", (row["smaller"], row["speedup"]), (5, -3), textcoords="offset points",
                fontsize=7, color=color,
            )  # fmt: skip
        axes.set_title(key)
        axes.set_xlabel("times smaller")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.35, y=0.1)
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    made.axes[0].set_ylabel("times as fast")
    made.savefig(PICTURES / "at_a_glance.svg", metadata={"Date": None})


def main() -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    options = parser.parse_args()
    if options.again:
        shutil.rmtree(STORE, ignore_errors=True)
    results = Results(STORE / "results.json")
    for key in () if options.tables else options.parts or PARTS:
        for name in PARTS[key].recipes:
            out = STORE / key.replace(" ", "_")
            results.fill(f"{key}/{name}", lambda key=key, name=name, out=out: measured(PARTS[key], name, out), 1e12)
    tables(results)


if __name__ == "__main__":
    main()
