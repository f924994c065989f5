"""The losses of distillation: soft labels at a temperature, and the distance of features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each row: logits (rows, classes) -> (rows,).

    T^2 keeps the gradients' size the same for all T. Hinton et al. 2015, section 2.
    """
    q = functional.log_softmax(student.float() / temperature, dim=-1)
    p = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def mixed_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, hard: float) -> Tensor:
    """Soft labels with weight 1 - hard, true labels with weight hard, the mean over the rows.

    labels: (rows,), -1 where there is none: such a row has the soft part alone.
    """
    soft = soft_label_loss(student, teacher, temperature)
    true = functional.cross_entropy(student.float(), labels, ignore_index=-1, reduction="none")
    return ((1 - hard) * soft + hard * true).mean()


def feature_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance in the teacher's standard deviations: (rows, width) of both -> a scalar.

    Romero et al. 2015 (FitNets), on the features before the last layer.
    """
    return functional.mse_loss(projected.float(), teacher) / teacher.var().clamp_min(1e-12)
