"""Repair after a cut: layers fitted by least squares, against naive equations and where the answer is known."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from conftest import write_photos, write_resnet
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.prune import Prune, least_squares, moments
from microbudget.methods.prune.graph import trace
from microbudget.methods.prune.least_squares import _Equations, _inputs_at, _solved, refit
from microbudget.methods.prune.surgery import cut
from microbudget.methods.prune.target import PruningTarget
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions


class Answer(nn.Module):
    """Layers with the answer that networks of transformers give."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return ImageClassifierOutput(logits=self.layers(pixel_values))


def photos(count: int = 48, size: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(seed))}


def pruned(network: nn.Module, site: int, bundles: list[int]) -> tuple[Any, PruningTarget, Any, np.ndarray]:
    """A copy without these channels of a site; the target, the graph and what was removed."""
    inputs = photos()
    target = PruningTarget(network.eval(), [inputs])
    graph = trace(network, target.example)
    removed = graph.sites[site].bundles[bundles]
    smaller = copy.deepcopy(network)
    cut(smaller, graph, removed)
    return smaller, target, graph, removed


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 100),
)
def test_a_convolution_is_the_product_of_its_inputs_and_weights(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups)
    x = torch.randn(3, 4, 9, 8)
    with torch.no_grad():
        expected = layer(x)
        positions = torch.randint(expected[0, 0].numel(), (3, 5))
        rows = _inputs_at(layer, x, positions)
        weight = layer.weight.reshape(groups, 8 // groups, -1)
        found = torch.einsum("geci,goi->ecgo", rows, weight).flatten(2) + layer.bias
        wanted = torch.take_along_dim(expected.flatten(2).transpose(1, 2), positions[:, :, None], 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("ridge", [1e-4, 0.1, 1.0])
def test_the_solution_is_that_of_the_ridges_equations(ridge: float, free: bool) -> None:
    """Against NumPy's least squares with the ridge written out as further rows."""
    coin = np.random.default_rng(0)
    x, y, before = coin.normal(1, 2, (60, 5)), coin.normal(2, 1, (60, 3)), coin.normal(0, 1, (5, 3))
    tensors = [torch.from_numpy(each) for each in (x.reshape(1, 20, 3, 5), y.reshape(1, 20, 3, 3), before[None])]
    weight, intercept = _Equations.of(*tensors, free).solution(ridge)
    centre, level = (x.mean(0), y.mean(0)) if free else (np.zeros(5), np.zeros(3))
    strength = math.sqrt(ridge * np.square(x - centre).sum(0).mean())
    rows = np.concatenate([x - centre, strength * np.eye(5)])
    wanted = np.concatenate([y - level, strength * before])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(weight[0].numpy(), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(intercept[0].numpy(), level - centre @ expected, rtol=1e-8, atol=1e-10)


def test_held_out_examples_choose_the_ridge() -> None:
    """Of noise nothing is learnt; of what is exact nothing is held back."""
    coin = torch.Generator().manual_seed(0)
    rows = torch.randn((1, 40, 1, 20), generator=coin)
    before, true = torch.zeros((1, 20, 2)).double(), torch.randn((1, 20, 2), generator=coin)
    noise = torch.randn((1, 40, 1, 2), generator=coin)
    weight, _ = _solved(rows, noise, before, True)
    assert float(weight.abs().max()) < 0.1
    exact = (rows.flatten(1, 2) @ true).reshape(1, 40, 1, 2)
    weight, _ = _solved(rows, exact, before, True)
    torch.testing.assert_close(weight.float(), true, rtol=0.01, atol=0.01)


def test_a_channel_that_others_replace_is_not_missed() -> None:
    """The third channel is the sum of the first two, before a linear layer and a convolution: nothing is lost."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        first.weight[2], first.bias[2] = first.weight[:2].sum(0), first.bias[:2].sum(0)
    network = Answer(first, nn.Conv2d(4, 5, 3, padding=1), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(5, 3))
    smaller, target, graph, removed = pruned(network, 0, [2])
    reference = target.logits()
    assert float((target.logits(smaller) - reference).abs().max()) > 0.01
    assert refit(target, smaller, graph, removed, photos()) == 3
    torch.testing.assert_close(target.logits(smaller), reference, rtol=1e-3, atol=1e-3)


def test_batch_norm_takes_the_intercept() -> None:
    """A constant channel before a convolution without bias: its part moves into the mean of the batch norm."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        first.weight[1], first.bias[1] = 0, 2.0
    network = Answer(
        first, nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5), nn.AvgPool2d(9), nn.Flatten(), nn.Linear(5, 3)
    )
    smaller, target, graph, removed = pruned(network, 0, [1])
    mean = smaller.layers[2].running_mean.clone()
    refit(target, smaller, graph, removed, photos())
    torch.testing.assert_close(target.logits(smaller), target.logits(), rtol=1e-3, atol=1e-3)
    moved = smaller.layers[2].running_mean - mean
    torch.testing.assert_close(-moved, 2 * network.layers[1].weight[:, 1, 0, 0], rtol=0.01, atol=0.01)


def test_a_training_begins_where_the_repair_ends() -> None:
    """With a batch's own statistics the network answers as with those that it keeps, which answer as before."""
    torch.manual_seed(0)
    network = Answer(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(200, 3),
    )
    for layer in (network.layers[1], network.layers[4]):
        nn.init.uniform_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 4)
        nn.init.uniform_(layer.weight, 0.5, 2)
    target = PruningTarget(network.eval(), [photos()])
    before = target.logits()
    moments.as_measured(target, network, photos())
    torch.testing.assert_close(target.logits(), before, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(network.train()(**photos()).logits, before, rtol=1e-3, atol=1e-3)


def test_a_layer_that_is_called_twice_or_shares_its_weight_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.tied = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.tied.weight, self.last = self.again.weight, nn.Linear(6, 2)

        def forward(self, pixel_values: torch.Tensor) -> Any:
            x = self.tied(self.again(self.again(self.first(pixel_values))))
            return ImageClassifierOutput(logits=self.last(x.mean((2, 3))))

    torch.manual_seed(0)
    network = Twice()
    smaller, target, graph, removed = pruned(network, 0, [0])
    before = smaller.again.weight.clone()
    assert refit(target, smaller, graph, removed, photos()) == 2
    assert torch.equal(smaller.again.weight, before)
    assert smaller.again.weight is smaller.tied.weight


def test_what_is_not_finite_changes_nothing() -> None:
    network = Answer(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 81, 2))
    smaller, target, graph, removed = pruned(network, 0, [0])
    before = copy.deepcopy(smaller.state_dict())
    wrong = photos()
    wrong["pixel_values"][0] = math.inf
    assert refit(target, smaller, graph, removed, wrong) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in smaller.state_dict().items())


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("repair")
    data = write_photos(folder / "photos", per_class=30)
    return Context(ImageTask.open(data, DataOptions(cache=folder)), folder, threads=1)


@pytest.fixture(scope="module")
def taught(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_resnet(tmp_path_factory.mktemp("taught") / "resnet")
    return build(load(folder), Recipe.parse("finetune(epochs=5)"), context, folder.parent / "store")[-1]


def test_prune_repairs_more_with_examples(taught: Model, context: Context, tmp_path: Path) -> None:
    reports = {
        repair: build_step(
            taught, Prune(sparsity=0.5, samples=8, repair=repair), context, tmp_path / str(repair)
        ).record.history["prune"]
        for repair in (0, 64)
    }
    assert "layers_fitted" not in reports[0]
    assert reports[64]["layers_fitted"] > 2
    assert reports[64]["examples_fitted"] == len(context.task.examples("train"))
    losses = [reports[repair]["divergence"] for repair in (0, 64)]
    assert losses[1] < 0.5 * losses[0] < reports[0]["divergence_before_repair"]


def test_as_many_examples_as_fit_into_memory(
    taught: Model, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "MOST_NUMBERS", 10)
    made = build_step(taught, Prune(sparsity=0.5, samples=8), context, tmp_path)
    assert made.record.history["prune"].get("examples_fitted", 2) == 2
