"""What made more arithmetic since 2012: number formats, sparsity, bandwidth, parallel devices.

    python benchmarks/moore.py      # seconds; writes the tables of docs/moore.md and docs/pictures/moore.svg

From the devices of `src/microbudget/footprint/facts/devices.csv`, and the devices of trainings in `training.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

from figures import save_figure
from markdown import PICTURES, ROOT, table, write_between
from microbudget.footprint.facts import Device, find_device, rows

PAGE = ROOT / "docs" / "moore.md"
SPARSE = 2.0  # two of four weights are zero: NVIDIA's Ampere whitepaper; seldom used in training
ONE_MACHINE = ("RTX 3060", "RTX 4090", "RTX 5090", "laptop-16gb", "M4 Max", "pi5")
BITS = 4.8  # a weight in Q4_K_M
SHARE = 0.8  # of a memory, for weights


def generations() -> list[tuple[int, Device]]:
    """The devices by year."""
    return [(int(row["year"]), find_device(row["device"])) for row in rows("generations")]


def gains(first: Device, last: Device, devices: int) -> list[tuple[str, float, str]]:
    """What each cause gave from the first device to the last: its factor, and from what to what."""
    narrow, half, full = (last.flops[bits] / 1e12 for bits in (8, 16, 32))
    start = first.flops[32] / 1e12
    return [
        ("transistors, area and power, at 32 bits", full / start, f"{start:g} to {full:g} TFLOP/s"),
        ("16 bits and matrix units", half / full, f"{full:g} to {half:g} TFLOP/s"),
        ("8 bits", narrow / half, f"{half:g} to {narrow:g} TFLOP/s"),
        ("sparsity, where it is used", SPARSE, "two of four weights zero"),
        ("devices in one training", devices / 2, f"2 to {devices:,}"),
        ("bandwidth of a device", last.bytes_per_s / first.bytes_per_s,
         f"{first.bytes_per_s / 1e9:g} to {last.bytes_per_s / 1e9:,.0f} GB/s"),
        ("memory of a device", last.memory_bytes / first.memory_bytes,
         f"{first.memory_bytes / 1e9:g} to {last.memory_bytes / 1e9:g} GB"),
        ("power of a device", last.limit_w / first.limit_w, f"{first.limit_w:g} to {last.limit_w:g} W"),
    ]  # fmt: skip


def largest_training() -> int:
    """Devices of the largest training whose number is published."""
    found = [
        int(row["n_devices"])
        for row in rows("training")
        if row["n_devices"] and row["hours_basis"].startswith("reported")
    ]
    return max(number for number in found if number != 10_000)  # of GPT-3 it is assumed


def draw(known: Sequence[tuple[int, Device]]) -> None:
    """Each quantity over the first device's, by year."""
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "moore"
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    years, first = [year for year, _ in known], known[0][1]
    base = first.flops[32]
    lines = {
        "operations/s, 8 bits": [max(device.flops.values()) / base for _, device in known],
        "operations/s, 16 bits": [max(device.flops[16], device.flops[32]) / base for _, device in known],
        "operations/s, 32 bits": [device.flops[32] / base for _, device in known],
        "memory": [device.memory_bytes / first.memory_bytes for _, device in known],
        "bandwidth": [device.bytes_per_s / first.bytes_per_s for _, device in known],
        "power": [device.limit_w / first.limit_w for _, device in known],
    }
    for (name, values), mark in zip(lines.items(), "ovs^Dx", strict=True):
        axes.plot(years, values, marker=mark, label=name)
    axes.set_yscale("log")
    axes.set_ylabel(f"times a {first.name}")
    axes.set_xticks(years, [f"{device.name.split('-')[0]}\n{year}" for year, device in known], fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, PICTURES / "moore.svg")


def one_machine() -> list[list[str]]:
    """What fits one machine: parameters at 4 bits, and tokens a second at most when all of them are read."""
    found = []
    for name in ONE_MACHINE:
        device = find_device(name)
        held = SHARE * device.memory_bytes
        tokens = device.bytes_per_s / held
        memory, fitting = f"{device.memory_bytes / 1e9:g} GB", f"{held * 8 / BITS / 1e9:.0f} B"
        found.append([device.name, memory, fitting, f"{tokens:.0f}", f"{device.limit_w / tokens:,.1f} J"])
    return found


if __name__ == "__main__":
    known = generations()
    causes = gains(known[0][1], known[-1][1], largest_training())
    text = table(("cause", "times", "from, to"), [(name, f"{factor:,.1f}", how) for name, factor, how in causes])
    product = 1.0
    for _, factor, _ in causes[:5]:
        product *= factor
    text += f"\n\nThe first five together: {product:.1e} times the arithmetic of AlexNet's two GTX 580."
    write_between(PAGE, "gains", text)
    write_between(
        PAGE,
        "machine",
        table(("machine", "memory", "parameters at 4 bits", "tokens/s at most", "J a token"), one_machine()),
    )
    draw(known)
