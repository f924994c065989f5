"""The dependency graph and the surgery: a pruned network answers exactly as its original with silent channels."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from microbudget.errors import InvalidOption, UnsupportedModel
from microbudget.methods.prune import costs, zeros
from microbudget.methods.prune.axes import Atoms, blocks, reshaped
from microbudget.methods.prune.channels import plan
from microbudget.methods.prune.graph import Dependencies, trace
from microbudget.methods.prune.moments import input_moments, match, moments, repaired_logits
from microbudget.methods.prune.repair import finish
from microbudget.methods.prune.sensitivity import masked
from microbudget.methods.prune.surgery import check, cut
from microbudget.methods.prune.target import PruningTarget, divergence
from microbudget.progress import SILENT
from microbudget.runtimes.hf import widths
from random_graphs import programs, random_net

PIXELS = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32))


@contextlib.contextmanager
def zeroed(network: nn.Module, graph: Dependencies, removed: np.ndarray) -> Iterator[None]:
    """Naively: every dense layer is handed its input with the removed channels set to zero."""
    kept = graph.kept(removed)
    hooks = []
    for name, module in network.named_modules():
        places = kept.get(f"{name}.weight", (None, None))
        if isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, "groups", 1) == 1 and places[1] is not None:
            mask = torch.zeros(module.weight.shape[1])
            mask[torch.from_numpy(places[1])] = 1.0
            shape = (1, -1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
            hooks.append(module.register_forward_pre_hook(masking(mask.reshape(shape))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def masking(mask: torch.Tensor) -> Callable[[nn.Module, tuple[torch.Tensor]], tuple[torch.Tensor]]:
    return lambda _, inputs: (inputs[0] * mask,)


def logits(network: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return network(pixel_values=PIXELS).logits


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.booleans(), st.integers(0, 1000), st.data())
def test_pruned_equals_zeroed(program: list, flat: bool, seed: int, data: st.DataObject) -> None:
    network = random_net(program, flat, seed)
    try:
        graph = trace(network, {"pixel_values": PIXELS[:2]})
    except UnsupportedModel:
        assume(False)  # a program whose channels all stay
    sites = [site for site in graph.sites if site.width > 1]
    assume(sites)
    removed = np.concatenate(
        [site.bundles[: data.draw(st.integers(0, site.width - 1), label=site.name)] for site in sites]
    )
    smaller = copy.deepcopy(network)
    cut(smaller, graph, removed)
    with zeroed(network, graph, removed):
        expected = logits(network)
    torch.testing.assert_close(logits(smaller), expected, rtol=1e-4, atol=1e-5)
    assert all(
        smaller.layers[index].weight is smaller.layers[step[2]].weight
        for index, step in enumerate(program)
        if step[0] == "twin"
    )
    target = PruningTarget(network, [{"pixel_values": PIXELS}])
    with masked(target, graph, removed):
        torch.testing.assert_close(target.logits(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target.logits(), logits(network))  # nothing is left of the silence
    if len(removed):
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


class Sharing(PreTrainedModel):
    """Three layers, of which the last two share their weights, and the norms behind them too; with another between."""

    config_class = PretrainedConfig
    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "second.weight": "first.weight",
        **{f"after.{name}": f"before.{name}" for name in ("weight", "bias", "running_mean", "running_var")},
    }

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.stem, self.first, self.second = (nn.Conv2d(inputs, 12, 3, padding=1) for inputs in (3, 12, 12))
        self.before, self.after = nn.BatchNorm2d(12), nn.BatchNorm2d(12)
        self.between, self.classifier = nn.Conv2d(12, 12, 1), nn.Linear(12, 3)
        self.post_init()
        self.tie_weights()

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        x = torch.relu(self.before(self.first(torch.relu(self.stem(pixel_values)))))
        x = torch.relu(self.after(self.second(torch.relu(self.between(x)))))
        return ImageClassifierOutput(logits=self.classifier(x.mean((2, 3))))


def test_layers_that_share_a_weight_are_cut_as_one(tmp_path: Path) -> None:
    """Through the cut, the file and the widths: it stays one tensor, and the answers those of silent channels."""
    torch.manual_seed(0)
    network = Sharing(PretrainedConfig(tie_word_embeddings=True)).eval()
    assert network.second.weight is network.first.weight
    target = PruningTarget(network, [{"pixel_values": PIXELS}])
    made = plan(target, "taylor", SILENT, uniform=False)
    assert {"first.weight", "second.weight"} <= {name for name, _ in made.sites[0].uses}
    numbers = sum(one.numel() for one in network.parameters())
    assert costs.parameters(made.graph, made.sites)(np.array([12.0, 12.0])) >= numbers
    counts = made.for_sparsity(0.5)
    smaller = made.cut(counts)  # answers as with silent channels, or raises
    assert smaller.second.weight is smaller.first.weight
    assert smaller.second.weight.shape == (smaller.second.out_channels, smaller.second.in_channels, 3, 3)
    assert finish(made, counts, smaller, lambda most: None)["parameters_left"] < 0.7
    state = {"widths": widths.widths_of(smaller)}
    widths.mark(smaller)
    widths.save(smaller, tmp_path)
    again = Sharing(PretrainedConfig(tie_word_embeddings=True)).eval()
    widths.narrow(again, state["widths"])
    assert again.second.weight is again.first.weight
    widths.read_weights(again, tmp_path)
    assert again.second.weight is again.first.weight
    torch.testing.assert_close(logits(again), logits(smaller))


def site_of(network: nn.Module, layer: str, **inputs: torch.Tensor) -> set[tuple[str, int]]:
    graph = trace(network, inputs or {"pixel_values": PIXELS[:2]})
    return next(set(site.uses) for site in graph.sites if (f"{layer}.weight", 0) in site.uses)


def test_a_residual_ties_its_layers_together() -> None:
    program = [("conv", 0, 8, 1, 3), ("relu", 1), ("conv", 2, 8, 1, 3), ("add", 2, 3)]
    uses = site_of(random_net(program, False, 0), "layers.0")
    assert uses >= {("layers.0.weight", 0), ("layers.2.weight", 0), ("layers.2.weight", 1), ("classifier.weight", 1)}


def test_a_depthwise_convolution_follows_its_input() -> None:
    program = [("conv", 0, 8, 1, 1), ("depthwise", 1, 1), ("norm", 2), ("conv", 3, 6, 1, 1)]
    uses = site_of(random_net(program, False, 0), "layers.0")
    assert uses >= {("layers.1.weight", 0), ("layers.2.running_mean", 0), ("layers.3.weight", 1)}


def test_a_concatenation_keeps_its_parts_apart() -> None:
    program = [("conv", 0, 8, 1, 3), ("conv", 0, 4, 1, 3), ("cat", 1, 2), ("conv", 3, 6, 1, 1)]
    graph = trace(random_net(program, False, 0), {"pixel_values": PIXELS[:2]})
    assert [(site.name, site.width) for site in graph.sites] == [("layers.0", 8), ("layers.1", 4), ("layers.3", 6)]


def test_groups_go_whole() -> None:
    program = [("conv", 0, 12, 1, 3), ("conv", 1, 8, 2, 3)]
    graph = trace(random_net(program, False, 0), {"pixel_values": PIXELS[:2]})
    assert [(site.name, site.width) for site in graph.sites] == [("layers.0", 2)]


def test_the_classes_stay() -> None:
    graph = trace(random_net([("conv", 0, 8, 1, 3)], True, 0), {"pixel_values": PIXELS[:2]})
    assert (graph.axes["classifier.weight"][0] == -1).all()
    assert len(np.unique(graph.axes["classifier.weight"][1])) == 8  # 16 places of 8 channels


@pytest.mark.parametrize("shape", [(5, 3), (4, 6, 7), (4, 6, 7, 8), (2, 3, 4, 5, 6)])
def test_moments_are_of_each_channel(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    for one in (x, x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x):
        channels = [one[:, index].numpy().astype(np.float64) for index in range(shape[1])]
        mean, variance = moments(one)
        np.testing.assert_allclose(mean, [each.mean() for each in channels], rtol=1e-5)
        np.testing.assert_allclose(variance, [each.var() for each in channels], rtol=1e-4)


def test_batch_norm_makes_up_for_removed_channels() -> None:
    """Each channel that stays has the mean and deviation that it had, behind every norm."""
    program = [("conv", 0, 12, 1, 3), ("norm", 1), ("silu", 2), ("conv", 3, 8, 1, 3), ("norm", 4), ("relu", 5)]
    network = random_net(program, False, 3)
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(32, 3, 4, 4)).astype(np.float32))
    target = PruningTarget(network, [{"pixel_values": pixels[:20]}, {"pixel_values": pixels[20:]}])
    graph = trace(network, target.example)
    first = next(site for site in graph.sites if site.name == "layers.0")
    removed = first.bundles[:7]
    smaller = copy.deepcopy(network)
    cut(smaller, graph, removed)
    reference = target.logits()
    torch.testing.assert_close(
        repaired_logits(target, [input_moments(target, one) for one in target.batches]), reference
    )
    before = divergence(reference, target.logits(smaller))
    assert match(target, smaller, graph, removed)
    assert divergence(reference, target.logits(smaller)) < before
    outputs: dict[nn.Module, torch.Tensor] = {}
    for one in (network, smaller):
        one.layers[4].register_forward_hook(lambda module, _, output: outputs.__setitem__(module, output))
        logits_of = one(pixel_values=pixels).logits
        assert torch.isfinite(logits_of).all()
    whole, cut_down = (outputs[one.layers[4]].transpose(0, 1).flatten(1) for one in (network, smaller))
    torch.testing.assert_close(cut_down.mean(1), whole.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(cut_down.std(1), whole.std(1), rtol=1e-3, atol=1e-4)


class Sorting(nn.Module):
    """An operation that no rule knows, between two layers."""

    def __init__(self, code: str = "sort") -> None:
        super().__init__()
        self.first, self.last, self.code = nn.Conv2d(3, 8, 1), nn.Linear(8, 3), code

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        x = self.first(pixel_values).mean((2, 3))
        if self.code == "sort":
            x = x.sort(dim=1).values
        elif self.code == "branch" and x.sum() > 0:
            x = x * 2
        elif self.code == "number":
            x = x.reshape(-1, 8)
        return ImageClassifierOutput(logits=self.last(x))


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(UnsupportedModel, match=r"cannot be traced beyond aten\.sort\.default"):
        trace(Sorting().eval(), {"pixel_values": PIXELS[:2]})


def test_a_network_that_branches_on_its_values_cannot_be_traced() -> None:
    with pytest.raises(
        UnsupportedModel,
        match=(
            r"Sorting cannot be traced at test_prune_graph\.py:\d+ \(elif self\.code == .branch. and x\.sum\(\) > 0:\):"
            r" .*structure='layers'"
        ),
    ):
        trace(Sorting("branch").eval(), {"pixel_values": PIXELS[:2]})


def test_a_width_in_the_code_is_found_out() -> None:
    network = Sorting("number").eval()
    target = PruningTarget(network, [{"pixel_values": PIXELS}])
    graph = trace(network, target.example)
    smaller = copy.deepcopy(network)
    removed = graph.sites[0].bundles[:2]
    cut(smaller, graph, removed)
    with masked(target, graph, removed):
        expected = target.logits()
    with pytest.raises(UnsupportedModel, match="its code has their number written down"):
        check(target, smaller, expected)


def test_layers_of_one_channel_cannot_lose_it() -> None:
    network = random_net([("conv", 0, 1, 1, 3), ("conv", 1, 1, 1, 3)], False, 0)
    with pytest.raises(InvalidOption, match="a single one and would lose its last channel"):
        plan(PruningTarget(network, [{"pixel_values": PIXELS}]), "magnitude", SILENT, uniform=False)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_knows_the_axes_of_a_transposed_convolution(groups: int) -> None:
    """Naively: the output at a place is a sum over inputs of weight[input, output] * x."""
    torch.manual_seed(0)
    network = Sorting("number")
    network.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 3, groups=groups))
    last = network.last
    del network.last
    network.unused, network.last = nn.Linear(5, 5), last  # what names the classes is the last of them
    network.eval()
    target = PruningTarget(network, [{"pixel_values": PIXELS}])
    with torch.inference_mode():
        x = network.first[0](PIXELS).transpose(0, 1).flatten(1).norm(dim=1)
    layer, unused = network.first[1], network.unused.weight.clone()
    before = layer.weight.detach().clone()
    names = zeros.prune(target, 0.4, "wanda")
    assert names == ["first.0.weight", "first.1.weight"]  # the classes' layer stays, and what is never called
    torch.testing.assert_close(network.unused.weight, unused)
    for output in range(8):
        group, place = divmod(output, 8 // groups)
        inputs = range(group * 4 // groups, (group + 1) * 4 // groups)
        scores = torch.cat([before[one, place].abs().flatten() * x[one] for one in inputs])
        left = torch.cat([layer.weight[one, place].flatten() for one in inputs])
        gone = scores.argsort()[: int(0.4 * len(scores))].tolist()
        assert torch.nonzero(left == 0).flatten().tolist() == sorted(gone)


def test_wanda_adds_up_what_layers_with_one_weight_hear() -> None:
    torch.manual_seed(0)
    network = random_net([("conv", 0, 4, 1, 1), ("conv", 1, 4, 1, 1), ("twin", 2, 1, 4, 1, 1)], False, 0)
    weight = network.layers[1].weight.detach().clone()[:, :, 0, 0]
    with torch.inference_mode():
        first = network.layers[0](PIXELS)
        both = torch.cat([first, network.layers[1](first)]).transpose(0, 1).flatten(1).norm(dim=1)
    names = zeros.prune(PruningTarget(network, [{"pixel_values": PIXELS}]), 0.5, "wanda")
    assert names == ["layers.0.weight", "layers.1.weight"]
    for row, values in zip(network.layers[1].weight[:, :, 0, 0], weight.abs() * both, strict=True):
        assert set(torch.nonzero(row == 0).flatten().tolist()) == set(values.argsort()[:2].tolist())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_blocks_hold_the_same_numbers(before: list[int], data: st.DataObject) -> None:
    after = data.draw(st.permutations(before))
    found = list(blocks(before, after))
    assert [k for ins, _ in found for k in ins] == list(range(len(before)))
    assert [k for _, outs in found for k in outs] == list(range(len(after)))
    for ins, outs in found:
        assert np.prod([before[k] for k in ins]) == np.prod([after[k] for k in outs])


def test_heads_go_whole_through_a_reshape() -> None:
    atoms = Atoms()
    row = atoms.fresh(12)
    heads = reshaped(atoms, (None, row), (5, 12), (5, 3, 4))
    back = reshaped(atoms, heads, (5, 3, 4), (5, 12))
    labels = atoms.bundles()
    np.testing.assert_array_equal(labels[row], np.repeat(labels[row][::4], 4))
    assert len(np.unique(labels[row])) == 3
    np.testing.assert_array_equal(labels[back[1]], labels[row])
