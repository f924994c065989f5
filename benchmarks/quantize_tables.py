"""The page of the quantization benchmark, from the rows and answers that it kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import quantize_settings as bench
from markdown import provenance, table
from microbudget.methods.quantize.divergence import kl_divergence
from microbudget.units import format_bytes, format_seconds
from results import Results

DRAWN = 4000  # samples of the bootstrap over test images
TITLES = {
    "resnet20": "ResNet-20, CIFAR-10",
    "resnet56": "ResNet-56, CIFAR-10",
    "mobilenet_v2": "MobileNetV2, flowers12",
    "vit": "ViT of 0.3 M parameters, CIFAR-10",
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One setting on one network over the draws: all values per test image, the mean over the draws."""

    kl: Floats  # nats
    flipped: Floats  # share of draws in which the answer is another than the float model's
    gained: Floats  # right minus the float model's right
    weights: Floats | None
    activations: Floats | None
    draws: list[float]  # the mean KL of each
    first_draw: Floats  # its KL by test image
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A network's results."""

    name: str
    results: Results
    most_draws: int = 16

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        return np.load(bench.STORE / "networks" / self.name / "logits.npy")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.load(bench.STORE / "networks" / self.name / "labels.npy")

    def rows(self, setting: str) -> list[dict[str, Any]]:
        found = (self.results.get(f"quality/{self.name}/{setting}/{draw}") for draw in range(self.most_draws))
        return [row for row in found if row is not None]

    def judged(self, setting: str, runtime: str | None = None) -> Judged | None:
        """None where it never ran, or always failed."""
        rows, kept = self.rows(setting), []
        for draw, row in enumerate(rows):
            path = bench.result_file(setting, self.name, draw).with_suffix(".npz")
            if "failure" not in row and path.is_file():
                with np.load(path) as stored:
                    kept.append({name: stored[name] for name in stored.files})
        own = runtime or ("openvino" if bench.result_file(setting, self.name, 0).suffix == ".xml" else "onnxruntime")
        kept = [answers for answers in kept if own in answers]
        if not kept:
            return None
        divergences = [kl_divergence(self.logits, answers[own]) for answers in kept]
        return Judged(
            np.mean(divergences, axis=0),
            np.mean([a[own].argmax(1) != self.logits.argmax(1) for a in kept], axis=0),
            np.mean([self._right(a[own]) - self._right(self.logits) for a in kept], axis=0),
            *(self._alone(kept, part) for part in ("weights", "activations")),
            [float(kl.mean()) for kl in divergences],
            divergences[0],
            rows,
        )

    def _right(self, logits: NDArray[np.float32]) -> Floats:
        return (logits.argmax(1) == self.labels).astype(float)

    def _alone(self, kept: Sequence[dict[str, NDArray[np.float32]]], part: str) -> Floats | None:
        values = [kl_divergence(self.logits, answers[part]) for answers in kept if part in answers]
        return np.mean(values, axis=0) if values else None

    @cached_property
    def accuracy(self) -> float:
        return float(self._right(self.logits).mean())

    def best(self, settings: Sequence[str]) -> tuple[str, Judged] | None:
        """The setting with the smallest divergence."""
        found = [(setting, judged) for setting in settings if (judged := self.judged(setting)) is not None]
        return min(found, key=lambda pair: pair[1].kl.mean(), default=None)

    @cached_property
    def best_peer(self) -> tuple[str, Judged] | None:
        """Of those that are as fast as int8 can be: the one-line call is listed separately."""
        return self.best([*bench.PEERS["onnxruntime"], *bench.PEERS["NNCF"]])

    def latency(self, setting: str, runtime: str, threads: int) -> dict[str, Any] | None:
        row = self.results.get(f"latency/{self.name}/{setting}/{runtime}/{threads}")
        return None if row is None or "failure" in row else row


def number(value: float) -> str:
    return f"{value:.2g}" if value >= 0.1 else f"{value:.4f}" if value >= 0.00095 else f"{value:.1e}"


def bootstrap(values: Floats, statistic: Any = np.mean) -> tuple[float, float]:
    """95 % interval over test images; values: (images,) or (images, 2) for a statistic of pairs."""
    coin = np.random.default_rng(0)
    drawn = [statistic(values[coin.integers(0, len(values), len(values))]) for _ in range(DRAWN)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def ratio(ours: Floats, theirs: Floats) -> tuple[float, float, float]:
    """Our mean divergence over theirs on the same images, with its interval."""
    pairs = np.stack([ours, theirs], axis=1)

    def of(values: Floats) -> float:
        means = values.mean(axis=0)
        return float(means[0] / means[1])

    return (of(pairs), *bootstrap(pairs, of))


def change(judged: Judged) -> str:
    low, high = bootstrap(judged.gained)
    return f"{judged.gained.mean() * 100:+.2f} ({low * 100:+.1f}..{high * 100:+.1f})"


def optional(values: Floats | None) -> str:
    return "" if values is None else number(float(values.mean()))


def quality_cells(judged: Judged) -> list[str]:
    spread = f"{number(min(judged.draws))}..{number(max(judged.draws))}" if len(judged.draws) > 1 else ""
    return [
        number(float(judged.kl.mean())),
        spread,
        optional(judged.weights),
        optional(judged.activations),
        f"{judged.flipped.mean():.2%}",
        change(judged),
    ]


def speed(network: Network, setting: str, runtime: str) -> list[str]:
    """Latency and how it compares to our 8 bits, with 1 and 2 threads."""
    cells = []
    for threads in (1, 2):
        row = network.latency(setting, runtime, threads)
        if row is None:
            cells.append("")
            continue
        times = [1 / row[name] for name in ("ratio", "high", "low")]
        cells.append(f"{format_seconds(row['latency_s'])}, x {times[0]:.2f} ({times[1]:.2f}..{times[2]:.2f})")
    return cells


def ours_speed(network: Network) -> list[str]:
    cells = []
    for threads in (1, 2):
        rows = [network.latency(s, "onnxruntime", threads) for s in bench.TIMED]
        seconds = [row["ours_s"] for row in rows if row]
        cells.append(format_seconds(float(np.median(seconds))) if seconds else "")
    return cells


def eight_bits(network: Network) -> str:
    """The table of the 8-bit settings."""
    head = ["8 bits", "KL", "of the draws", "weights alone", "activations alone", "flipped", "change of accuracy, pt",
            "size", "1 thread", "2 threads"]  # fmt: skip
    size = (bench.STORE / "networks" / network.name / "model.onnx").stat().st_size
    lines = [["float32", "0", "", "", "", "0", "", format_bytes(size), *speed(network, "float", "onnxruntime")]]
    lines.append(["float32 in OpenVINO", "", "", "", "", "", "", format_bytes(size),
                  *speed(network, "float", "openvino")])  # fmt: skip
    peers = [setting for settings in bench.PEERS.values() for setting in settings]
    for setting in (*bench.INT8, *peers):
        runtimes = ["onnxruntime", "openvino"] if setting in bench.BOTH_RUNTIMES else [None]
        for runtime in runtimes:
            lines.append(setting_line(network, setting, runtime))
    return table(head, lines)


def setting_line(network: Network, setting: str, runtime: str | None) -> list[str]:
    judged, rows = network.judged(setting, runtime), network.rows(setting)
    own = "openvino" if bench.result_file(setting, network.name, 0).suffix == ".xml" else "onnxruntime"
    name = f"{setting}, in OpenVINO" if runtime == "openvino" else setting
    if judged is None:
        failures = [row["failure"] for row in rows if "failure" in row]
        return [name, failures[0] if failures else "not run", *[""] * 8]
    sizes = [row["size_bytes"] for row in judged.rows if "failure" not in row]
    times = ours_speed(network) if setting == "ours 8" and runtime == "onnxruntime" else speed(
        network, setting, runtime or own)  # fmt: skip
    return [name, *quality_cells(judged), format_bytes(int(np.mean(sizes))), *times]


def comparison(network: Network) -> list[list[str]]:
    """Ours over each peer's best setting, paired on the test images."""
    lines = []
    for setting in bench.INT8:
        ours = network.judged(setting)
        for peer, settings in bench.PEERS.items():
            found = network.best(settings)
            if ours is None or found is None:
                continue
            middle, low, high = ratio(ours.kl, found[1].kl)
            flipped = ours.flipped.mean() - found[1].flipped.mean()
            bounds = bootstrap(ours.flipped - found[1].flipped)
            lines.append([TITLES[network.name], setting, f"{peer}: {found[0]}", f"{middle:.2f} ({low:.2f}..{high:.2f})",
                          f"{flipped * 100:+.2f} ({bounds[0] * 100:+.2f}..{bounds[1] * 100:+.2f})"])  # fmt: skip
    return lines


def low_bits(network: Network) -> list[list[str]]:
    """Ours against round-to-nearest, bits by bits."""
    lines = []
    for setting in bench.LOW_BITS:
        judged, rows = network.judged(setting), network.rows(setting)
        if judged is None:
            if rows:
                lines.append([TITLES[network.name], setting, rows[0]["failure"], *[""] * 6])
            continue
        nearest = setting.startswith("nearest")
        size = "" if nearest else format_bytes(int(np.mean([row["size_bytes"] for row in rows])))
        cells = quality_cells(judged)
        if nearest:
            cells[2] = cells[0]
        lines.append([TITLES[network.name], setting, *cells, size])
    return lines


def repairs(network: Network) -> list[list[str]]:
    """What each correction gains: the KL with one more of them, over that without it on the same test images."""
    lines = []
    for bits, settings in bench.REPAIRED.items():
        before: Judged | None = None
        for what, setting in zip(bench.REPAIRS, settings, strict=True):
            judged = network.judged(setting)
            if judged is None:
                failures = [row["failure"] for row in network.rows(setting) if "failure" in row]
                said = failures[0] if failures else "not run"
                lines.append([TITLES[network.name], str(bits), what, said, *[""] * 4])
                continue
            first = judged.first_draw
            gain = ""
            if before is not None:
                middle, low, high = ratio(first, before.first_draw)
                gain = f"{middle:.2f} ({low:.2f}..{high:.2f})"
            seconds = next(row["seconds"] for row in judged.rows if "failure" not in row)
            lines.append([TITLES[network.name], str(bits), what, number(float(first.mean())), gain,
                          optional(judged.weights), f"{judged.flipped.mean():.2%}",
                          format_seconds(seconds)])  # fmt: skip
            before = judged
    return lines


def runtimes(networks: Sequence[Network]) -> list[list[str]]:
    """The default files in three runtimes."""
    lines = []
    for network in networks:
        row = network.results.get(f"runtimes/{network.name}")
        if row is None or "failure" in row:
            lines.append([TITLES[network.name], "not run" if row is None else row["failure"], "", ""])
            continue
        differences = [f"{row[runtime]:.2%}" for runtime in ("onnxruntime", "openvino")]
        lines.append([TITLES[network.name], f"{row['alike']} of {row['images']}", *differences])
    return lines


def host() -> str:
    """What this processor means for 8-bit weights."""
    from microbudget.methods.quantize.scheme import Machine

    if not Machine.here().saturates:
        return "This CPU adds products of 8-bit integers in 32 bits (VNNI or similar): *ours 8* has weights of 8 bits."
    return (
        "**This CPU has no VNNI** and adds two products of 8-bit integers in 16 bits: *ours 8*, in all its rows, keeps"
        " weights within 7 bits. onnxruntime's guide says `reduce_range` for such CPUs, which does the same"
        " (*onnxruntime minmax reduced*); in its other rows weights have 8 bits, and sums can saturate."
    )


def cost_lines(results: Results) -> list[list[str]]:
    """Seconds and memory of each quantizer, alone on the machine."""
    lines = []
    for key, row in results.rows.items():
        if not key.startswith("cost/"):
            continue
        _, network, setting, samples = key.split("/")
        if "failure" in row:
            lines.append([TITLES[network], setting, samples, row["failure"], ""])
        else:
            lines.append([TITLES[network], setting, samples, format_seconds(row["seconds"]),
                          format_bytes(row["peak_bytes"])])  # fmt: skip
    return sorted(lines, key=lambda line: (line[0], line[1], int(line[2])))


def made(results: Results) -> list[Network]:
    """The networks that are there."""
    networks = [Network(name, results) for name in bench.SAMPLES]
    return [network for network in networks if (bench.STORE / "networks" / network.name / "logits.npy").is_file()]


def summary(results: Results) -> str:
    """The table at the head of the page: divergence and speed at 8 bits, divergence and accuracy at 4."""
    lines = []
    for network in made(results):
        cells = [TITLES[network.name]]
        for settings in (("ours 8",), bench.PEERS["onnxruntime"], bench.PEERS["NNCF"], ("ours 4",), ("nearest 4",)):
            found = network.best(settings)
            cells.append("" if found is None else number(float(found[1].kl.mean())))
            if settings[0].endswith(" 4"):
                cells.append("" if found is None else change(found[1]))
        row = network.latency("float", "onnxruntime", 1)
        cells.insert(2, "" if row is None else f"{row['ratio']:.2f} ({row['low']:.2f}..{row['high']:.2f})")
        lines.append(cells)
    head = ["KL from the float model", "8 bits", "its time, float 1", "onnxruntime's best", "NNCF's best", "4 bits",
            "points", "4 bits, nearest", "points"]  # fmt: skip
    return "\n\n".join([table(head, lines), provenance("quantize.py")])


def page(networks: list[Network], goals: list[list[str]], results: Results) -> str:
    """All tables. goals: lines of the first one."""
    parts = [host(), "### Goals", table(["goal", "measured", ""], goals)]
    for network in networks:
        parts.append(
            f"### {TITLES[network.name]}\n\nAccuracy in float32 {network.accuracy:.2%} on {len(network.labels)} test"
            f" images; {bench.SAMPLES[network.name]} calibration images a draw."
        )
        parts.append(eight_bits(network))
    parts += [
        "### Ours over the best setting of each peer, paired on the same images",
        table(["network", "ours", "against", "KL, ratio", "flipped, points"],
              [line for network in networks for line in comparison(network)]),
        "### 4, 3 and 2 bits",
        table(["network", "setting", "KL", "of the draws", "weights alone", "activations alone", "flipped",
               "change of accuracy, pt", "size"], [line for network in networks for line in low_bits(network)]),
        "### What each correction gains",
        "One correction more in every row; the ratio is that of the KL over the row above's, paired on the test images"
        " of one draw.",
        table(["network", "bits", "corrections", "KL", "ratio", "weights alone", "flipped", "time"],
              [line for network in networks for line in repairs(network)]),
        "### The same answers in three runtimes",
        f"`quantize()` by default, on {bench.AGREEING} of its calibration images: in how many the top answer is one and"
        " the same in ONNX Runtime, OpenVINO and ONNX's reference evaluator, and by how much of the largest logit the"
        " logits differ from the evaluator's at most.",
        table(["network", "same top answer", "onnxruntime", "openvino"], runtimes(networks)),
        "### Cost",
        table(["network", "setting", "samples", "time", "peak memory of the process"], cost_lines(results)),
        provenance("quantize.py"),
    ]  # fmt: skip
    return "\n\n".join(parts)
