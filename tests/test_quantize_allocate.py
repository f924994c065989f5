"""Bits under a limit: the knapsack against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import InvalidOption
from microbudget.methods.quantize import allocate
from microbudget.methods.quantize.allocate import Choice, least_bytes, least_loss

SETTINGS = settings(deadline=None, max_examples=150)
CHOICE = st.builds(Choice, st.sampled_from([2, 4, 8, 32]), st.integers(1, 40), st.floats(0, 1))
LAYERS = st.lists(st.lists(CHOICE, min_size=1, max_size=4), min_size=1, max_size=6)


def everything(layers):
    for chosen in itertools.product(*layers):
        yield sum(c.size_bytes for c in chosen), sum(c.loss for c in chosen)


@SETTINGS
@given(LAYERS, st.integers(1, 240))
def test_least_loss_is_that_of_brute_force(layers, limit):
    possible = [loss for size, loss in everything(layers) if size <= limit]
    if not possible:
        with pytest.raises(InvalidOption, match="at least"):
            least_loss(layers, limit)
        return
    found = least_loss(layers, limit)
    assert found.exact
    assert found.size_bytes <= limit
    assert found.loss == pytest.approx(min(possible))
    _check_sums(layers, found)


@SETTINGS
@given(LAYERS, st.floats(0, 6))
def test_least_bytes_is_that_of_brute_force(layers, limit):
    possible = [size for size, loss in everything(layers) if loss <= limit]
    if not possible:
        if min(loss for _, loss in everything(layers)) > limit * (1 + 1e-9) + 1e-9:
            with pytest.raises(InvalidOption, match="lose at least"):
                least_bytes(layers, limit)
        return
    found = least_bytes(layers, limit)
    assert found.size_bytes <= min(possible)
    assert found.loss <= limit * (1 + 1e-9) + 1e-12
    _check_sums(layers, found)


def _check_sums(layers, found):
    """The bits are choices of their layers, and some choices with these bits have the reported sums."""
    options = [[c for c in layer if c.bits == bits] for layer, bits in zip(layers, found.bits, strict=True)]
    assert all(options)
    sums = [(size, pytest.approx(loss)) for size, loss in everything(options)]
    assert (found.size_bytes, found.loss) in [(s, loss) for s, loss in sums]


def test_sixty_layers_are_solved_exactly_and_beat_thresholds():
    import numpy as np

    rng = np.random.default_rng(0)
    layers = []
    for _ in range(60):
        count, weight = int(rng.integers(1e3, 1e6)), rng.exponential()
        layers.append(
            [Choice(8, count, weight * 1e-4), Choice(4, count // 2, weight * 3e-2), Choice(32, 4 * count, 0.0)]
        )
    limit = int(0.7 * sum(layer[0].size_bytes for layer in layers))
    found = least_loss(layers, limit)
    assert found.size_bytes <= limit
    order = sorted(range(60), key=lambda i: layers[i][1].loss / layers[i][1].size_bytes)
    size, loss = sum(layer[0].size_bytes for layer in layers), sum(layer[0].loss for layer in layers)
    for i in order:  # greedy: the cheapest loss per byte goes to 4 bits first
        if size <= limit:
            break
        size += layers[i][1].size_bytes - layers[i][0].size_bytes
        loss += layers[i][1].loss - layers[i][0].loss
    assert found.loss <= loss


def test_too_many_states_are_reported(monkeypatch):
    monkeypatch.setattr(allocate, "MOST_STATES", 3)
    layers = [[Choice(8, 2**i, 0.0), Choice(4, 0, 2.0**-i)] for i in range(8)]
    found = least_loss(layers, 100)
    assert not found.exact
    assert found.size_bytes <= 100
