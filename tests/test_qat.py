"""qat: a quantized file learns from its original; what was simulated is what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import toy_networks
from conftest import write_onnx_model, write_photos, write_resnet
from microbudget.errors import BadData, Diverged, InvalidOption, LabelsDisagree, OutOfTime, UnsupportedModel
from microbudget.kinds.image_classification import qat as images
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.finetune import Finetune
from microbudget.methods.qat import Qat
from microbudget.methods.qat.lsq import FakeQuantize, Lsq
from microbudget.methods.qat.simulation import Simulation, own_scales
from microbudget.methods.qat.writing import planes_of, written
from microbudget.methods.quantize import Quantize
from microbudget.methods.quantize.packing import split
from microbudget.model import Model
from microbudget.recipes.build import build_step
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions

QUICK = Qat(epochs=2, learning_rate=1e-3)


def naive_lsq(v: float, s: float, low: int, high: int) -> tuple[float, float, float]:
    """Value, gradient of v and gradient of s: Esser et al. 2020, equations 1 to 3, for one number."""
    u = v / s
    if u < low:
        return low * s, 0.0, float(low)
    if u > high:
        return high * s, 0.0, float(high)
    return round(u) * s, 1.0, round(u) - u


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (-2, 1), (0, 255), (-128, 127)])
def test_the_gradient_of_a_scale_is_that_of_the_paper(low: int, high: int) -> None:
    random = np.random.default_rng(high)
    values, s = random.normal(0, 0.4 * max(high, 1), 200), 0.7
    v = torch.tensor(values, requires_grad=True)
    scale = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor(random.normal(size=200))
    y = Lsq.apply(v, scale, (low, high), 0.25)  # type: ignore[no-untyped-call]
    y.backward(upstream)
    naive = np.array([naive_lsq(float(each), s, low, high) for each in values])
    np.testing.assert_allclose(y.detach(), naive[:, 0], rtol=1e-12)
    assert v.grad is not None
    assert scale.grad is not None
    np.testing.assert_allclose(v.grad, naive[:, 1] * upstream.numpy(), rtol=1e-12)
    np.testing.assert_allclose(float(scale.grad), 0.25 * (naive[:, 2] * upstream.numpy()).sum(), rtol=1e-9)


def test_a_scale_for_each_output_has_its_own_gradient_and_share() -> None:
    """Through the logarithm: dy/dlog s = s dy/ds, over sqrt(numbers of one scale * high)."""
    weights = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 0.2, 1.0]).reshape(3, 1, 1, 1)
    rounding = FakeQuantize(scale, -8, 7)
    rounding(weights).sum().backward()
    assert rounding.log_scale.grad is not None
    for row in range(3):
        naive = sum(naive_lsq(float(v), float(scale[row]), -8, 7)[2] for v in weights[row].flatten())
        expected = naive * float(scale[row]) / (16 * 7) ** 0.5
        assert float(rounding.log_scale.grad[row]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("make", [toy_networks.residual, toy_networks.depthwise])
def test_what_is_simulated_is_what_onnxruntime_computes(make: Any, bits: int, tmp_path: Path) -> None:
    """Before and after weights and scales have moved, to one step of the last scale; no node moves."""
    path, _ = toy_networks.quantized_in(tmp_path, make(), bits=bits)
    model = onnx.load(str(path))
    file = own_scales(model)
    simulation = Simulation(file, file.graph.output[0].name)
    x = torch.from_numpy(toy_networks.images(16, seed=5))
    assert differs(simulation, file, x) <= last_scale(simulation)
    optimizer = torch.optim.AdamW(
        [{"params": simulation.others(), "lr": 1e-3}, {"params": simulation.scales()}], lr=0.01
    )
    for _ in range(3):
        simulation(x=x).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    again = written(simulation)
    onnx.checker.check_model(again)
    assert differs(simulation, again, x) <= last_scale(simulation)
    assert np.abs(answers(again, x) - answers(model, x)).max() > 1e-3, "nothing was learnt"
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in model.graph.node]
    own = len(simulation.scales()) * 16  # bytes of a scale that was shared, with its name
    assert again.ByteSize() <= model.ByteSize() + own


def differs(simulation: Simulation, model: Any, x: torch.Tensor) -> float:
    found = simulation.network.scores(x=x).detach().numpy()
    return float(np.abs(found - answers(model, x)).max())


def answers(model: Any, x: torch.Tensor) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})[0]


def last_scale(simulation: Simulation) -> float:
    roundings = [node for node in simulation.file.graph.node if node.op_type == "QuantizeLinear"]
    return simulation.activation(roundings[-1]).scale.item()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_integers_are_packed_as_quantize_packs_them(bits: int, tmp_path: Path) -> None:
    path, _ = toy_networks.quantized_in(tmp_path, toy_networks.depthwise(), bits=bits)
    simulation = Simulation(own_scales(onnx.load(str(path))), onnx.load(str(path)).graph.output[0].name)
    for weight in simulation.rounded.weights.values():
        assert weight.bits == bits
        codes = (weight.q.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
        for own, theirs, stored in zip(planes_of(weight.q, weight), split(codes, bits), weight.stored, strict=True):
            np.testing.assert_array_equal(own, theirs)
            np.testing.assert_array_equal(own, simulation.rounded.values[stored].ravel())


@pytest.fixture(scope="session")
def photos_beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of three classes, and some without a label."""
    folder = write_photos(tmp_path_factory.mktemp("labelled") / "train", per_class=12).parent
    write_photos(folder / "more", per_class=4, seed=1)
    (folder / "unlabelled").mkdir()
    for place, file in enumerate(sorted((folder / "more").rglob("*.png"))):
        file.rename(folder / "unlabelled" / f"{place}.png")
    for name in ("validation", "test"):
        write_photos(folder / name, per_class=3, seed=len(name))
    (folder / "more").rename(folder.parent / f"{folder.name}-more")
    return folder


@pytest.fixture(scope="session")
def context(photos_beside: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    cache = tmp_path_factory.mktemp("cache")
    return Context(ImageTask.open(photos_beside, DataOptions(cache=cache)), cache, threads=1)


@pytest.fixture(scope="session")
def original(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("given")
    given = load(write_onnx_model(write_resnet(folder / "resnet", ("cat", "dog")), folder / "onnx"))
    return build_step(given, Finetune(epochs=5), context, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def rounded(original: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """In 2 bits, rounded to nearest: there is something to learn."""
    step = Quantize(bits=2, samples=8, corrections="none")
    return build_step(original, step, context, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def learnt(original: Model, context: Context) -> Context:
    return replace(context, reference=original)


def test_a_file_comes_nearer_to_its_original(rounded: Model, learnt: Context, tmp_path: Path) -> None:
    model = build_step(rounded, Qat(epochs=4, learning_rate=1e-3), learnt, tmp_path)
    history = model.record.history["qat"]
    assert history["kept"] >= 1
    assert history["kl"] < 0.8 * history["kl_before"]
    assert (history["photos"], history["unlabelled"], history["bits"]) == (48, 12, 2)
    assert shapes_of(model) == shapes_of(rounded)
    assert abs(model.size_bytes - rounded.size_bytes) < 1_000
    assert model.labels == rounded.labels
    examples = learnt.task.examples("validation")
    inputs = learnt.task.collate(examples, model.record.preprocessing or {})
    sessions = [open_session(each, threads=1).answer(dict(inputs)) for each in (learnt.reference, model)]  # type: ignore[arg-type]
    teacher, student = (torch.from_numpy(each).double() for each in sessions)
    assert float(images.divergence(student, teacher).mean()) == pytest.approx(history["kl"], rel=0.05)


def shapes_of(model: Model) -> list[str]:
    return [node.op_type for node in onnx.load(str(model.weights)).graph.node]


def test_a_kill_in_the_middle_goes_on_to_the_same_bytes(
    rounded: Model, learnt: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_step(rounded, QUICK, learnt, tmp_path / "whole")
    monkeypatch.setattr("microbudget.training.loop.CHECKPOINT_EVERY_S", 0.0)
    batch, calls = images.FreshViews.batch, []

    def killed(self: Any, rows: Any, epoch: int, *, taught: bool) -> Any:
        calls.append(epoch)
        if len(calls) == 5:  # of six
            raise KeyboardInterrupt
        return batch(self, rows, epoch, taught=taught)

    monkeypatch.setattr(images.FreshViews, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        build_step(rounded, QUICK, learnt, tmp_path / "killed")
    again = build_step(rounded, QUICK, learnt, tmp_path / "killed")
    assert len(calls) == 7, "it began anew"
    assert again.weights.read_bytes() == whole.weights.read_bytes()


def test_nothing_better_leaves_the_file_as_it_is(original: Model, learnt: Context, tmp_path: Path) -> None:
    fine = build_step(original, Quantize(samples=8), learnt, tmp_path)
    model = build_step(fine, Qat(bits=8, epochs=1, learning_rate=1.0), learnt, tmp_path)
    assert model.record.history["qat"]["kept"] == 0
    assert model.weights.read_bytes() == fine.weights.read_bytes()


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(
    rounded: Model, learnt: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = images.divergence

    def broken(logits: Any, teacher: Any) -> Any:
        found = original(logits, teacher)
        return found * np.nan if logits.requires_grad and broken_after[0] <= 0 else countdown(found, logits)

    broken_after = [3]

    def countdown(found: Any, logits: Any) -> Any:
        broken_after[0] -= bool(logits.requires_grad)
        return found

    monkeypatch.setattr(images, "divergence", broken)
    model = build_step(rounded, QUICK, learnt, tmp_path)
    assert "the loss was nan in epoch 2, step 4" in model.record.history["qat"]["stopped"]
    broken_after[0] = 0
    with pytest.raises(Diverged, match="before one epoch was whole"):
        build_step(rounded, replace(QUICK, epochs=3), learnt, tmp_path)


def test_minutes_that_allow_no_epoch_are_said(rounded: Model, learnt: Context, tmp_path: Path) -> None:
    import time

    with pytest.raises(OutOfTime, match=r"qat"):
        build_step(rounded, replace(QUICK, epochs=500), replace(learnt, deadline=time.monotonic() + 0.3), tmp_path)


@pytest.mark.parametrize("per_class", [1, 2])
def test_a_few_photos_are_fewer_than_a_batch(per_class: int, rounded: Model, learnt: Context, tmp_path: Path) -> None:
    """Even one of each class: labels are not read."""
    folder = write_photos(tmp_path / "photos" / "train", per_class=per_class).parent
    write_photos(folder / "validation", per_class=1, seed=2)
    write_photos(folder / "test", per_class=1, seed=3)
    few = replace(learnt, task=ImageTask.open(folder, DataOptions(cache=tmp_path / "cache")))
    model = build_step(rounded, replace(QUICK, epochs=1), few, tmp_path / "store")
    assert model.record.history["qat"]["photos"] == 3 * per_class


def test_before_quantize_and_after_another_tool_it_is_refused(
    original: Model, rounded: Model, learnt: Context, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=r"put quantize\(\) before qat\(\); a file that another tool"):
        build_step(original, QUICK, learnt, tmp_path)
    foreign = rounded.with_record(history={})
    with pytest.raises(UnsupportedModel, match="no record of it"):
        build_step(foreign, QUICK, learnt, tmp_path)


def test_bits_are_those_of_the_file(rounded: Model, learnt: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"bits=4, but quantize gave the weights 2: write quantize\(bits=4\) > qat"):
        build_step(rounded, replace(QUICK, bits=4), learnt, tmp_path)
    with pytest.raises(InvalidOption, match="must be one of None, 8, 4, 3, 2, not 5"):
        Qat(bits=5)
    assert Qat(bits=2).short() == "qat(bits=2)"


def test_a_teacher_is_needed_and_is_the_original(rounded: Model, learnt: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="there is no reference: name it"):
        build_step(rounded, QUICK, replace(learnt, reference=None), tmp_path)
    with pytest.raises(InvalidOption, match="is quantized too"):
        build_step(rounded, QUICK, replace(learnt, reference=rounded), tmp_path)
    assert learnt.reference is not None
    strange = learnt.reference.with_record(labels=("a", "b", "c"), fingerprint="strange")
    with pytest.raises(LabelsDisagree, match="qat: the original has other classes than the file"):
        build_step(rounded, QUICK, replace(learnt, reference=strange), tmp_path)


def test_without_photos_it_says_so(rounded: Model, learnt: Context, tmp_path: Path) -> None:
    class Empty:
        def __getattr__(self, name: str) -> Any:
            return getattr(learnt.task, name)

        def examples(self, split: str) -> Any:
            return learnt.task.examples("validation") if split == "validation" else ()

    with pytest.raises(BadData, match="there are no photos to learn from"):
        build_step(rounded, QUICK, replace(learnt, task=Empty()), tmp_path)  # type: ignore[arg-type]


def test_integers_that_are_not_simulated_are_named(tmp_path: Path) -> None:
    path, _ = toy_networks.quantized_in(tmp_path, toy_networks.residual(), bits=4, activation_bits=None)
    model = onnx.load(str(path))
    with pytest.raises(UnsupportedModel, match="the file computes with MatMulNBits"):
        Simulation(own_scales(model), model.graph.output[0].name)
