"""Rounding that knows the layer's inputs: each weight's error is made good by the weights that are still free.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) minimizes ||W X - Q S X||^2 column by column. Here the weights first become
those that best map the *quantized* model's input onto the float layer's output (Li et al. 2025, arXiv:2504.02692), so
that the layer also repairs what came before it; and the integers are then improved one at a time (coordinate descent,
Behdin et al. 2023, arXiv:2309.01885).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mapping import integer_range
from .moments import damped

Array = NDArray[np.float64]

BLOCK = 128  # columns whose errors are applied to the rest in one matrix product


def compensating_weights(W: Array, H: Array, C: Array, damping: float = 0.01) -> Array:
    """The weights W' of least E||W x - W' x'||^2 + d ||W' - W||^2: W' = W (C + d I) (H + d I)^-1.

    W: (outputs, K); H = E[x' x'^T] and C = E[x x'^T]: (K, K), centred; d as in `damped`.
    """
    regular = damped(H, damping)
    level = regular[0, 0] - H[0, 0]
    target = W @ (C + level * np.eye(len(C)))
    solved: Array = np.linalg.solve(regular, target.T).T
    return solved


def error_compensated(W: Array, H: Array, S: Array, bits: int, damping: float = 0.01) -> Array:
    """Integers Q that make (W - Q S) H (W - Q S)^T small, GPTQ with the largest diagonal of H first.

    W: (outputs, K), H: (K, K), S: (outputs,) or, with groups along K, (outputs, K). Returns Q: (outputs, K).
    """
    smallest, largest = integer_range(bits)
    order = np.argsort(-np.diag(H), kind="stable")
    regular = damped(H, damping)[np.ix_(order, order)]
    U = np.linalg.cholesky(np.linalg.inv(regular)).T  # upper: row i holds what later columns owe for column i
    scale = np.broadcast_to(S[:, None] if S.ndim == 1 else S, W.shape)[:, order]
    free, Q = W[:, order].copy(), np.empty_like(W)
    for start in range(0, len(H), BLOCK):
        stop = min(start + BLOCK, len(H))
        errors = np.empty((len(W), stop - start))
        for i in range(start, stop):
            Q[:, i] = np.clip(np.rint(free[:, i] / scale[:, i]), smallest, largest)
            errors[:, i - start] = (free[:, i] - Q[:, i] * scale[:, i]) / U[i, i]
            free[:, i:stop] -= np.outer(errors[:, i - start], U[i, i:stop])
        free[:, stop:] -= errors @ U[start:stop, stop:]
    unordered = np.empty_like(Q)
    unordered[:, order] = Q
    return unordered


def descended(W: Array, Q: Array, H: Array, S: Array, bits: int, sweeps: int = 3) -> Array:
    """Q with each integer in turn moved to where (W - Q S) H (W - Q S)^T is least; never worse than Q. Shapes as above.

    Stops early when a sweep changes nothing.
    """
    smallest, largest = integer_range(bits)
    scale = np.broadcast_to(S[:, None] if S.ndim == 1 else S, W.shape)
    Q, curvature = Q.copy(), np.maximum(np.diag(H), np.finfo(np.float64).tiny)
    gradient = (W - Q * scale) @ H
    for _ in range(sweeps):
        changed = False
        for i in range(len(H)):
            ideal = Q[:, i] + gradient[:, i] / (curvature[i] * scale[:, i])
            step = np.clip(np.rint(ideal), smallest, largest) - Q[:, i]
            if step.any():
                changed = True
                Q[:, i] += step
                gradient -= np.outer(step * scale[:, i], H[i])
        if not changed:
            break
    return Q
