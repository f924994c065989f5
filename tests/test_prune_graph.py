"""The dependency graph and the surgery: a pruned network answers exactly as its original with silent channels."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from microbudget.errors import Failed, UnsupportedModel
from microbudget.methods.prune.axes import Atoms, blocks, reshaped
from microbudget.methods.prune.graph import Dependencies, trace
from microbudget.methods.prune.moments import input_moments, match, moments, repaired_logits
from microbudget.methods.prune.sensitivity import silenced
from microbudget.methods.prune.subject import Subject, divergence
from microbudget.methods.prune.surgery import check, cut
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


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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
    subject = Subject(network, [{"pixel_values": PIXELS}])
    with silenced(subject, graph, removed):
        torch.testing.assert_close(subject.logits(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(subject.logits(), logits(network))  # nothing is left of the silence
    if len(removed):
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


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


def test_batch_norm_takes_up_what_the_removed_channels_said() -> None:
    """Each channel that stays has the mean and deviation that it had, behind every norm."""
    program = [("conv", 0, 12, 1, 3), ("norm", 1), ("silu", 2), ("conv", 3, 8, 1, 3), ("norm", 4), ("relu", 5)]
    network = random_net(program, False, 3)
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(32, 3, 4, 4)).astype(np.float32))
    subject = Subject(network, [{"pixel_values": pixels[:20]}, {"pixel_values": pixels[20:]}])
    graph = trace(network, subject.example)
    first = next(site for site in graph.sites if site.name == "layers.0")
    removed = first.bundles[:7]
    smaller = copy.deepcopy(network)
    cut(smaller, graph, removed)
    reference = subject.logits()
    torch.testing.assert_close(
        repaired_logits(subject, [input_moments(network, one) for one in subject.batches]), reference
    )
    before = divergence(reference, subject.logits(smaller))
    assert match(subject, smaller, graph, removed)
    assert divergence(reference, subject.logits(smaller)) < before
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
    subject = Subject(network, [{"pixel_values": PIXELS}])
    graph = trace(network, subject.example)
    smaller = copy.deepcopy(network)
    removed = graph.sites[0].bundles[:2]
    cut(smaller, graph, removed)
    with silenced(subject, graph, removed):
        expected = subject.logits()
    with pytest.raises(Failed, match="its code has their number written down"):
        check(subject, smaller, expected)


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
