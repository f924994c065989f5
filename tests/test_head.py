import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.training.head import AdamW, HeadSettings, fit_head, forward, head_gradients, initial_layers
from microbudget.training.learning_curve import learning_curve


def clusters(n: int, seed: int, classes: int = 3, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 2, (classes, width))
    labels = rng.integers(classes, size=n)
    return (centres[labels] + rng.normal(0, 1, (n, width)) * 5 + 30).astype(np.float32), labels


@given(st.integers(0, 5), st.sampled_from([0, 7]))
@settings(max_examples=12)
def test_gradients_are_those_of_autograd(seed: int, hidden: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = clusters(10, seed)
    layers = tuple(
        (W + rng.normal(0, 0.1, W.shape).astype(np.float32), b) for W, b in initial_layers(8, hidden, 3, rng)
    )
    loss, gradients = head_gradients(layers, X / 30, y, 0.0, rng)
    parameters = [torch.tensor(array, requires_grad=True) for layer in layers for array in layer]
    out = torch.from_numpy(X / 30)
    for index in range(0, len(parameters), 2):
        out = torch.nn.functional.linear(out, parameters[index], parameters[index + 1])
        out = torch.relu(out) if index < len(parameters) - 2 else out
    expected = torch.nn.functional.cross_entropy(out, torch.from_numpy(y))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in zip(gradients, parameters, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_adamw_steps_like_torchs() -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=(3, 4)).astype(np.float32)
    theirs = torch.tensor(ours.copy(), requires_grad=True)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    optimizer = AdamW([ours], 0.1)
    for _ in range(20):
        gradient = rng.normal(size=(3, 4)).astype(np.float32)
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
        optimizer.step([gradient.copy()], 0.01)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 32])
def test_a_head_learns_and_takes_raw_features(hidden: int) -> None:
    train, validation = clusters(300, 1), clusters(200, 2)
    head = fit_head(train, validation, 3, HeadSettings(hidden=hidden, dropout=0.3 if hidden else 0.0), 0)
    accuracy = float((head.logits(validation[0]).argmax(1) == validation[1]).mean())
    assert accuracy == max(row["validation_accuracy"] for row in head.history if row is _best(head.history))
    assert accuracy > 0.5  # three classes: guessing gives a third
    assert len(head.layers) == (2 if hidden else 1)


def _best(history: list[dict[str, float]]) -> dict[str, float]:
    return min(history, key=lambda row: row["validation_loss"])


def test_the_best_epoch_is_kept_and_training_stops_early() -> None:
    train, validation = clusters(30, 1), clusters(200, 2)
    settings_ = HeadSettings(hidden=64, epochs=400, patience=5, learning_rate=0.01)
    head = fit_head(train, validation, 3, settings_, 0)
    losses = [row["validation_loss"] for row in head.history]
    assert len(losses) < 400
    assert len(losses) - 1 - losses.index(min(losses)) == 5


def test_the_same_seed_gives_the_same_head() -> None:
    train, validation = clusters(60, 1), clusters(60, 2)
    settings_ = HeadSettings(hidden=16, dropout=0.5, epochs=5)
    heads = [fit_head(train, validation, 3, settings_, seed) for seed in (0, 0, 1)]
    assert np.array_equal(heads[0].layers[0][0], heads[1].layers[0][0])
    assert not np.array_equal(heads[0].layers[0][0], heads[2].layers[0][0])


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train, validation = clusters(60, 1), clusters(60, 2)
    constant = np.full((60, 1), 7, np.float32)
    widened = [(np.hstack([X, constant]), y) for X, y in (train, validation)]
    head = fit_head(widened[0], widened[1], 3, HeadSettings(epochs=20), 0)
    assert np.isfinite(head.logits(widened[1][0])).all()


def test_dropout_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    layers = initial_layers(8, 4000, 3, rng)
    X = np.abs(clusters(4, 0)[0]) / 30
    mask = (rng.random((4, 4000)) >= 0.5).astype(np.float32) / np.float32(0.5)
    kept, dropped = forward(layers, X)[0].mean(), forward(layers, X, mask)[0].mean()
    assert dropped == pytest.approx(kept, rel=0.1)


def test_the_learning_curve_finds_a_known_power_law() -> None:
    """Answers are wrong at a rate of 0.8 * n ** -0.5: the gain of more examples is known."""
    labels = np.repeat(np.arange(4), 60)
    held_out = 20_000
    draw = np.random.default_rng(0).random(held_out)

    def right(n: int) -> np.ndarray:
        return draw >= 0.8 * n**-0.5

    curve = learning_curve(lambda rows: right(len(rows)), labels, seed=0)
    expected = 0.8 * 240**-0.5 - 0.8 * 400**-0.5
    assert curve.gain == pytest.approx(expected, rel=0.1)
    assert curve.gain_low < expected < curve.gain_high
    assert curve.examples == sorted(curve.examples)
    assert curve.examples[-1] == 240


def test_a_curve_at_100_percent_promises_no_more() -> None:
    labels = np.repeat(np.arange(4), 20)
    curve = learning_curve(lambda rows: np.arange(50) >= (80 - len(rows)) // 8, labels, seed=0)
    assert curve.accuracy[-1] == 1
    assert (curve.gain, curve.gain_high) == (0, 0)


def test_a_curve_that_does_not_rise_promises_nothing() -> None:
    labels = np.repeat(np.arange(2), 20)
    full = np.arange(50) % 5 > 0
    curve = learning_curve(lambda rows: full, labels, seed=0)
    assert curve.gain == pytest.approx(0, abs=1e-6)
    assert curve.gain_high == pytest.approx(0, abs=1e-6)
