"""Earlier rows: what other commands left in the run is chosen from as well."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Model
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runs.run import Run
from .evaluation import Evaluation


def earlier_rows(evaluation: Evaluation, run: Run, given: Model, recipes: Sequence[Recipe]) -> list[Candidate]:
    """The rows of earlier commands, but for those of `recipes`, under the limit of now. Nothing further is read.

    A row counts that was compared with the same reference, and whose model is there.
    """
    own = {evaluation.planned(given, recipe).fingerprint for recipe in recipes}
    reference = evaluation.reference.model.fingerprint
    return [
        evaluation.judged_as_read(row)
        for row in run.candidates()
        if row.measurement is not None
        and row.fingerprint not in own
        and row.speed.get("reference") == reference
        and (run.folder / row.path).exists()
    ]
