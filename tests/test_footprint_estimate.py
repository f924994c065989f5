"""Energy on paper: every published case through the command line, what must hold of all sums, and refused input."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget import cli, estimate_inference, estimate_training
from microbudget.errors import BadInput, InvalidUnit
from microbudget.footprint import asking, facts, published
from microbudget.footprint.diffusion import Picture, UNet
from microbudget.footprint.quantities import count, quantity
from microbudget.footprint.ranges import Range
from microbudget.progress import Progress
from toy_models import random_linear

TRAININGS, INFERENCES = list(published.trainings()), list(published.inferences())


@cache
def parser() -> argparse.ArgumentParser:
    return cli.parser_of_all_verbs()


def said(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    options = parser().parse_args(["estimate", *command, "--json"])
    assert options.verb(options, Progress(quiet=True)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def three(found: dict[str, Any], key: str) -> tuple[float, float, float]:
    stem, unit = key.removeprefix("energy").partition("_")[::2]
    assert not stem
    return found[f"energy_low_{unit}"], found[key], found[f"energy_high_{unit}"]


@pytest.mark.parametrize("scoped", [True, False], ids=["scope known", "scope not said"])
@pytest.mark.parametrize("cases", [TRAININGS, INFERENCES], ids=["training", "inference"])
def test_published_cases(cases: list[published.Case], scoped: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: 80 % within a factor of 2 of the middle, 90 % inside the range, none beyond 5, and ranges worth having."""
    factors, inside, widths = [], [], []
    for case in cases:
        more = ["--scope", case.scope] if scoped else []
        low, middle, high = three(said([*case.command, *more], capsys), case.key)
        factors.append(max(middle / case.published, case.published / middle))
        inside.append(low <= case.published <= high)
        widths.append(high / low)
    assert len(cases) > 60
    assert statistics.fmean(factor <= 2 for factor in factors) >= 0.85
    assert statistics.fmean(inside) >= 0.9
    assert max(factors) < 5
    assert statistics.median(widths) < 5


def test_hours_that_were_published_follow_from_size_and_tokens() -> None:
    """The cases whose energy is unknown: device-hours from parameters, tokens and device."""
    inside = []
    for row in facts.rows("training"):
        if not (row["device_hours"] and row["train_unit"] == "tokens" and row["params_active_B"]):
            continue
        size = f"{row['params_total_B']}B-A{row['params_active_B']}B"
        method = "lora" if "LoRA" in row["model"] else "full"
        found = estimate_training(
            params=size,
            tokens=row["train_amount"],
            on=row["device"],
            precision=row["precision"] or "bf16",
            method=method,
        )
        (hours,) = (line.value for line in found.lines if line.name == "device-hours")
        inside.append(hours.low <= float(row["device_hours"]) <= hours.high)
    assert len(inside) > 35
    assert statistics.fmean(inside) >= 0.8


def test_every_case_is_asked_or_has_a_reason() -> None:
    names = {row["case_id"] for row in facts.rows("inference")}
    assert names == {case.name for case in INFERENCES} | set(published.unknown())
    assert all(published.unknown().values())


@pytest.mark.skipif(not Path("../shared/facts/energy").is_dir(), reason="the shared facts are not here")
@pytest.mark.parametrize("name", ["training", "inference", "grid", "pue_mfu"])
def test_the_facts_are_those_that_are_shared(name: str) -> None:
    shared = Path("../shared/facts/energy", f"{name}.csv").read_text("utf-8").replace("\r\n", "\n")
    assert shared == (Path(facts.__file__).parent / "facts" / f"{name}.csv").read_text("utf-8")


def test_every_fact_has_an_origin_and_ranges_are_in_order() -> None:
    for row in facts.rows("factors"):
        assert 0 < float(row["low"]) <= float(row["middle"]) <= float(row["high"]), row
        assert row["source"], row
    assert len(facts.devices()) > 60
    for device in facts.devices().values():
        assert device.origin
        assert 0 < device.idle_w < device.limit_w


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a100 80gb", "A100-SXM-80GB"), ("A100-SXM4-80GB", "A100-SXM-80GB"), ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("H100 SXM5", "H100-SXM"), ("NVIDIA H100 80GB HBM3", "H100-SXM"), ("TPU v4", "TPUv4"), ("tpuv3", "TPUv3"),
        ("rtx4090", "RTX 4090"), ("GeForce RTX 4090", "RTX 4090"), ("pi5", "Raspberry Pi 5 (8GB)"),
        ("m2", "Apple M2 (10-core GPU)"),
        ("laptop-16gb", "Laptop x86 (Core i7-1260P class)"), ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("Cortex-M4", "Cortex-M4 (STM32L4R5 120 MHz)"),
    ],
)  # fmt: skip
def test_devices_in_any_spelling(written: str, name: str) -> None:
    assert facts.find_device(written).name == name


def test_every_device_and_alias_is_found() -> None:
    for row in facts.rows("devices"):
        for name in (row["device"], *filter(None, row["aliases"].split(";"))):
            assert facts.find_device(name).name == row["device"]


PARAMETERS = {
    "meta-llama/Llama-3.1-8B-Instruct": (8.03e9, 8.03e9),
    "meta-llama/Llama-3.1-405B-Instruct": (405.8e9, 405.8e9),
    "Qwen/Qwen3-30B-A3B": (30.5e9, 3.3e9),
    "Qwen/Qwen3-235B-A22B": (235e9, 22e9),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (46.7e9, 12.9e9),
    "deepseek-ai/DeepSeek-V3.1": (671e9, 37e9),
    "bigscience/bloom": (176.2e9, 176.2e9),
    "google/flan-t5-xxl": (11.1e9, 11.1e9),
    "google-bert/bert-base-uncased": (109e6, 109e6),
    "stabilityai/stable-diffusion-xl-base-1.0": (2.57e9, 2.57e9),
    "stabilityai/stable-diffusion-2-1": (866e6, 866e6),
    "black-forest-labs/FLUX.1-dev": (11.9e9, 11.9e9),
    "stabilityai/stable-diffusion-3.5-large": (8.06e9, 8.06e9),
}  # as published


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_from_a_config(name: str) -> None:
    network = asking.network_of(name)
    assert network is not None
    assert (network.parameters, network.active) == pytest.approx(PARAMETERS[name], rel=0.03)


def test_operations_of_a_unet_are_those_that_are_published() -> None:
    """SDXL 2.98e12 multiply-adds at 1024 (Podell et al.'s network by deepspeed and calflops), attention unweighted."""
    found = asking.known_config("stable-diffusion-xl-base-1.0")
    assert found is not None
    assert UNet(found[1]).multiply_adds(128, 128) == pytest.approx(2.98e12, rel=0.25)


def test_a_config_file_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    known = asking.known_config("qwen3-8b")
    assert known is not None
    path.write_text(json.dumps(known[1]))
    common = ["--tokens", "300", "--batch", "8", "--precision", "bf16", "--on", "H100-SXM"]
    by_name = said(["inference", known[0], *common], capsys)
    for name in (str(path), str(tmp_path)):
        found = said(["inference", name, *common], capsys)
        assert found["energy_j"] == by_name["energy_j"]
    assert found["energy_j_per_token"] == pytest.approx(found["energy_j"] / 300)
    assert found["energy_kwh"] == pytest.approx(found["energy_j"] / 3.6e6)
    assert found["co2e_kg"] > 0
    assert found["cost"] > 0
    assert all(line["origin"] or line["how"] or line["unit"] for line in found["lines"])
    trained = said(["training", str(path), "--tokens", "36T", "--on", "H100"], capsys)
    assert trained["energy_low_kwh"] < trained["energy_kwh"] < trained["energy_high_kwh"]


def test_the_sum_can_be_followed() -> None:
    found = estimate_training(params="7B", tokens="2T", on="2048xA100-SXM-80GB", scope="facility", pue=1.1, grid=400)
    line = {each.name: each.value.middle for each in found.lines}
    assert line["operations"] == 6 * 7e9 * 2e12
    assert line["device-hours"] == pytest.approx(
        line["operations"] / line["peak of a device"] / line["utilization (MFU)"] / 3600
    )
    assert line["accelerators"] == pytest.approx(line["device-hours"] * line["power of a device"] / 1000)
    assert line["energy"] == pytest.approx(line["accelerators"] * line["host"] * line["PUE"])
    assert found.energy_kwh.middle == line["energy"]
    assert found.co2e_kg.middle == pytest.approx(line["energy"] * 0.4)
    answer = estimate_inference("8B", on="H100", batch=8, scope="node")
    line = {each.name: each.value.middle for each in answer.lines}
    phases = ("memory", "arithmetic", "between kernels")
    assert line["accelerators"] == pytest.approx(
        line["software"] * sum(line[name] * line[f"power, {name}"] for name in phases) / 8
    )
    assert answer.per["answer"].middle == pytest.approx(line["accelerators"] * line["host"])


def test_explain_prints_each_line_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimate", "training", "--params", "7B", "--tokens", "2T", "--on", "H100", "--explain"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("kettles", "km", "utilization (MFU)", "from hopper", "PUE", "$/kWh"))


def test_a_model_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "toy.onnx"
    random_linear(path)
    found = said(["inference", str(path), "--on", "pi5", "--precision", "int8"], capsys)
    assert 0 < found["energy_j"] < 1
    assert "energy_j_per_token" not in found


SIZES = st.floats(1e6, 1e12)


@settings(deadline=None, max_examples=60)
@given(parameters=SIZES, tokens=st.floats(1e3, 1e14), device=st.sampled_from(sorted(facts.devices())))
def test_more_takes_more(parameters: float, tokens: float, device: str) -> None:
    """In order, and growing with the tokens and with a network ten times as large."""
    options = {"params": f"{parameters:.0f}", "tokens": f"{tokens:.0f}", "on": device, "peak": "1T"}
    one = estimate_training(**options).energy_kwh
    assert 0 < one.low <= one.middle <= one.high
    assert estimate_training(**{**options, "tokens": f"{2 * tokens:.0f}"}).energy_kwh.middle > 1.9 * one.middle
    assert estimate_training(**{**options, "params": f"{10 * parameters:.0f}"}).energy_kwh.middle > one.middle


@settings(deadline=None, max_examples=60)
@given(parameters=SIZES, tokens=st.integers(1, 10_000), batch=st.integers(1, 512))
def test_an_answer_of_more_tokens_takes_more(parameters: float, tokens: int, batch: int) -> None:
    options: dict[str, Any] = {"params": f"{parameters:.0f}", "tokens": tokens, "batch": batch, "on": "H100"}
    one = estimate_inference(**options)
    assert 0 < one.energy_kwh.low <= one.energy_kwh.middle <= one.energy_kwh.high
    assert estimate_inference(**{**options, "tokens": 2 * tokens}).energy_kwh.middle > one.energy_kwh.middle
    together = estimate_inference(**{**options, "batch": 2 * batch}).energy_kwh.middle
    assert together < one.energy_kwh.middle * 1.001  # many at once share the weights


@given(st.floats(0.001, 999), st.sampled_from(["", "k", "M", "B", "T"]))
def test_counts(value: float, unit: str) -> None:
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    assert count(f"{value:.6f}{unit}", "x") == pytest.approx(float(f"{value:.6f}") * scale)


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(1, 10), st.floats(1, 10)), min_size=1, max_size=6))
def test_a_product_is_narrower_than_all_extremes_and_wider_than_each(
    factors: list[tuple[float, float, float]],
) -> None:
    product = Range(1, 1, 1)
    for low, middle, high in factors:
        product = product * Range(low * middle, middle, middle * high)
    lows, highs = math.prod(low for low, _, _ in factors), math.prod(high for _, _, high in factors)
    assert lows * 0.999 <= product.low / product.middle <= min(low for low, _, _ in factors) * 1.001
    assert max(high for _, _, high in factors) * 0.999 <= product.high / product.middle <= highs * 1.001


def test_more_pixels_and_steps_take_more() -> None:
    for name in ("stable-diffusion-v1-5", "stable-diffusion-3.5-medium", "FLUX.1-dev"):
        network = asking.network_of(name)
        assert network is not None
        assert network.image is not None
        one = network.image.operations(Picture(20, 512, 512))
        assert network.image.operations(Picture(40, 512, 512)) > 1.8 * one
        assert network.image.operations(Picture(20, 1024, 1024)) > 3.5 * one


REFUSED = [
    (["training", "--params", "7B", "--tokens", "-2T", "--on", "A100"], "must be above zero"),
    (["training", "--params", "7B", "--tokens", "0", "--on", "A100"], "must be above zero"),
    (["training", "--params", "7 parsecs", "--tokens", "2T", "--on", "A100"], "cannot be read"),
    (["training", "--params", "7B", "--tokens", "nan", "--on", "A100"], "cannot be read"),
    (["training", "--params", "1e29", "--tokens", "2T", "--on", "A100"], "no more than 10P"),
    (["training", "--params", "7B-A8B", "--tokens", "2T", "--on", "A100"], "more are active"),
    (["training", "--params", "7B", "--tokens", "2T", "--on", "A10O"], "the nearest are"),
    (["training", "--params", "7B", "--tokens", "2T", "--on", "0xA100"], "no possible number"),
    (["training", "--params", "7B", "--tokens", "2T"], "no device is named"),
    (["training", "--params", "7B", "--on", "A100"], "--device-hours"),
    (["training", "--device-hours", "-5", "--on", "A100"], "must be above zero"),
    (["training", "--device-hours", "5", "--on", "A100", "--batch", "3"], "says nothing about training"),
    (["training", "--device-hours", "5", "--on", "A100", "--grid", "Atlantis"], "no region"),
    (["training", "--device-hours", "5", "--on", "A100", "--pue", "0.5"], "a PUE is from 1"),
    (["training", "--device-hours", "5", "--on", "A100", "--pue", "much"], "--pue is a number"),
    (["inference", "--on", "H100"], "an answer of what?"),
    (["inference", "nobody/nothing", "--on", "H100"], "nothing"),
    (["inference", "70B", "--on", "1xH100"], "weights alone are"),
    (["inference", "8B", "--on", "Unheard", "--tdp", "300W"], "--bandwidth"),
    (["inference", "8B", "--on", "Unheard"], "or describe it with --tdp"),
    (["inference", "8B", "--on", "H100", "--precision", "int5"], "there is no precision"),
    (["inference", "8B", "--on", "H100", "--batch", "1.5"], "whole number"),
    (["inference", "FLUX.1-dev", "--on", "H100", "--resolution", "wide"], "cannot be read"),
    (["inference", "FLUX.1-dev", "--on", "H100", "--resolution", "3"], "from 16 to"),
    (["inference", "FLUX.1-dev", "--on", "H100", "--steps", "0"], "above zero"),
]


@pytest.mark.parametrize(("command", "reason"), REFUSED, ids=[" ".join(command[1:]) for command, _ in REFUSED])
def test_bad_input(
    command: list[str], reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["estimate", *command]) == 2
    output = capsys.readouterr()
    assert reason in output.err
    assert output.err.count("\n") == 1
    assert not output.out


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama", "hidden_size": 64}, "names no layers"),
        ({"model_type": "llama", "num_hidden_layers": 2}, "names no width"),
        ({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": -2}, "which no network has"),
        ({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": "two"}, "is no whole number"),
        ({"_class_name": "UNet2DConditionModel"}, "no block_out_channels"),
        ({"_class_name": "SD3Transformer2DModel"}, "names no layers"),
        ([], "holds a list"),
    ],
)
def test_configs_that_cannot_be(config: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert cli.main(["estimate", "inference", str(path), "--on", "H100"]) == 2
    assert reason in capsys.readouterr().err


def test_in_python_wrong_names_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean tokens"):
        estimate_training(params="7B", tokns="2T", on="H100")
    with pytest.raises(InvalidUnit):
        estimate_training(params="much", tokens="2T", on="H100")


@pytest.mark.parametrize(
    ("text", "hours"), [("7M", 7e6), ("7M h", 7e6), ("1.5k hours", 1500), ("2 days", 48), ("8", 8)]
)
def test_hours_may_be_written_with_a_scale(text: str, hours: float) -> None:
    assert quantity(text, {"h": 1.0, "days": 24.0, "hours": 1.0}, "--device-hours") == pytest.approx(hours)
