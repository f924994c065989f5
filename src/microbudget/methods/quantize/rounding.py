"""Rounding that knows the layer's inputs: the weights that are still free compensate for each weight's error.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) minimizes ||W X - Q S X||^2 column by column. Here the weights first become
those that best map the *quantized* model's input onto the float layer's output (Li et al. 2025, arXiv:2504.02692), so
that the layer also compensates for the layers before it; and the integers are then improved one at a time (coordinate
descent, Behdin et al. 2023, arXiv:2309.01885). All take stacks of layers, such as the groups of a convolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mapping import integer_range
from .moments import damped, damping_level, with_diagonal
from .scales import group_scales, least_squares_scale, refitted_scale

Array = NDArray[np.float64]

DAMPING = 0.01
BLOCK = 128  # columns whose errors are applied to the rest in one matrix product


def compensating_weights(W: Array, H: Array, C: Array, power: Array | None = None, damping: float = DAMPING) -> Array:
    """The weights W' of least E||W x - W' x'||^2 + d ||W' - W||^2: W' = W (C + d I) (H + d I)^-1.

    W: (..., outputs, K); H = E[x' x'^T] and C = E[x x'^T]: (..., K, K), centred; d as in `damping_level`. power: the
    variances of x, (..., K): where rounding has made an input nearly constant, no weight grows to amplify its noise.
    """
    level = damping_level(H, damping, power)
    wanted = W @ with_diagonal(C, level)
    return np.asarray(np.linalg.solve(with_diagonal(H, level), wanted.swapaxes(-1, -2)).swapaxes(-1, -2))


def error_compensated(W: Array, H: Array, S: Array, bits: int, damping: float = DAMPING) -> Array:
    """Integers Q that make (W - Q S) H (W - Q S)^T small: GPTQ, the columns with the largest diagonal of H first.

    W: (..., outputs, K), H: (..., K, K), S: (..., outputs) or, with groups along K, (..., outputs, K). Returns Q, as W.
    """
    smallest, largest = integer_range(bits)
    order = np.argsort(-np.einsum("...kk->...k", H), axis=-1, kind="stable")
    U = _compensation(_permuted(H, order, order), damping)
    free = _permuted(W, None, order)
    scale = _permuted(_per_weight(S, W), None, order)
    Q = np.empty_like(free)
    for start in range(0, W.shape[-1], BLOCK):
        stop = min(start + BLOCK, W.shape[-1])
        errors = np.empty((*W.shape[:-1], stop - start))
        for i in range(start, stop):
            Q[..., i] = np.clip(np.rint(free[..., i] / scale[..., i]), smallest, largest)
            error = (free[..., i] - Q[..., i] * scale[..., i]) / U[..., None, i, i]
            free[..., i:stop] -= error[..., None] * U[..., None, i, i:stop]
            errors[..., i - start] = error
        free[..., stop:] -= errors @ U[..., start:stop, stop:]
    return _permuted(Q, None, np.argsort(order, axis=-1))


def _compensation(H: Array, damping: float) -> Array:
    """U with U^T U = (H + d I)^-1, upper triangular: row i is how later columns compensate for column i.

    Inputs of a single value leave only rounding noise in H, which may be negative: d grows until it is not.
    """
    while True:
        try:
            return np.asarray(np.linalg.cholesky(np.linalg.inv(damped(H, damping))).swapaxes(-1, -2))
        except np.linalg.LinAlgError:
            damping = max(10 * damping, DAMPING)


def _permuted(matrix: Array, rows: NDArray[np.intp] | None, columns: NDArray[np.intp]) -> Array:
    """A stack of matrices with rows and columns in a new order, given for each of the stack: (..., K)."""
    if rows is not None:
        matrix = np.take_along_axis(matrix, rows[..., :, None], axis=-2)
    return np.take_along_axis(matrix, np.broadcast_to(columns[..., None, :], matrix.shape), axis=-1)


def _per_weight(S: Array, W: Array) -> Array:
    return np.broadcast_to(S[..., None] if S.ndim < W.ndim else S, W.shape)


def descended(W: Array, Q: Array, H: Array, S: Array, bits: int, sweeps: int = 3) -> Array:
    """Q with each integer in turn moved to where (W - Q S) H (W - Q S)^T is least; never worse than Q. Shapes as above.

    Stops early when a sweep changes nothing.
    """
    smallest, largest = integer_range(bits)
    scale, Q = _per_weight(S, W), Q.copy()
    curvature = np.maximum(np.einsum("...kk->...k", H), np.finfo(np.float64).tiny)
    gradient = (W - Q * scale) @ H
    for _ in range(sweeps):
        changed = False
        for i in range(W.shape[-1]):
            ideal = Q[..., i] + gradient[..., i] / (curvature[..., None, i] * scale[..., i])
            step = np.clip(np.rint(ideal), smallest, largest) - Q[..., i]
            if step.any():
                changed = True
                Q[..., i] += step
                gradient -= (step * scale[..., i])[..., None] * H[..., None, i, :]
        if not changed:
            break
    return Q


def best_rounding(
    W: Array, H: Array, bits: int, *, group: int | None = None, damping: float = DAMPING, rounds: int = 2
) -> tuple[Array, Array]:
    """Integers and scales together: least-squares scales, GPTQ, then `rounds` times refitted scales and descent.

    W: (..., outputs, K), H: (..., K, K). Returns Q as W and S (..., outputs), or (..., outputs, groups) with a `group`
    of inputs to a scale.
    """
    regular = damped(H, damping)
    if group is not None:
        S = group_scales(W, bits, group)
        wide = np.repeat(S, group, axis=-1)[..., : W.shape[-1]]
        Q = error_compensated(W, H, wide, bits, damping)
        return descended(W, Q, regular, wide, bits, sweeps=2 * rounds) if rounds else Q, S
    S = least_squares_scale(W, bits, regular)
    Q = error_compensated(W, H, S, bits, damping)
    for _ in range(rounds):
        S = refitted_scale(W, Q, regular, S)
        Q = descended(W, Q, regular, S, bits, sweeps=2)
    return Q, S
