"""Layers on the terminal: what each of a quantized model loses, as `quantize` found it."""

from __future__ import annotations

from ..report import terminal
from ..report.layers import layers
from ..runtimes.loading import load


def print_layers(model: str) -> None:
    """The layers with their errors, the largest first; a sentence where the model has none."""
    console, found = terminal.console(), layers(load(model).record)
    if found is None:
        console.print(
            f"{model} has no losses by layer: they are kept in microbudget.json when `quantize` rounds an ONNX model",
            markup=False,
            soft_wrap=True,
        )
        return
    table = terminal.table("layer", "bits x bits", "weight error", "input error", "share of the loss")
    for row in found.rows:
        table.add_row(row.name, row.bits.replace("×", "x"), row.after, row.activation, row.share)
    console.print(found.summary, markup=False, soft_wrap=True)
    console.print(table)
    if found.worst:
        console.print(f"the largest: {found.worst}", markup=False, soft_wrap=True)
