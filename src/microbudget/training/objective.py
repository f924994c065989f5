"""Objective: the data, the loss and the validation of a training, and what the training reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .order import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Parameter

Batch = Mapping[str, "Tensor"]
Scores = dict[str, float]
Group = tuple[Sequence["Parameter"], float]  # parameters, and the factor on their learning rate


@dataclass(frozen=True)
class Objective:
    """What is learnt. A row is the number of an example, from 0.

    batch: rows and epoch (from 0) -> the tensors of a batch, on the CPU. loss: network and batch -> the mean loss of
    its rows, a scalar. validate: network -> scores on validation, of which `decides` is read; None where there is no
    validation: all epochs run and the last weights are kept. weight: what a batch counts for where a step's batch goes
    through in parts; by default its rows. decides: the score by which an epoch is kept, lower is better. sizes:
    (examples,), by which batches are made of examples of about one size, where padding would cost time; None: any.
    """

    examples: int
    batch: Callable[[Rows, int], Batch]
    loss: Callable[[Any, Batch], Tensor]
    validate: Callable[[Any], Scores] | None = None
    weight: Callable[[Batch], float] | None = None
    decides: str = "loss"
    sizes: NDArray[Any] | None = None


@dataclass(frozen=True)
class Trained:
    """What the training reported; the network itself holds the weights that were kept."""

    epochs: list[dict[str, Any]] = field(default_factory=list)  # epoch, train_loss, validation_loss, validation_...
    before: Scores | None = None  # on validation, of the network as it was given
    kept: int | None = None  # number of the epoch that was kept, from 1; 0: none was better than the network as given
    stopped: str = ""  # why it ended

    def as_dict(self) -> dict[str, Any]:
        """For a record's history: what the report draws."""
        return {"epochs": self.epochs, "before": self.before, "kept": self.kept, "stopped": self.stopped}
