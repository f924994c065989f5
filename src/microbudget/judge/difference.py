"""Difference: how far a model's answers are from the reference's, without labels.

With few examples it tells models apart that have the same quality, and it varies less from sample to sample.
"""

from __future__ import annotations

from .. import metrics
from ..kind import find_facet
from ..task import Task
from .answering import Logits


def difference(task: Task, reference: Logits, outputs: Logits) -> dict[str, float]:
    """Of outputs on the same examples, (examples, ...): `kl` in nats an example where these are logits.

    A kind whose outputs are something else has a function of this name in its `judging.py`.
    """
    own = getattr(find_facet(task.kind, "judging"), "difference", None)
    if own is not None:
        found: dict[str, float] = own(task, reference, outputs)
        return found
    if not task.labels or reference.ndim != 2 or outputs.ndim != 2:
        return {}
    classes = None if reference.shape == outputs.shape else len(task.labels)
    return {"kl": float(metrics.kl_divergence(reference[:, :classes], outputs[:, :classes]).mean())}
