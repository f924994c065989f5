"""The goals of the quantizer, each with what was measured and whether it was reached."""

from __future__ import annotations

from typing import Any

import quantize_settings as bench
from microbudget.units import format_bytes, format_seconds
from quantize_tables import TITLES, Judged, Network, bootstrap, change, number, ratio
from results import Results

FINER_SHARE = 0.5  # of the best peer's divergence, with the finer tensors
FINER_COST = 1.05  # more latency that the finer tensors may take
MEMORY_FACTOR, MEMORY_EXTRA = 2, 300e6
FLAT = 1.1  # peak memory of 2048 samples over that of 32

Line = list[str]


def verdict(estimate: float | None, limit: float, interval: tuple[float, float] | None = None) -> str:
    """Whether a value that is to be at most `limit` is so: one rule for all goals.

    interval: at 95 %, None for what was measured once. Reached where all of it is within the limit, missed where the
    estimate is not.
    """
    if estimate is None:
        return "not measured"
    if estimate > limit:
        return "missed"
    return "reached" if interval is None or interval[1] <= limit else "reached by the estimate, not shown"


def goals(networks: list[Network], results: Results) -> list[Line]:
    """All of them."""
    by_name = {network.name: network for network in networks}
    lines = [line for network in networks for line in eight_bits(network)]
    if "resnet20" in by_name:
        lines += [*finer(by_name["resnet20"]), *four_bits(by_name["resnet20"], 0.5, 0.03)]
        lines += low(by_name["resnet20"], "ours 3", 1.5, "3-bit weights, no training")
    if "mobilenet_v2" in by_name:
        lines += four_bits(by_name["mobilenet_v2"], 1.0, None)
    return lines + cost(results)


def eight_bits(network: Network) -> list[Line]:
    """No worse than the best peer at no more latency."""
    ours, peer, title = network.judged("ours 8"), network.best_peer, TITLES[network.name]
    if ours is None or peer is None:
        return [[f"8 bits, {title}: KL of the best peer", "", verdict(None, 1)]]
    middle, low_, high = ratio(ours.kl, peer[1].kl)
    said = f"{number(ours.kl.mean())} against {number(peer[1].kl.mean())} ({peer[0]})"
    said += f"; ratio {middle:.2f} ({low_:.2f}..{high:.2f})"
    lines = [[f"8 bits, {title}: KL at most the best peer's", said, verdict(middle, 1, (low_, high))]]
    runtime = "openvino" if bench.result_file(peer[0], network.name, 0).suffix == ".xml" else "onnxruntime"
    timed = "onnxruntime minmax" if peer[0].startswith("onnxruntime") else peer[0]  # all its files are of one graph
    for threads in (1, 2):
        row = network.latency(timed, runtime, threads)
        goal = f"8 bits, {title}: latency at most {timed}'s, {threads} thread{'s' * (threads - 1)}"
        if row is None:
            lines.append([goal, "", verdict(None, 1)])
            continue
        said = f"{row['ratio']:.2f} ({row['low']:.2f}..{row['high']:.2f}) of its time"
        lines.append([goal, said, verdict(row["ratio"], 1, (row["low"], row["high"]))])
    return lines + one_liner(network, ours)


def one_liner(network: Network, ours: Judged) -> list[Line]:
    """`quantize_dynamic` finds ranges for every image: more exact than any fixed range, and many times slower."""
    theirs = network.judged("quantize_dynamic")
    if theirs is None:
        return []
    middle, low_, high = ratio(ours.kl, theirs.kl)
    row = network.latency("quantize_dynamic", "onnxruntime", 1)
    slower = "" if row is None else f", which takes {1 / row['ratio']:.0f} times our time"
    said = f"{number(ours.kl.mean())} against {number(theirs.kl.mean())}{slower}"
    said += f"; ratio {middle:.2f} ({low_:.2f}..{high:.2f})"
    return [[f"8 bits, {TITLES[network.name]}: KL at most quantize_dynamic's", said, verdict(middle, 1, (low_, high))]]


def finer(network: Network) -> list[Line]:
    """Half the best peer's divergence at less than 5 % more latency."""
    ours, peer, lines = network.judged("ours 8 finer"), network.best_peer, []
    goal = "8 bits, ResNet-20, one or two tensors finer: half of the best peer's KL"
    if ours is None or peer is None:
        return [[goal, "", verdict(None, FINER_SHARE)]]
    share, low_, high = ratio(ours.kl, peer[1].kl)
    said = f"{number(ours.kl.mean())}, {share:.2f} ({low_:.2f}..{high:.2f}) of {number(peer[1].kl.mean())}"
    lines.append([goal, said, verdict(share, FINER_SHARE, (low_, high))])
    for threads in (1, 2):
        row = network.latency("ours 8 finer", "onnxruntime", threads)
        goal = f"the same: at most 5 % more latency, {threads} thread{'s' * (threads - 1)}"
        if row is None:
            lines.append([goal, "", verdict(None, FINER_COST)])
            continue
        middle, low_, high = (1 / row[name] for name in ("ratio", "high", "low"))
        said = f"{middle:.3f} ({low_:.3f}..{high:.3f}) of the time"
        lines.append([goal, said, verdict(middle, FINER_COST, (low_, high))])
    return lines


def low(network: Network, setting: str, most_points: float, what: str) -> list[Line]:
    """A loss of accuracy at most."""
    judged = network.judged(setting)
    goal = f"{what}, {TITLES[network.name]}: at most {most_points:g} points lost"
    if judged is None:
        return [[goal, "", verdict(None, most_points)]]
    lost = -100 * judged.gained
    decision = verdict(float(lost.mean()), most_points, bootstrap(lost))
    return [[goal, f"{change(judged)} on {len(judged.kl)} images", decision]]


def four_bits(network: Network, most_points: float, most_kl: float | None) -> list[Line]:
    """The loss of accuracy, and the divergence that the weights alone cause."""
    lines = low(network, "ours 4", most_points, "4-bit weights")
    judged: Judged | None = network.judged("ours 4")
    if most_kl is not None and judged is not None:
        ends = bootstrap(judged.kl)
        said = f"{number(judged.kl.mean())} ({number(ends[0])}..{number(ends[1])}) with 8-bit activations"
        lines.append([f"the same: KL at most {most_kl:g}", said, verdict(float(judged.kl.mean()), most_kl, ends)])
    return lines


def cost(results: Results) -> list[Line]:
    """Seconds and memory of quantizing MobileNetV2."""
    samples, network = bench.SAMPLES[bench.COST_NETWORK], bench.COST_NETWORK

    def row(setting: str, count: int, name: str = network) -> dict[str, Any] | None:
        found = results.get(f"cost/{name}/{setting}/{count}")
        return None if found is None or "failure" in found else found

    lines: list[Line] = []
    for setting, most_s in (("ours 8 minmax", 5.0), ("ours 8 gptq", 60.0), ("ours 4", 60.0)):
        found = row(setting, samples)
        said = "" if found is None else format_seconds(found["seconds"])
        goal = f"MobileNetV2, {samples} images, {setting}: at most {most_s:g} s"
        lines.append([goal, said, verdict(None if found is None else found["seconds"], most_s)])
    folder = bench.STORE / "networks" / network
    limit = MEMORY_FACTOR * (folder / "model.onnx").stat().st_size + MEMORY_EXTRA if folder.is_dir() else MEMORY_EXTRA
    for setting in ("ours 8 minmax", "ours 8", "ours 8 gptq", "ours 4"):
        few, many = (row(setting, count) for count in (bench.SAMPLE_COUNTS[0], bench.SAMPLE_COUNTS[-1]))
        found = [r["peak_bytes"] for count in (samples, *bench.SAMPLE_COUNTS) if (r := row(setting, count))]
        said = format_bytes(max(found)) if found else ""
        goal = f"the same, {setting}: peak memory at most {format_bytes(int(limit))}"
        lines.append([goal, said, verdict(max(found) if found else None, limit)])
        if setting not in bench.MANY_COUNTS:
            continue
        growth = None if few is None or many is None else many["peak_bytes"] / few["peak_bytes"]
        said = "" if growth is None else f"{growth:.2f} times"
        goal = f"the same, {setting}: flat from {bench.SAMPLE_COUNTS[0]} to {bench.SAMPLE_COUNTS[-1]} samples"
        lines.append([goal, said, verdict(growth, FLAT)])
    return lines
