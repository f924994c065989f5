"""Heads: linear and one-hidden-layer classifiers trained on features, in NumPy, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics import cross_entropy, softmax

Array = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]
Layer = tuple[Array, Array]  # weight (outputs, inputs), bias (outputs,)
FLOOR = 0.1  # of the features' mean deviation: the least that one is divided by


@dataclass(frozen=True)
class HeadSettings:
    """How a head is built and trained: AdamW (Loshchilov & Hutter 2019), cosine schedule, early stopping."""

    hidden: int = 0  # width of the hidden layer; 0: none, the head is linear
    dropout: float = 0.0  # on the hidden layer
    epochs: int = 40
    patience: int = 10  # epochs without a better validation loss before it stops
    learning_rate: float | None = None  # at the start; None: by the number of features, see `rate`
    weight_decay: float = 0.01
    batch_size: int = 64

    def rate(self, features: int) -> float:
        """The learning rate at the start, by default 0.001 from 1,280 features on and ten times as much up to 128.

        A step of AdamW moves every weight by the rate, and so a linear head's logits by the rate times its inputs:
        narrow features need a higher one to get as far in as many epochs (Yang et al. 2022, arXiv:2203.03466).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.hidden else min(1e-2, max(1e-3, 1.28 / features))


@dataclass(frozen=True)
class Head:
    """A trained head: its layers, and what each epoch gave."""

    layers: tuple[Layer, ...]
    history: list[dict[str, float]]

    def logits(self, features: Array) -> Array:
        """features (examples, inputs) -> (examples, classes)."""
        return forward(self.layers, features)[-1]


def fit_head(
    train: tuple[Array, Labels], validation: tuple[Array, Labels], classes: int, settings: HeadSettings, seed: int
) -> Head:
    """Train a head and keep the epoch with the lowest validation loss.

    train, validation: features (examples, inputs) and class indices (examples,). The features are standardized with the
    train split's mean and deviation, which are then folded into the first layer, so that the head takes raw features.
    """
    mean, deviation = _standard(train[0])
    inputs, held_out = (train[0] - mean) / deviation, (validation[0] - mean) / deviation
    rng = np.random.default_rng(seed)
    layers = initial_layers(inputs.shape[1], settings.hidden, classes, rng)
    start = settings.rate(inputs.shape[1])
    optimizer = AdamW([array for layer in layers for array in layer], settings.weight_decay)
    best, best_loss, best_epoch, history = layers, float("inf"), 0, []
    for epoch in range(settings.epochs):
        rate = start * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs))
        train_loss = _epoch(layers, optimizer, inputs, train[1], settings, rate, rng)
        logits = forward(layers, held_out)[-1]
        loss = float(cross_entropy(logits, validation[1]).mean())
        accuracy = float((logits.argmax(1) == validation[1]).mean())
        history.append(
            {"epoch": epoch + 1, "train_loss": train_loss, "validation_loss": loss, "validation_accuracy": accuracy}
        )
        if loss < best_loss:
            best, best_loss, best_epoch = tuple((W.copy(), b.copy()) for W, b in layers), loss, epoch
        if epoch - best_epoch >= settings.patience:
            break
    return Head(_unstandardized(best, mean, deviation), history)


def _standard(features: Array) -> tuple[Array, Array]:
    """Mean and deviation of each feature, (inputs,); one that hardly changes keeps a harmless deviation.

    Weights are divided by the deviation. A channel of MiniLM that is nearly constant got a weight of 290 among others
    of 0.7: rounded to 8 bits by its row's largest weight, the head answered at chance, and a training of the encoder
    could not move that channel at all.
    """
    deviation = features.std(axis=0)
    floor = float(deviation.mean()) * FLOOR or 1.0
    return features.mean(axis=0), np.maximum(deviation, floor)


def _unstandardized(layers: tuple[Layer, ...], mean: Array, deviation: Array) -> tuple[Layer, ...]:
    (W, b), *rest = layers
    W = W / deviation
    return ((W, b - W @ mean), *rest)


def initial_layers(inputs: int, hidden: int, classes: int, rng: np.random.Generator) -> tuple[Layer, ...]:
    """Zeros for the output layer, He et al. 2015 for a hidden one."""
    if not hidden:
        return (_zeros(classes, inputs),)
    W = rng.normal(0, np.sqrt(2 / inputs), (hidden, inputs)).astype(np.float32)
    return ((W, np.zeros(hidden, np.float32)), _zeros(classes, hidden))


def _zeros(outputs: int, inputs: int) -> Layer:
    return np.zeros((outputs, inputs), np.float32), np.zeros(outputs, np.float32)


def forward(layers: tuple[Layer, ...], X: Array, mask: Array | None = None) -> list[Array]:
    """The output of each layer, ReLU between them; the last are the logits."""
    outputs = []
    for index, (W, b) in enumerate(layers):
        X = X @ W.T + b
        if index < len(layers) - 1:
            X = np.maximum(X, 0)
            X = X * mask if mask is not None else X
        outputs.append(X)
    return outputs


def _epoch(
    layers: tuple[Layer, ...],
    optimizer: AdamW,
    inputs: Array,
    labels: Labels,
    settings: HeadSettings,
    rate: float,
    rng: np.random.Generator,
) -> float:
    """One pass over the train split in random order; the mean loss of its batches."""
    losses = []
    order = rng.permutation(len(inputs))
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        loss, gradients = head_gradients(layers, inputs[rows], labels[rows], settings.dropout, rng)
        optimizer.step(gradients, rate)
        losses.append(loss * len(rows))
    return float(sum(losses) / len(order))


def head_gradients(
    layers: tuple[Layer, ...], X: Array, labels: Labels, dropout: float, rng: np.random.Generator
) -> tuple[float, list[Array]]:
    """The mean cross entropy of a batch and its gradient for each weight and bias, by the chain rule."""
    mask = None
    if len(layers) > 1 and dropout:
        mask = (rng.random((len(X), layers[0][0].shape[0])) >= dropout).astype(np.float32) / np.float32(1 - dropout)
    outputs = forward(layers, X, mask)
    delta = softmax(outputs[-1]).astype(np.float32)
    delta[np.arange(len(X)), labels] -= 1
    delta /= len(X)
    gradients: list[Array] = []
    for index in reversed(range(len(layers))):
        below = outputs[index - 1] if index else X
        gradients = [delta.T @ below, delta.sum(axis=0), *gradients]
        if index:
            delta = (delta @ layers[index][0]) * (below > 0)
            delta = delta * mask if mask is not None else delta
    return float(cross_entropy(outputs[-1], labels).mean()), gradients


class AdamW:
    """Adam with decoupled weight decay on matrices; changes the parameters in place."""

    def __init__(self, parameters: list[Array], weight_decay: float) -> None:
        self._parameters, self._decay, self._steps = parameters, weight_decay, 0
        self._first = [np.zeros_like(array) for array in parameters]
        self._second = [np.zeros_like(array) for array in parameters]
        self._scratch = [np.empty_like(array) for array in parameters]  # without it half the time is spent on memory

    def step(self, gradients: list[Array], rate: float) -> None:
        """One update; gradients in the parameters' order, which it uses up."""
        self._steps += 1
        correct1, correct2 = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        rows = zip(self._parameters, gradients, self._first, self._second, self._scratch, strict=True)
        for parameter, gradient, first, second, scratch in rows:
            _decay_towards(first, gradient, 0.9, scratch)
            _decay_towards(second, np.square(gradient, out=gradient), 0.999, scratch)
            if parameter.ndim > 1:
                parameter *= np.float32(1 - rate * self._decay)
            np.sqrt(second, out=scratch)
            scratch *= np.float32(correct2**-0.5)
            scratch += np.float32(1e-8)
            np.divide(first, scratch, out=scratch)
            scratch *= np.float32(rate / correct1)
            parameter -= scratch


def _decay_towards(average: Array, value: Array, kept: float, scratch: Array) -> None:
    """average = kept * average + (1 - kept) * value, in place."""
    average *= np.float32(kept)
    average += np.multiply(value, np.float32(1 - kept), out=scratch)
