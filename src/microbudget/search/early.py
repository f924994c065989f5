"""What is delivered before there is a reference: a model that learns from the data alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BadInput, Failed
from ..judge import memory, time_one
from ..judge.budget import Budget, Measurement
from ..judge.judging import Judging, Opening, judging_of
from ..judge.measuring import Measured, cost_fields, measurement
from ..machine.interrupts import deferred_interrupts
from ..machine.processor import thread_count
from ..methods import Context
from ..model import Model
from ..recipes.build import build
from ..recipes.recipe import Recipe
from ..runs.candidates import Candidate
from ..runs.choice import best
from ..runs.run import Run
from ..ship import deliver, shipped_bytes
from ..units import format_bytes

MOST = 1000  # validation examples by which it is chosen


def deliver_early(
    run: Run, given: Model, recipes: Sequence[Recipe], context: Context, budget: Budget, seconds: float
) -> Candidate | None:
    """Build the recipes, which need no reference, and deliver each that is better than those before; the last of them.

    It is not compared with anything: it has no verdict, and the card says so. The models stay in the run, where they
    are candidates later. seconds: of the timing, at most.
    """
    judging, found, chosen = judging_of(context.task), list[Candidate](), None
    for recipe in recipes:
        try:
            model = build(given, recipe, context, run.models)[-1]
            row = Candidate(str(recipe), model.fingerprint, "", measurement=_measured(judging, model, context, seconds))
        except (Failed, BadInput) as error:  # as a candidate it becomes a row with the reason
            context.progress.say(f"{recipe.short()}: {error}")
            continue
        found.append(row)
        if best(found, Budget(goal="quality")) is row:
            with deferred_interrupts():
                deliver(run, model, row, budget, context.task)
            chosen = row
            context.progress.say(f"delivered {recipe.short()}: {_summary(row)}, as long as there is nothing better")
    return chosen


def _summary(row: Candidate) -> str:
    measured = row.measurement
    assert measured is not None
    return (
        f"{format_bytes(measured.size_bytes)}, {measured.metric} {measured.quality:.4f} on validation, not compared yet"
    )


def _measured(judging: Judging, model: Model, context: Context, seconds: float) -> Measurement:
    examples, threads = context.task.examples("validation")[:MOST], thread_count(context.threads)
    sample = judging.timing_input(model, examples)
    with judging.opened(model, None, Opening(threads)) as worker:
        weight = memory.of_model(worker, sample)
        timing = time_one(worker, sample, seconds=seconds)
        quality = judging.quality(model, examples, worker)
        costs = cost_fields(judging, Measured(model, worker, sample, timing, weight, threads, seconds))
    costs["size_bytes"] = shipped_bytes(model, context.task)
    return measurement(context.task, quality, costs, {})
